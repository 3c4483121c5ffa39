"""Two processes on one state file, and state files from the past."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamflow.state.reader import describe
from tests.unit.state.given import MANIFEST, expected_accounts, loaded, new_store

ROOT = Path(__file__).parents[3]
FLOW = """
import streamflow as sf

flow = sf.Flow("words", state="words.db")
lines = flow.source(sf.lines("in.txt", follow=True), name="lines")
counts = lines.key_by(lambda word: word).count(name="counts")
counts.map(lambda pair: {"word": pair[0], "count": pair[1]}, name="row").to(sf.jsonl("out.jsonl"), name="out")
"""


class Instance:
    """A store in another process."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.store.instance", str(path)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, command: str) -> str:
        """Tells it to do something; returns its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def instances(tmp_path) -> Iterator[tuple[Instance, Instance]]:
    found = (Instance(tmp_path / "orders.db"), Instance(tmp_path / "orders.db"))
    yield found
    for one in found:
        one.end()


def test_the_second_instance_is_refused_until_the_first_is_dead(instances, tmp_path):
    first, second = instances
    assert first("open") == "epoch 0 generation 1"
    assert first("commit 1") == "done"
    answer = second("open")
    assert answer.startswith(f"StateLockedError: {tmp_path / 'orders.db'} is in use by process {first.process.pid} on ")
    assert answer.endswith("| Stop that process first, or give this flow a state file of its own.")
    assert first("commit 2") == "done"
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    third = Instance(tmp_path / "orders.db")
    try:
        assert third("open") == "epoch 2 generation 2"
    finally:
        third.end()


@pytest.mark.parametrize(
    "last", ["commit 3", *(pytest.param(one, marks=pytest.mark.long) for one in ("note", "spill 3", "fold"))]
)
async def test_without_the_lock_the_generation_keeps_the_older_one_out(instances, tmp_path, last):
    zombie, heir = instances
    assert zombie("open") == "epoch 0 generation 1"
    for epoch in (1, 2):
        assert zombie(f"commit {epoch}") == "done"
    (tmp_path / "orders.db.lock").unlink()
    assert heir("open") == "epoch 2 generation 2"
    # also while the heir has not committed anything: the epoch alone would not tell them apart
    answer = zombie(last)
    assert answer.startswith("Fenced: ") and "generation" in answer, answer
    assert answer.endswith("| Another process has taken over this state file; let that one run.")
    assert heir("commit 3") == "done"
    for again in (last, "commit 3", "commit 4"):
        assert zombie(again).startswith("Fenced: ")
    assert heir("commit 4") == "done"
    assert zombie("close") == "done"
    assert heir("commit 5") == "done"
    assert heir("close") == "done"
    store = new_store(tmp_path / "orders.db")
    assert (await store.open(MANIFEST)).epoch == 5
    assert (await loaded(store)).plain("accounts") == expected_accounts(5)
    await store.close()


class Flows:
    """A flow that follows a file, run from the command line, in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "words_flow.py").write_text(FLOW)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from streamflow.cli import main; main()", "run", "words_flow", *options]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=self.folder, stdout=pipe, stderr=pipe, text=True)
        self._started.append(process)
        return process

    def refused(self, process: subprocess.Popen[str]) -> list[str]:
        """The lines of a process that ends with the exit code for state: message, perhaps the place, way out."""
        _, told = process.communicate(timeout=30)
        assert process.returncode == 5, told
        lines = [line for line in told.splitlines() if " warning: " not in line]
        assert 2 <= len(lines) <= 3, told
        assert lines[0].startswith("error: ") and lines[-1].startswith(" hint: ")
        return lines

    def write(self, *words: str) -> None:
        with (self.folder / "in.txt").open("a") as file:
            file.write("".join(f"{word}\n" for word in words))

    def rows(self) -> list[tuple[str, int]]:
        path = self.folder / "out.jsonl"
        if not path.exists():
            return []
        return [(row["word"], row["count"]) for row in map(json.loads, path.read_text().splitlines())]

    def generation(self) -> int:
        return describe(self.folder / "words.db").generation

    def wait_for(self, number: int, what: Callable[[], int] | None = None) -> None:
        """Waits for so many rows, or until something else has got so far."""
        reached = what or (lambda: len(self.rows()))
        deadline = time.monotonic() + 30
        while reached() < number:
            assert time.monotonic() < deadline, f"{reached()} of {number} after 30 s"
            time.sleep(0.02)

    def stop(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0, told

    def end(self) -> None:
        for process in self._started:
            if process.returncode is None:
                process.kill()
                process.communicate()


@pytest.fixture
def flows(tmp_path) -> Iterator[Flows]:
    made = Flows(tmp_path)
    made.write("a", "b", "a")
    yield made
    made.end()


def test_a_second_flow_is_refused_in_three_lines(flows):
    first = flows.start()
    flows.wait_for(3)
    lines = flows.refused(flows.start())
    assert f"words.db is in use by process {first.pid}" in lines[0]
    flows.write("b")
    flows.wait_for(4)
    flows.stop(first)
    assert flows.rows() == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_a_flow_that_lost_its_lock_gives_way_and_writes_nothing(flows):
    zombie = flows.start()
    flows.wait_for(3)
    zombie.send_signal(signal.SIGSTOP)
    (flows.folder / "words.db.lock").unlink()
    heir = flows.start()
    flows.wait_for(2, flows.generation)
    flows.write("b", "c")
    zombie.send_signal(signal.SIGCONT)
    # both read the new lines; the zombie's COMMIT is refused, and so is its restart, since the heir holds the lock
    assert f"words.db is in use by process {heir.pid}" in flows.refused(zombie)[0]
    flows.write("a")
    flows.wait_for(6)
    flows.write("c")
    flows.wait_for(7)
    flows.stop(heir)
    assert flows.rows() == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("c", 1), ("a", 3), ("c", 2)]


def test_a_restored_backup_is_refused_by_the_witness_and_by_the_sink(flows):
    first = flows.start()
    flows.wait_for(3)
    flows.stop(first)
    shutil.copy(flows.folder / "words.db", flows.folder / "backup.db")
    flows.write("b", "c")
    second = flows.start()
    flows.wait_for(5)
    flows.stop(second)
    before = flows.rows()
    shutil.copy(flows.folder / "backup.db", flows.folder / "words.db")
    assert "words.db is at epoch" in flows.refused(flows.start())[0]
    assert "reset" in flows.refused(flows.start("--accept-missing"))[-1], "the option is for a missing witness only"
    (flows.folder / "words.db.epoch").unlink()
    lines = flows.refused(flows.start())
    assert "words.db.epoch is missing" in lines[0] and "--accept-missing" in lines[-1]
    # whoever insists meets the second line of defence: the file knows that it holds more
    assert "out" in flows.refused(flows.start("--accept-missing"))[0]
    assert flows.rows() == before


@pytest.mark.long
def test_a_missing_witness_is_accepted_by_those_who_know(flows):
    first = flows.start()
    flows.wait_for(3)
    flows.stop(first)
    (flows.folder / "words.db.epoch").unlink()
    assert "--accept-missing" in flows.refused(flows.start())[-1]
    flows.write("c")
    second = flows.start("--accept-missing")
    flows.wait_for(4)
    flows.stop(second)
    third = flows.start()
    flows.write("c")
    flows.wait_for(5)
    flows.stop(third)
    assert flows.rows() == [("a", 1), ("b", 1), ("a", 2), ("c", 1), ("c", 2)]
