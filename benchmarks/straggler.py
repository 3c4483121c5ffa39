"""One slow call among fast ones: who waits for it at the next step, and who at the sink, whose epoch it holds up."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import streamflow as sf

CALL_SECONDS = 0.005
SLOW_SECONDS = 2.0
LATE_SECONDS = SLOW_SECONDS / 2
RECORDS = 1_000
SLOW = RECORDS // 2
EVERY_SECONDS = 0.002
"""A record comes so often: together they take as long as the slow call."""


class Delays(NamedTuple):
    """How many records before the slow one, and behind it, came late, and the largest delay of the former."""

    before: int
    behind: int
    worst_before: float


async def called(value: int) -> int:
    await asyncio.sleep(SLOW_SECONDS if value == SLOW else CALL_SECONDS)
    return value


def delays(sent: dict[int, float], came: dict[int, float]) -> Delays:
    late = {value: came[value] - sent[value] for value in sent}
    before = [late[value] for value in range(SLOW)]
    behind = [late[value] for value in range(SLOW + 1, RECORDS)]
    return Delays(sum(d > LATE_SECONDS for d in before), sum(d > LATE_SECONDS for d in behind), max(before))


async def run(*, burst: bool, **options: Any) -> tuple[Delays, Delays]:
    """Delays at the next step and at the sink."""
    sent: dict[int, float] = {}
    passed: dict[int, float] = {}
    arrived: dict[int, float] = {}

    def note(value: int) -> int:
        passed[value] = time.perf_counter()
        return value

    with tempfile.TemporaryDirectory() as folder:
        source: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int)
        sink: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)
        flow = sf.Flow("straggler", state=Path(folder) / "straggler.db")
        flow.source(source).map(called, concurrency=100, **options).map(note).to(sink)
        async with flow.running():
            for value in range(RECORDS):
                sent[value] = time.perf_counter()
                source.send(value)
                if not burst:
                    _look(sink, arrived)
                    await asyncio.sleep(EVERY_SECONDS)
            while _look(sink, arrived) < RECORDS:  # noqa: ASYNC110 - a look now and then disturbs less than a listener
                await asyncio.sleep(0.001)
    return delays(sent, passed), delays(sent, arrived)


def _look(sink: sf.MemoryTopic[int], arrived: dict[int, float]) -> int:
    if len(sink) > len(arrived):
        now = time.perf_counter()
        for value in sink.values[len(arrived) :]:
            arrived[value] = now
    return len(arrived)


def main() -> None:
    print(
        f"one call of {SLOW_SECONDS:g} s among {RECORDS:,} of {CALL_SECONDS * 1000:g} ms: records over "
        f"{LATE_SECONDS:g} s late, of {SLOW} before it and {RECORDS - SLOW - 1} behind it (worst before it)"
    )
    for burst in (False, True):
        how = "all at once" if burst else f"one in {EVERY_SECONDS * 1000:g} ms"
        for name, options in (("ordered", {}), ("detached", {"detached": True})):
            step, sink = asyncio.run(run(burst=burst, **options))
            for where, found in (("next step", step), ("sink", sink)):
                print(
                    f"  {how:<12} {name:<9} {where:<10} {found.before:>4} and {found.behind:>4}   "
                    f"{found.worst_before:.2f} s"
                )


if __name__ == "__main__":
    main()
