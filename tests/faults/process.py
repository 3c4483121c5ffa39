"""The flow in a process of its own, started again after each death, with a diary of what it did."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.faults.flow import FlowSetup, Trap, live

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 60.0

# One process imports everything, once; each life of a flow is a fork of it, alive after 10 ms instead of 400.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        # what is not there, or not installed, is left out
        "tests.faults.across.flow",
        "tests.faults.kafka.flow",
        "aiokafka",
        "streamflow_kafka.sink",
        "streamflow_kafka.source",
        "tests.faults.market",
        "tests.faults.nats.flow",
        "tests.faults.rabbitmq.flow",
        "nats",
        "streamflow.flow.running",
        "streamflow_nats.atomic",
        "streamflow_nats.chain",
        "streamflow_nats.client",
        "streamflow_nats.msgid",
        "streamflow_nats.positional",
        "streamflow_nats.queue",
        "streamflow_rabbitmq.client",
        "streamflow_rabbitmq.confirming",
        "streamflow_rabbitmq.source",
        "streamflow_rabbitmq.transactional",
        "tests.faults.rabbitmq.stream_flow",
        "aiormq",
        "streamflow_rabbitmq.streams.sink",
        "streamflow_rabbitmq.streams.source",
        "streamflow_rabbitmq.streams.super_sink",
    ]
)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


class FlowProcess:
    """A flow and its lives.

    GUARANTEE: a process that is not wanted any more is dead after `stop`, and also when the tests are killed.

    Args:
        setup: The flow.
        folder: Where diary and log go.
        name: Distinguishes it from other flows in the folder.
    """

    def __init__(self, setup: FlowSetup, folder: Path, name: str = "flow") -> None:
        self.setup = setup
        self.lives = 0
        self.kills = 0
        self.log = folder / f"{name}.log"
        self._diary = folder / f"{name}.diary"
        self._read_to = 0
        self._events: list[dict[str, Any]] = []
        self._process: ForkServerProcess | None = None

    def start(self, trap: Trap | None = None, **changed: Any) -> None:
        """Begins a life.

        Args:
            trap: What is to happen at a crash point.
            changed: What is different in this life's `FlowSetup`.
        """
        assert not self.alive, "one life at a time"
        self.lives += 1
        setup = replace(self.setup, **changed)
        self._process = _context.Process(target=live, args=(setup, trap, self.lives, self._diary, self.log))
        self._process.start()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.exitcode is None

    @property
    def pid(self) -> int:
        assert self._process is not None and self._process.pid is not None
        return self._process.pid

    def events(self, what: str = "", *, life: int = 0) -> list[dict[str, Any]]:
        """What stands in the diary, of one life or all."""
        if self._diary.exists():
            with self._diary.open("rb") as diary:
                diary.seek(self._read_to)
                for line in diary:
                    if line.endswith(b"\n"):
                        self._read_to += len(line)
                        self._events.append(json.loads(line))
        return [event for event in self._events if what in ("", event["what"]) and life in (0, event["life"])]

    def said(self, what: str) -> bool:
        """Whether this life has written such a line."""
        return bool(self.events(what, life=self.lives))

    def kill(self) -> None:
        """SIGKILL; asserts that it hits a process that is alive."""
        assert self.alive, f"the flow ended by itself: {self.account()}"
        assert self._process is not None
        self._process.kill()
        self._process.join()
        self._was_killed()

    async def killed(self, trap: Trap) -> None:
        """Waits until a trap has killed the process; asserts that it was the trap."""
        await self.until(lambda: not self.alive, f"the kill at {trap.point} #{trap.nth}")
        self._was_killed()
        assert self.said("trapped"), f"killed by somebody else: {self.account()}"

    async def frozen(self) -> None:
        """Waits until a trap has frozen the process."""
        await self.until(lambda: _state(self.pid) == "T" or not self.alive, "the freeze")
        assert self.alive and self.said("trapped"), f"not frozen: {self.account()}"

    async def held(self, gate: Path) -> None:
        """Closes a gate and waits until the flow stands before it; removing the file lets it go on."""
        before = len(self.events("trapped"))
        gate.touch()
        await self.until(lambda: len(self.events("trapped")) > before, f"the flow at {gate}")

    def freeze(self) -> None:
        """SIGSTOP, at once."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen process go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def ended(self) -> dict[str, Any]:
        """Waits until the flow has ended by itself; returns its last words."""
        await self.until(lambda: not self.alive, "the flow's end")
        words = self.events("ended", life=self.lives)
        assert len(words) == 1, f"it did not end by itself: {self.account()}"
        return words[0]

    def terminate(self) -> None:
        """SIGTERM: asks for a clean stop."""
        os.kill(self.pid, signal.SIGTERM)

    async def stop_cleanly(self) -> None:
        """Asks for a clean stop and waits for its end."""
        await self.until(lambda: self.said("listening") or not self.alive, "the start")
        self.terminate()
        words = await self.ended()
        assert words["error"] == "", self.account()

    def stop(self) -> None:
        """Ends whatever is left."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Waits for something, and says what did not happen."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}: {self.account()}"
            await asyncio.sleep(0.01)

    def account(self) -> str:
        """The end of diary and log, for messages."""
        log = self.log.read_text()[-1500:] if self.log.exists() else ""
        return f"life {self.lives} of {self.setup}\n{self.events(life=self.lives)[-8:]}\n{log}"

    def _was_killed(self) -> None:
        assert self._process is not None
        assert self._process.exitcode == -signal.SIGKILL, self.account()
        self.kills += 1


def copy_state(state: Path, target: Path) -> Path:
    """Copies a store as another process would find it: file, WAL and witness; the lock stays behind."""
    target.mkdir()
    for suffix in ("", "-wal", "-shm", ".epoch"):
        found = state.with_name(state.name + suffix)
        if found.exists():
            shutil.copy2(found, target / found.name)
    return target / state.name


def _state(pid: int) -> str:
    """The kernel's letter for what a process does: R, S, T (stopped) ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""
