"""The detector for blocking calls: blames streamflow, spares tests and what runs inline on purpose."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.blocking import ROOT, BlockingError


def sleep_as_if_in(path: str, call: str = "time.sleep(0.001)") -> None:
    """Run a call with a stack frame that claims to come from a file of this repository."""
    exec(compile(f"import time\ndef step():\n    {call}\nstep()", f"{ROOT}/{path}", "exec"), {"given": given})


def given() -> None:
    """Block as a user's function would, when streamflow calls it."""
    time.sleep(0.001)


@pytest.mark.parametrize("path", ["streamflow/runtime/task.py", "connectors/streamflow_nats/source.py"])
async def test_streamflow_is_blamed(no_blocking_calls, path):
    with pytest.raises(BlockingError, match=r"time\.sleep"):
        sleep_as_if_in(path)
    assert no_blocking_calls.violations == [f"time.sleep called by step ({path}:3)"]
    no_blocking_calls.violations.clear()


async def test_the_users_own_code_is_not_blamed():
    sleep_as_if_in("streamflow/runtime/task.py", "given()")


async def test_the_store_may_run_inline(tmp_path: Path):
    sleep_as_if_in("streamflow/state/sqlite.py")


async def test_tests_may_block(tmp_path: Path):
    time.sleep(0.001)
    (tmp_path / "file").write_text("text")


def test_without_a_running_loop_nothing_blocks():
    sleep_as_if_in("streamflow/runtime/task.py")


@pytest.mark.allow_blocking("shows that the marker lifts the detector")
async def test_the_marker_lifts_the_detector():
    sleep_as_if_in("streamflow/runtime/task.py")
