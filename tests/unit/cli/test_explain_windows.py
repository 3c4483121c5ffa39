"""What `explain` and `state` say of event time and windows."""

from __future__ import annotations

import json

FLOW = """
import streamflow as sf

flow = sf.Flow("orders", state="orders.db")
orders = flow.source(sf.lines("in.txt"), name="orders", time=lambda line: int(line) * 1000, lateness="5s", idle=None)
keyed = orders.key_by(lambda line: "k")
counts = keyed.window(sf.sliding("1m", "10s"), allowed_lateness="1h").count(name="per_minute")
counts.map(lambda row: str(row.value), name="text").to(sf.lines("out.txt"))
counts.late.to(sf.lines("late.txt"))
"""


def test_explain_names_windows_event_time_and_late_records(project):
    module = project.write(FLOW)
    result = project("explain", module)
    assert result.exit_code == 0, result.stderr
    for words in ("event time, lateness 5s, idle never", "sliding 1m every 10s, allowed lateness 1h", "late"):
        assert words in result.stdout


def test_state_tells_how_far_event_time_is(project):
    module = project.write(FLOW)
    project.path("in.txt").write_text("100\n90\n")
    assert project("run", module).exit_code == 0
    result = project("state", module)
    assert "1970-01-01T00:01:40+00:00" in result.stdout
    answer = json.loads(project("state", module, "--json").stdout)
    assert answer["event_time"]["orders"]["@watermark"]["at"] == "1970-01-01T00:01:35+00:00"
    assert answer["event_time"]["orders"][""] == {"at": "1970-01-01T00:01:40+00:00", "idle": False}
