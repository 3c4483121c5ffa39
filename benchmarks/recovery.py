"""How soon a flow with a million keys of state is processing again, and what a key takes of memory.

Each start is a process of its own: from its start by the clock, imports included, to the first record that is counted
on top of what was stored, and durable. After a kill SQLite checks the whole file, indexes included.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import streamflow as sf
from benchmarks import states
from streamflow.codecs import JsonCodec
from streamflow.keys import PLAIN_SUB, canonical
from streamflow.operators.bind import BoundStage
from streamflow.runtime.process import own_collector
from streamflow.state.keyed import Table
from streamflow.state.store import Entry

KEYS: Final = 1_000_000
ROUNDS: Final = 3
GOAL_SECONDS: Final = 3.0
MEMORY_KEYS: Final = 300_000
LEFT_BEHIND: Final = 5_000
"""Records counted before a kill: the next start finds them in the log and in deltas."""


@dataclass
class Account:
    """What is kept of a user."""

    orders: int = 0
    amount: int = 0


@dataclass(slots=True)
class Slotted:
    """The same with slots."""

    orders: int = 0
    amount: int = 0


def stored(number: int) -> bytes:
    return b'{"orders":%d,"amount":%d}' % (number % 50, number)


def make_flow(path: Path) -> tuple[sf.Flow, sf.Stream[str], sf.Process[str, Account, int]]:
    flow = sf.Flow("recovery", state=path)
    users = flow.source(sf.MemoryTopic("users", value=str))

    @users.key_by(lambda user: user).process(state=Account)
    def accounts(ctx: sf.Context[str, Account], user: str) -> Iterator[int]:
        ctx.state.orders += 1
        yield ctx.state.orders

    accounts.to(sf.jsonl(path.with_name("orders.jsonl"), value=int))
    return flow, users, accounts


async def build(path: Path) -> None:
    """Makes the state file."""
    job = make_flow(path)[0].job()
    bound = [BoundStage(job.plan.graph, stage, lambda *_: None) for stage in job.plan.stages]
    await states.build(path, job.manifest(bound), KEYS, stored)


async def start(path: Path, spawned: float, *, die: bool) -> None:
    """Runs in a process of its own: starts the flow, counts a record, tells how long that took, then stops or dies."""
    imported = time.perf_counter()
    flow, users, accounts = make_flow(path)
    async with flow.running() as run:
        ready = time.perf_counter()
        key = states.key(int(imported * 1e6) % KEYS)
        before = await run.table(accounts).get(key)
        await run.push(users, key)
        counted = time.perf_counter()
        cpu = time.process_time()
        after = await run.table(accounts).get(key)
        assert before is not None and after is not None and after.orders == before.orders + 1, f"{before}, {after}"
        moments = {"imports": imported - spawned, "engine": ready - imported, "all": counted - spawned, "cpu": cpu}
        print(json.dumps(moments), flush=True)
        if die:
            await asyncio.gather(*(run.push(users, states.key(number)) for number in range(LEFT_BEHIND)))
            os.kill(os.getpid(), signal.SIGKILL)


def child(*arguments: str) -> tuple[dict[str, float], int]:
    """Runs this module in a new process; returns what it printed and how it ended."""
    command = [sys.executable, "-m", "benchmarks.recovery", *arguments, repr(time.perf_counter())]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    found: dict[str, float] = json.loads(done.stdout)
    return found, done.returncode


def starts(path: Path) -> None:
    """Starts after a clean stop and after a kill, in turns."""
    found: dict[str, list[dict[str, float]]] = {"a clean stop": [], "a kill": []}
    for _ in range(ROUNDS):
        for after, fate in (("a clean stop", "die"), ("a kill", "stop")):
            moments, code = child("start", str(path), fate)
            assert code == (-signal.SIGKILL if fate == "die" else 0), f"the flow ended with {code}"
            found[after].append(moments)
    for after, rounds in found.items():
        middle = {name: statistics.median(moments[name] for moments in rounds) for name in rounds[0]}
        spread = sorted(moments["all"] for moments in rounds)
        print(
            f"  after {after:<12} {middle['all']:5.2f} s ({spread[0]:.2f} - {spread[-1]:.2f}): imports "
            f"{middle['imports']:.2f}, engine to ready {middle['engine']:.2f}; CPU {middle['cpu']:.2f} s"
            f"; to reach: {GOAL_SECONDS:.0f} s"
        )


def plain_seconds() -> float:
    """What this machine takes, right now, for a dict of as many keys and values and nothing else."""
    began = time.process_time()
    kept = {states.key(number): Account(number % 50, number) for number in range(KEYS)}
    return (time.process_time() - began) if kept else 0.0


MEMORY: Final[dict[str, tuple[Any, Callable[[int], bytes]]]] = {
    "int": (int, lambda number: b"%d" % number),
    "dict of two fields": (dict[str, int], stored),
    "dataclass of two fields": (Account, stored),
    "the same with slots": (Slotted, stored),
}


def memory(name: str) -> float:
    """Bytes of a process's memory per key of a loaded table, the key's text of 11 letters included."""
    kind, value = MEMORY[name]
    table: Table[Any] = Table("accounts", JsonCodec[Any](kind))
    gc.disable()
    before = resident_bytes()
    for begin in range(0, MEMORY_KEYS, 256):
        numbers = range(begin, min(begin + 256, MEMORY_KEYS))
        table.install([Entry(canonical(states.key(number)), PLAIN_SUB, value(number)) for number in numbers])
    return (resident_bytes() - before) / MEMORY_KEYS


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    if len(sys.argv) > 2 and sys.argv[1] == "start":
        own_collector()
        asyncio.run(start(Path(sys.argv[2]), float(sys.argv[4]), die=sys.argv[3] == "die"))
        return
    if len(sys.argv) > 2 and sys.argv[1] == "memory":
        print(json.dumps({"bytes": memory(sys.argv[2])}))
        return
    print(f"{KEYS:,} keys of text, values a dataclass of two fields: start of the process to the first record counted")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recovery.db"
        asyncio.run(build(path))
        starts(path)
    print(f"  for comparison, a dict of as many keys and values in plain Python: CPU {plain_seconds():.2f} s")
    if sys.platform == "linux":
        each = ", ".join(f"{name} {child('memory', name)[0]['bytes']:.0f}" for name in MEMORY)
        print(f"memory, bytes per key: {each}")


if __name__ == "__main__":
    main()
