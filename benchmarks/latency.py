"""How long a record takes from source to sink, exactly-once, at a steady trickle; the same settings as under load."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import streamflow as sf

RECORDS = 2_000


async def trickle(rate: int, commit_min: str) -> tuple[float, float]:
    """Sends records at a rate and returns median and 99th percentile of their way, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        source: sf.MemoryTopic[float] = sf.MemoryTopic("sent", value=float)
        sink: sf.MemoryTopic[float] = sf.MemoryTopic("seen", value=float)
        flow = sf.Flow("latency", state=Path(folder) / "latency.db", settings=sf.Settings(commit_min=commit_min))
        flow.source(source).map(lambda sent: sent, name="same").to(sink)
        ways: list[float] = []

        class Watch(sf.Instrument):
            def published(self, sink_name: str, epoch: int, next_seq: int) -> None:
                now = time.perf_counter()
                ways.extend((now - sent) * 1000 for sent in sink.values[len(ways) :])

        async with flow.running(Watch()):
            started = time.perf_counter()
            for number in range(min(RECORDS, rate * 4)):
                source.send(time.perf_counter())
                await asyncio.sleep(max(0.0, started + (number + 1) / rate - time.perf_counter()))
            await asyncio.sleep(0.2)
        ways.sort()
        return ways[len(ways) // 2], ways[int(len(ways) * 0.99)]


def main() -> None:
    print("memory to memory, exactly-once, milliseconds from send to sink (p50 / p99)")
    for rate, commit_min in ((20, "10ms"), (1000, "10ms"), (1000, "0ms")):
        median, tail = asyncio.run(trickle(rate, commit_min))
        print(f"  {rate:>5} records/s, commit_min {commit_min:>4}: {median:6.1f} / {tail:6.1f}")


if __name__ == "__main__":
    main()
