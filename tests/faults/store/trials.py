"""Trials: a recorded life, images of its disk, and what the real store makes of each."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest import mock

from streamflow.errors import EpochWentBack, StateError
from streamflow.state import commit, fold, wal
from streamflow.state.sqlite import SqliteStore
from tests.faults.store.disk import Cut, Disk, Mark, Recorder
from tests.faults.store.life import Content, Life, open_and_read
from tests.faults.store.vfs import Call, watched

MEMORY: Final = Path("/dev/shm")
"""Where folders in memory are: thousands of trials need no real disk, since the images stand for it."""


GO_ON_EVERY: Final = 8
"""Of so many images one is not only read but lived on with."""


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A temporary folder, in memory where the machine has such a place."""
    made = Path(tempfile.mkdtemp(prefix="streamflow-store-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def small_limits() -> Iterator[None]:
    """Everything that is rare in production happens every few epochs."""
    with (
        mock.patch.object(wal, "WAL_CHECKPOINT_BYTES", 96 << 10),
        mock.patch.object(fold, "FOLD_SLICE_SECONDS", 0.0),
        mock.patch.object(fold, "FOLD_BYTES_MIN", 2_000),
        mock.patch.object(commit, "HISTORY_EPOCHS", 8),
        mock.patch.object(commit, "HISTORY_TRIM_EVERY", 4),
    ):
        yield


@dataclass(frozen=True)
class Recording:
    """What one life did to the disk.

    Args:
        folder: Where it was.
        life: The life, with the oracle at its end.
        events: Calls, and the oracle's marks between them.
    """

    folder: Path
    life: Life
    events: Sequence[Call | Mark]


async def record(
    folder: Path, seed: int, steps: int, settle: Callable[[SqliteStore], None] | None = None, *, clean: bool = False
) -> Recording:
    """Records one random life; it ends as by a kill, or with a clean stop."""
    recorder = Recorder()
    path = folder / "orders.db"
    with small_limits(), watched(recorder), recorder.listening(folder):
        life = Life(path, random.Random(seed), told=recorder.mark, settle=settle or (lambda store: None))
        await life.open()
        for _ in range(steps):
            await life.step()
        if clean:
            await life.close()
        else:
            life.kill()
    return Recording(folder, life, recorder.events)


@dataclass(frozen=True)
class Moment:
    """One instant of a recording: what was acknowledged by then, and what was under way."""

    acknowledged: Content
    under_way: Content | None


def walk(recording: Recording, disk: Disk) -> Iterator[Moment]:
    """Replays a recording on a disk; gives the moment before each call, so that the disk is as it was then."""
    moment = Moment(Content(), None)
    for event in recording.events:
        if isinstance(event, Mark):
            what, content = event.what
            moment = Moment(moment.acknowledged, content) if what == "begin" else Moment(content, None)
        else:
            yield moment
            disk.apply(event)
    yield moment


def lay_out(image: Mapping[str, bytes], folder: Path) -> Path:
    """Writes an image into a folder, in place of what was there; returns the state file."""
    for old in folder.iterdir():
        old.unlink()
    for name, content in image.items():
        (folder / Path(name).name).write_bytes(content)
    return folder / "orders.db"


async def verdict(path: Path, moment: Moment, history: Sequence[Content]) -> str:
    """Opens an image with the real store and says what it made of it.

    Returns:
        ``exact`` (the acknowledged content), ``exact, under way`` (that of the change under way), ``older`` (exactly
        what the store held at some earlier moment), ``went back`` or ``refused`` (an error that names the file and a
        way out), or ``WRONG``.
    """
    found = await _found(path)
    if isinstance(found, StateError):
        assert found.hint and str(path) in str(found), f"{found!r} names no file or no way out"
        return "went back" if isinstance(found, EpochWentBack) else "refused"
    if found == moment.acknowledged:
        return "exact"
    if found == moment.under_way:
        return "exact, under way"
    return "older" if found in history else f"WRONG at epoch {found.epoch}"


async def _found(path: Path) -> Content | StateError:
    try:
        return await open_and_read(path)
    except StateError as error:
        return error


async def go_on(path: Path, seed: int) -> None:
    """Lives on with an image that was opened: what follows must be as exact as what came before."""
    life = Life(path, random.Random(seed))
    await life.take_over()
    for _ in range(3):
        await life.commit()
    await life.fold()
    await life.close()
    await life.open()
    life.kill()


def contents(recording: Recording) -> list[Content]:
    """Every content the life had, in order, without repetitions."""
    found = [Content()]
    for event in recording.events:
        if isinstance(event, Mark) and event.what[1] != found[-1]:
            found.append(event.what[1])
    return found


async def cut_power(recording: Recording, images: int, disk: Disk, seed: int) -> Counter[str]:
    """Cuts the power at random instants of a recording; counts the verdicts."""
    rng = random.Random(seed)
    moments = sum(not isinstance(event, Mark) for event in recording.events)
    chosen = Counter(rng.randrange(moments + 1) for _ in range(images))
    verdicts: Counter[str] = Counter()
    history: list[Content] = contents(recording)
    with folder_in_memory() as folder:
        for instant, moment in enumerate(walk(recording, disk)):
            for _ in range(chosen[instant]):
                image = disk.after_cut(Cut.any(rng), rng)
                found = await verdict(lay_out(image, folder), moment, history)
                verdicts[found] += 1
                if found.startswith("exact") and verdicts.total() % GO_ON_EVERY == 0:
                    await go_on(folder / "orders.db", seed)
                    verdicts["lived on"] += 1
    return verdicts
