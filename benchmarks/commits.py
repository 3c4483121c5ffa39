"""What a commit costs: by the size of the state, beside a saturated loop, and in turns of the loop."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import streamflow as sf
from benchmarks import states
from benchmarks.turns import Turn, TurnLoop
from streamflow.codecs import JsonCodec, fingerprint
from streamflow.runtime.epoch import SLICE_ENTRIES
from streamflow.runtime.process import own_collector
from streamflow.state.keyed import Table
from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import Delta, Epoch, Manifest, TableShape

SIZES: Final = (100_000, 1_000_000, 5_000_000)
DIRTY: Final = 10_000
ROUNDS: Final = 15
RATIO_MAX: Final = 1.3
SATURATED_MS_MAX: Final = 50.0
TURN_MS_MAX: Final = 10.0
MANY: Final = 100_000
MANY_ROUNDS: Final = 5


@dataclass(slots=True)
class Account:
    """What is kept of a user."""

    orders: int = 0
    amount: int = 0


MANIFEST: Final = Manifest("bench", "1", tables={"accounts": TableShape("value", fingerprint(Account), "str")})


def stored(number: int) -> bytes:
    return b'{"orders":%d,"amount":%d}' % (number % 50, number)


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds by the clock, and of CPU in all threads."""

    wall: float
    cpu: float


async def timed(work: Awaitable[object]) -> Cost:
    began = time.perf_counter(), time.process_time()
    await work
    return Cost(1000 * (time.perf_counter() - began[0]), 1000 * (time.process_time() - began[1]))


class Shard:
    """A table in memory and the store behind it, as an engine has them."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self.costs: list[Cost] = []
        self.commits_ms: list[float] = []
        self.fold_us: list[float] = []
        self.slices_ms: list[float] = []
        self._store = SqliteStore(path)
        self._table = Table("accounts", JsonCodec[Account](Account), Account)
        self._table.in_place = True
        self._chosen = random.Random(size)
        self._epoch = 0

    async def open(self) -> None:
        await states.build(self._store.path, MANIFEST, self.size, stored)
        self._store = SqliteStore(self._store.path)
        await self._store.open(MANIFEST)
        await self._store.load(lambda name, entries: self._table.install(entries))
        self._table.installed()
        assert len(self._table) == self.size

    async def close(self) -> None:
        await self._store.close()

    async def round(self) -> None:
        """Touches keys, then seals, encodes and commits; what the touching takes does not count, nor does folding."""
        for number in self._chosen.sample(range(self.size), DIRTY):
            self._table.get(states.key(number)).orders += 1
        self.costs.append(await timed(self._commit()))
        began = time.perf_counter()
        while self._store.fold_debt_bytes:
            self.slices_ms.append((await timed(self._store.fold())).wall)
        self.fold_us.append(1e6 * (time.perf_counter() - began) / DIRTY)
        while await self._store.fold():
            pass  # the log is written back: no commit of the next round waits for that

    def middle(self) -> tuple[float, float]:
        """Medians of encode and commit: milliseconds by the clock, and of CPU."""
        return statistics.median(cost.wall for cost in self.costs), statistics.median(cost.cpu for cost in self.costs)

    async def _commit(self) -> None:
        self._table.seal()
        deltas: list[Delta] = []
        while (part := self._table.encode(SLICE_ENTRIES)) is not None:
            deltas.append(part)
        self._epoch += 1
        commit = await timed(self._store.commit(Epoch(self._epoch, self._epoch, self._epoch, deltas=deltas)))
        self.commits_ms.append(commit.wall)


async def flat(folder: Path, sizes: Sequence[int], rounds: int) -> list[Shard]:
    """Commits of the same size into states of different sizes, in turns."""
    async with AsyncExitStack() as stack:
        shards = [Shard(folder / f"{size}.db", size) for size in sizes]
        for shard in shards:
            await shard.open()
            stack.push_async_callback(shard.close)
        gc.collect()
        gc.freeze()
        for turn in range(rounds):
            for shard in shards[turn % len(shards) :] + shards[: turn % len(shards)]:
                await shard.round()
        gc.unfreeze()
    return shards


class TimedStore(SqliteStore):
    """Keeps what each commit and each slice of folding took."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.commits: list[tuple[int, float]] = []
        """Entries and milliseconds."""
        self.entries = 0
        self.came = asyncio.Event()

    async def commit(self, epoch: Epoch) -> None:
        took = await timed(super().commit(epoch))
        entries = sum(delta.count for delta in epoch.deltas)
        self.entries += entries
        self.commits.append((entries, took.wall))
        self.came.set()


