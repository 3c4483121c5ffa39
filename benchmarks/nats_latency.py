"""How long a record takes from one NATS stream through a flow to another, at 1,000 records/s.

The records are sent and the results read by plain nats-py in a process of its own: its pauses are not the flow's.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import streamflow as sf
from benchmarks.streams import outsider
from streamflow.runtime.process import own_collector
from streamflow_nats import Nats
from streamflow_nats.settings import Mode
from tests.brokers import NatsServer

RATE: Final = 1_000
RECORDS: Final = 2_500
WARM_UP: Final = 500
"""First records, which are not counted: connections and caches are cold."""
ROUNDS: Final = 3
KEYS: Final = 100
GOAL_MS: Final = 15.0


@dataclass(frozen=True)
class Case:
    """How the flow publishes, how soon it may commit, and whether the streams take atomic batches."""

    mode: Mode | None
    """None for no flow at all: what way in and way out take by themselves."""
    commit_min: str = ""
    allow_atomic: bool = True

    def __str__(self) -> str:
        if self.mode is None:
            return "no flow: the stream IN itself"
        kind = "exactly-once " if self.mode == "chain" else "at-least-once"
        atomic = "" if self.allow_atomic else " without allow_atomic"
        return f"{kind} ({self.mode}{atomic}), commit_min {self.commit_min:>4}"


STRAIGHT: Final = Case(None)
CASES: Final[dict[str, tuple[Case, ...]]] = {
    "2m": (
        STRAIGHT,
        Case("msgid", "10ms"),
        Case("chain", "10ms"),
        Case("chain", "10ms", allow_atomic=False),
        Case("msgid", "0ms"),
        Case("chain", "0ms"),
    ),
    "always": (STRAIGHT, Case("msgid", "10ms"), Case("chain", "10ms")),
}
"""By the server's sync_interval."""


def make_flow(url: str, state: Path, case: Case) -> sf.Flow:
    assert case.mode is not None, "there is no flow"
    nats = Nats(url)
    flow = sf.Flow("latency", state=state, settings=sf.Settings(commit_min=case.commit_min))
    sent = flow.source(nats.stream("IN", value=float))
    last = sent.key_by(lambda stamp: int(stamp * RATE) % KEYS).aggregate(float, lambda _, stamp: stamp, name="last")
    last.map(lambda row: row[1], name="stamp").to(
        nats.stream("OUT", value=float, mode=case.mode), guarantee=None if case.mode == "chain" else "at_least_once"
    )
    return flow


async def send_and_read(url: str, out: str) -> list[float]:
    """Sends the time, a thousand times a second, and returns after how many milliseconds each came out."""
    ways: list[float] = []
    done = asyncio.Event()

    async def came(message: Any) -> None:
        ways.append((time.perf_counter() - float(message.data)) * 1000)
        if len(ways) == RECORDS:
            done.set()

    async with outsider(url) as hands:
        await hands.jetstream.subscribe(out.lower(), stream=out, ordered_consumer=True, cb=came)
        started = time.perf_counter()
        for number in range(RECORDS):
            await hands.client.publish("in", b"%.9f" % time.perf_counter())
            await asyncio.sleep(max(0.0, started + (number + 1) / RATE - time.perf_counter()))
        async with asyncio.timeout(20):
            await done.wait()
    return ways[WARM_UP:]


async def measure(server: NatsServer, case: Case) -> list[float]:
    """Runs the flow here and `send_and_read` in another process."""
    async with outsider(server.url) as hands:
        for stream in ("IN", "OUT"):
            await hands.make(stream, allow_atomic=case.allow_atomic)
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            if case.mode is not None:
                flow = make_flow(server.url, Path(folder) / "latency.db", case)
                await stack.enter_async_context(flow.running())
            out = "IN" if case.mode is None else "OUT"
            command = (sys.executable, "-m", "benchmarks.nats_latency", server.url, out)
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            answer, _ = await process.communicate()
    assert process.returncode == 0, f"the sender ended with {process.returncode}"
    found: list[float] = json.loads(answer)
    return sorted(found)


async def compare(sync: str) -> None:
    """Prints median and 99th percentile of each case; rounds are interleaved, the middle one is shown."""
    found: dict[Case, list[tuple[float, float]]] = {case: [] for case in CASES[sync]}
    with NatsServer(sync=sync) as server:
        for _ in range(ROUNDS):
            for case, seen in found.items():
                ways = await measure(server, case)
                seen.append((ways[len(ways) // 2], ways[int(len(ways) * 0.99)]))
    print(f"server with sync_interval {sync}")
    for case, seen in found.items():
        medians = sorted(median for median, _ in seen)
        tail = statistics.median(tail for _, tail in seen)
        goal = f"; to reach: p50 <= {GOAL_MS:.0f}" if case.mode == "chain" and case.commit_min == "10ms" else ""
        spread = f"p50 of the rounds {medians[0]:.1f} - {medians[-1]:.1f}"
        print(f"  {case}: {statistics.median(medians):6.1f} / {tail:6.1f}   ({spread}){goal}")


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1].startswith("nats://"):
        print(json.dumps(asyncio.run(send_and_read(sys.argv[1], sys.argv[2]))))
        return
    own_collector()
    print(
        f"NATS to NATS, {RATE:,} records/s, milliseconds from send to delivery (p50 / p99), median of {ROUNDS} rounds"
    )
    for sync in CASES:
        asyncio.run(compare(sync))


if __name__ == "__main__":
    main()
