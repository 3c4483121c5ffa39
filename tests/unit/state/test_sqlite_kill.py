"""SIGKILL at many instants: the next process finds exactly one epoch, the last told or the one after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", ["inline", "thread"])
@pytest.mark.timeout(600)
def test_a_kill_leaves_one_whole_epoch(tmp_path, kind, long_run):
    trials = 1500 if long_run else 120
    command = [sys.executable, "-m", "tests.unit.state.kill_driver", str(tmp_path), str(trials), "1", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reached = json.loads(done.stdout)
    assert reached["kills"] == trials
    assert reached["epochs"] > trials / 2
    for label in ("committed, never told", "last seen: commit.begun", "last seen: commit.written"):
        assert reached.get(label, 0) > 0, reached
    for label in ("last seen: commit.done", "last seen: fold.written", "last seen: epoch"):
        assert reached.get(label, 0) > 0, reached