class TimedFlow(sf.Flow):
    """A flow on a `TimedStore`."""

    store: TimedStore

    def job(self, *arguments: Any, **options: Any) -> Any:
        self.store = TimedStore(Path(self.state_path))
        return replace(super().job(*arguments, **options), store=self.store)


def make_flow(folder: Path, users: sf.MemoryTopic[str], commit_min: str = "10ms") -> TimedFlow:
    flow = TimedFlow("commits", state=folder / "commits.db", settings=sf.Settings(commit_min=commit_min))
    source = flow.source(users)
    source.key_by(lambda user: user).aggregate(int, lambda count, _: count + 1, name="counts").filter(
        lambda counted: counted[1] < 0, name="none"
    ).to(sf.MemoryTopic("out"))
    return flow


async def saturated(folder: Path, passes: int = 400) -> list[float]:
    """Sorted milliseconds of the commits of a flow whose loop never waits."""
    users: sf.MemoryTopic[str] = sf.MemoryTopic("users")
    names = [states.key(number) for number in range(DIRTY)]
    flow = make_flow(folder, users)
    for _ in range(passes):
        users.send_all(names)
    users.close_input()
    await flow.run()
    return sorted(milliseconds for entries, milliseconds in flow.store.commits if entries >= DIRTY // 2)


async def turns(folder: Path, loop: TurnLoop, rounds: int = MANY_ROUNDS) -> list[Turn]:
    """The loop's turns during epochs of very many changed keys, on a flow that has nothing else to do."""
    users: sf.MemoryTopic[str] = sf.MemoryTopic("users")
    names = [states.key(number) for number in range(MANY)]
    flow = make_flow(folder, users, commit_min="800ms")
    seen: list[Turn] = []
    async with flow.running():
        for _ in range(rounds):
            await asyncio.sleep(0.9)
            done = flow.store.entries
            users.send_all(names)
            loop.turns.clear()
            while flow.store.entries < done + MANY:
                flow.store.came.clear()
                await flow.store.came.wait()
            seen += loop.turns
    largest = max(entries for entries, _ in flow.store.commits)
    assert largest > MANY // 2, f"the largest epoch had {largest} entries"
    return seen


def turns_of_a_run(rounds: int = MANY_ROUNDS) -> list[Turn]:
    """Runs `turns` on a loop of its own."""
    loop = TurnLoop()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(turns(Path(folder), loop, rounds))


def main() -> None:
    own_collector()
    with tempfile.TemporaryDirectory() as folder:
        took = asyncio.run(saturated(Path(folder)))
    print(
        f"a flow that never waits, {DIRTY:,} keys: {len(took)} commits, p50 {statistics.median(took):.1f} ms, "
        f"p90 {took[int(len(took) * 0.9)]:.1f} ms, longest {took[-1]:.1f} ms; to reach: {SATURATED_MS_MAX:.0f} ms"
    )
    seen = turns_of_a_run()
    cpu, own, wall = (1000 * max(getattr(turn, name) for turn in seen) for name in ("cpu", "own", "wall"))
    print(
        f"epochs of {MANY:,} changed keys, longest turn of the loop: {cpu:.1f} ms of its own, {own:.1f} ms with all "
        f"threads, {wall:.1f} ms by the clock (other processes included); to reach: {TURN_MS_MAX:.0f} ms"
    )
    with tempfile.TemporaryDirectory() as folder:
        shards = asyncio.run(flat(Path(folder), SIZES, ROUNDS))
    print(f"{DIRTY:,} changed keys of as many: encode and commit, p50 of {ROUNDS} interleaved rounds")
    for shard in shards:
        wall, cpu = shard.middle()
        commit, fold = statistics.median(shard.commits_ms), statistics.median(shard.fold_us)
        print(
            f"  {shard.size:>9,} keys: {wall:5.1f} ms, CPU {cpu:5.1f} ms ({1000 * cpu / DIRTY:.1f} us per key), "
            f"of that the commit {commit:.1f} ms; fold {fold:5.1f} us per key, "
            f"its slices p50 {statistics.median(shard.slices_ms):.0f} ms, longest {max(shard.slices_ms):.0f} ms"
        )
    for unit, column in zip(("time", "CPU"), zip(*(shard.middle() for shard in shards), strict=True), strict=True):
        print(f"  largest against smallest, {unit}: {max(column) / min(column):.2f}; to reach: {RATIO_MAX}")


if __name__ == "__main__":
    main()
