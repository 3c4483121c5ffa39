"""What `explain` says of joins."""

from __future__ import annotations

FLOW = """
import streamflow as sf

flow = sf.Flow("orders", state="orders.db")
sides = [
    flow.source(sf.lines(f"{name}.txt"), name=name, time=lambda line: int(line) * 1000, idle=None)
    for name in ("orders", "payments")
]
orders, payments = (side.key_by(lambda line: "k") for side in sides)
paid = orders.join(payments, within=("5s", "15m"), how="left", name="paid")
paid.map(str, name="text").to(sf.lines("out.txt"))
paid.late.left.to(sf.lines("late.txt"))
for name, within in (("earlier", ("10m", "-5m")), ("later", ("-5m", "10m"))):
    orders.join(payments, within=within, name=name)
visits = orders.join(payments, window=sf.session("30m"), name="visits")
hours = orders.join(payments, window=sf.tumbling("1h"), name="hours")
hours.map(str, name="hour-text").to(sf.lines("hours.txt"))
"""


def test_explain_names_joins_what_they_keep_and_their_late_records(project):
    module = project.write(FLOW)
    result = project("explain", module)
    assert result.exit_code == 0, result.stderr
    for words in (
        "left join within 5s before and 15m after, keeps left records for 15m and right ones for 5s",
        "inner join 10m to 5m before, keeps left records for 0ms and right ones for 10m",
        "inner join 5m to 10m after, keeps left records for 10m and right ones for 0ms",
        "inner join in windows session gap 30m, keeps records until their last window ends",
        "inner join in windows tumbling 1h, keeps records until their last window ends",
        "state 'paid': map of str or str per key",
        "late left",
    ):
        assert words in result.stdout
