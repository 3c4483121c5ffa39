"""The n-th call fails, for every n: the error says so, nothing acknowledged is lost, the next start is exact."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from streamflow.errors import CheckpointError, StateError
from tests.faults.store.disk import Cut, Disk, Mark, Recorder
from tests.faults.store.life import Life, open_and_read
from tests.faults.store.trials import folder_in_memory, go_on, lay_out, small_limits
from tests.faults.store.vfs import (
    CANTOPEN,
    FULL,
    IOERR_DELETE,
    IOERR_FSYNC,
    IOERR_READ,
    IOERR_TRUNCATE,
    IOERR_WRITE,
    OK,
    Call,
    watched,
)

FAULTS = {
    "disk full": ("write", FULL),
    "write error": ("write", IOERR_WRITE),
    "sync error": ("sync", IOERR_FSYNC),
    "read error": ("read", IOERR_READ),
    "truncate error": ("truncate", IOERR_TRUNCATE),
    "delete error": ("delete", IOERR_DELETE),
    "open error": ("open", CANTOPEN),
}


@dataclass
class NthCall:
    """Fails the n-th call of one kind, or all from the n-th on.

    Args:
        kind: The kind of call.
        code: The error it gives.
        n: Which call, from 0; -1 for none, to count them.
        for_good: Whether all later calls of the kind fail too.
    """

    kind: str
    code: int
    n: int = -1
    for_good: bool = False
    seen: int = 0
    failed: list[Call] = field(default_factory=list)
    healed: bool = False

    def __call__(self, call: Call) -> int:
        if call.kind != self.kind or self.healed:
            return OK
        number, self.seen = self.seen, self.seen + 1
        if self.n < 0 or (number < self.n if self.for_good else number != self.n):
            return OK
        self.failed.append(call)
        return self.code


async def script(life: Life, killing: Callable[[], None]) -> None:
    """A whole life: making, commits, spill, fold, note, kill, recovery, close, reopening."""
    await life.open()
    for _ in range(3):
        await life.commit()
    await life.spill()
    await life.spill()
    await life.commit()
    await life.fold(2)
    await life.note()
    await life.commit()
    killing()
    await life.open()
    await life.commit()
    await life.fold()
    await life.note()
    await life.commit()
    await life.close()
    await life.open()
    await life.commit()
    await life.close()


@dataclass
class Trial:
    """One run of the script with one fault, and the events of its disk."""

    life: Life
    fault: NthCall
    recorder: Recorder
    error: CheckpointError | StateError | None = None


async def run(folder: Path, fault: NthCall) -> Trial:
    recorder = Recorder(fault)
    life = Life(folder / "orders.db", random.Random(5), told=recorder.mark)
    trial = Trial(life, fault, recorder)
    with small_limits(), watched(recorder), recorder.listening(folder):
        try:
            await script(life, life.kill)
        except (CheckpointError, StateError) as error:
            trial.error = error
            await _refuses_to_go_on(life)
        # what a program does that has stopped: it lets go of the file, and the fault may still be there
        assert life.store is not None
        await life.store.close()
        fault.healed = True
    return trial


async def _refuses_to_go_on(life: Life) -> None:
    """After an error the same store object commits nothing any more, whatever the disk does meanwhile."""
    assert life.store is not None
    under_way = life.under_way
    with pytest.raises((CheckpointError, StateError)):
        await life.commit()
    life.under_way = under_way


async def calls(fault: str) -> int:
    """How many calls of its kind a life without faults makes."""
    kind, code = FAULTS[fault]
    counting = NthCall(kind, code)
    with folder_in_memory() as folder:
        trial = await run(folder, counting)
        assert trial.error is None
    return counting.seen


async def trial_of(fault: str, n: int, *, for_good: bool) -> str:
    """Runs one trial; returns what became of the fault."""
    kind, code = FAULTS[fault]
    with folder_in_memory() as folder:
        trial = await run(folder, NthCall(kind, code, n, for_good))
        assert trial.fault.failed, f"{fault} {n}: the call was never made"
        path = trial.life.path
        found = await open_and_read(path)
        assert found in trial.life.may_hold(), f"{fault} at call {n}, for good: {for_good}"
        if n % 3 == 0:
            await go_on(path, n)
    if trial.error is None:
        return "done without"
    assert trial.error.hint, trial.error
    assert str(path) in str(trial.error), trial.error
    if found != trial.life.content:
        return "told, and stored all the same"
    return f"told by {type(trial.error).__name__}"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.timeout(300)
async def test_any_call_may_fail(fault, long_run):
    total = await calls(fault)
    assert total > 2
    found: Counter[str] = Counter()
    every = 1 if long_run else 17
    for n in range(0, total, every):
        for for_good in (False, True):
            found[await trial_of(fault, n, for_good=for_good)] += 1
    print(f"{fault:<16} {total} calls {dict(found)}")
    assert found.total() == 2 * len(range(0, total, every))
    assert not found["told by CorruptStateError"], "a disk that does not answer is no reason to restore a backup"
    if fault not in ("delete error", "truncate error"):
        assert found["told by CheckpointError"] + found["told by StateError"] > found.total() / 4


async def test_what_a_failed_sync_lost_is_not_built_upon(long_run):
    """The kernel shows what it could not write, and says so once: a later sync of the same file would not write it."""
    total = await calls("sync error")
    told = cuts = 0
    for n in range(0, total, 1 if long_run else 4):
        with folder_in_memory() as folder:
            trial = await run(folder, NthCall("sync", IOERR_FSYNC, n))
            life, recorder = trial.life, trial.recorder
            told += trial.error is not None
            with small_limits(), watched(recorder), recorder.listening(folder):
                await life.take_over()
                await life.commit()
                await life.commit()
                life.kill()
            disk, rng = Disk(), random.Random(n)
            for event in recorder.events:
                if not isinstance(event, Mark):
                    disk.apply(event)
            for kept in (0.0, 0.5):
                image = disk.after_cut(Cut(kept, 4096, old_versions=False, noise=False), rng)
                with folder_in_memory() as elsewhere:
                    found = await open_and_read(lay_out(image, elsewhere))
                assert found == life.content, f"sync {n} failed, and a power cut after the next start lost epochs"
                cuts += 1
    assert told > (20 if long_run else 3)
    print(f"failed syncs: {told} told, {cuts} power cuts after the next start")
