"""Damaged, cut, lost, older and swapped files, and drives that lie: refused with a way out, or exactly right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.store.disk import Disk
from tests.faults.store.life import Content
from tests.faults.store.trials import Moment, contents, cut_power, folder_in_memory, lay_out, record, verdict, walk
from tests.faults.store.vfs import Call

STEPS = 50
SNAPSHOTS = 12
DB, WAL, WITNESS = "orders.db", "orders.db-wal", "orders.db.epoch"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Scene:
    """The files of one life as a kill left them at some instant, and what they had been.

    Args:
        files: Name -> content.
        moment: What was acknowledged.
        history: All that the life ever held.
        earlier: The files at some earlier instant.
        foreign: The files of another life.
    """

    files: Mapping[str, bytes]
    moment: Moment
    history: Sequence[Content]
    earlier: Mapping[str, bytes]
    foreign: Mapping[str, bytes]


async def scenes_of(seed: int) -> list[tuple[Files, Moment, list[Content]]]:
    """Some instants of one life, in order; the last one is its end."""
    with folder_in_memory() as folder:
        recording = await record(folder, seed, STEPS, clean=seed % 2 == 0)
    history, disk, rng = contents(recording), Disk(), random.Random(seed)
    calls = sum(isinstance(event, Call) for event in recording.events)
    # the first calls make the file: there is nothing to damage yet
    chosen = {*rng.sample(range(calls // 5, calls), SNAPSHOTS - 1), calls}
    found = []
    for instant, moment in enumerate(walk(recording, disk)):
        if instant in chosen:
            found.append(({Path(path).name: content for path, content in disk.seen().items()}, moment, history))
    return found


async def scenes(lives: int) -> list[Scene]:
    told = [await scenes_of(seed) for seed in range(lives)]
    found = []
    for number, life in enumerate(told):
        for (earlier, _, _), (files, moment, history) in pairwise(life):
            found.append(Scene(files, moment, history, earlier, told[number - 1][-1][0]))
    return found


# -- kinds of damage: each changes files in place, and says whether it did -------------------------------------------

Damage = Callable[[Files, Scene, random.Random], bool]


def changed(name: str, change: Callable[[bytearray, random.Random], object]) -> Damage:
    def damage(files: Files, scene: Scene, rng: random.Random) -> bool:
        content = bytearray(files.get(name, b""))
        if not content:
            return False
        change(content, rng)
        files[name] = bytes(content)
        return True

    return damage


def flip(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def flip_many(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randrange(2, 20)):
        flip(content, rng)


def cut_short(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def zero_block(content: bytearray, rng: random.Random) -> None:
    size = rng.choice([512, 4096])
    start = rng.randrange(len(content)) // size * size
    content[start : start + size] = bytes(len(content[start : start + size]))


def misdirect_block(content: bytearray, rng: random.Random) -> None:
    """A drive that wrote a block to the wrong place."""
    size = rng.choice([512, 4096])
    blocks = max(1, len(content) // size)
    to, source = rng.randrange(blocks) * size, rng.randrange(blocks) * size
    content[to : to + size] = content[source : source + size]


def lost(*names: str) -> Damage:
    def damage(files: Files, scene: Scene, rng: random.Random) -> bool:
        return sum(files.pop(name, None) is not None for name in names) > 0

    return damage


def taken_from(which: str, *names: str) -> Damage:
    """Puts files of an earlier instant, or of another store, in place of those that are there."""

    def damage(files: Files, scene: Scene, rng: random.Random) -> bool:
        source = scene.earlier if which == "earlier" else scene.foreign
        before = dict(files)
        for name in names:
            files.pop(name, None)
            if name in source:
                files[name] = source[name]
        return files != before

    return damage


def exchanged(files: Files, scene: Scene, rng: random.Random) -> bool:
    files[DB], files[WAL] = files.get(WAL, b""), files.get(DB, b"")
    return files[DB] != files[WAL]


DAMAGES: dict[str, tuple[Damage, int]] = {
    "bit flipped in the file": (changed(DB, flip), 8),
    "bit flipped in the log": (changed(WAL, flip), 8),
    "bit flipped in the witness": (changed(WITNESS, flip), 3),
    "bits flipped in the file": (changed(DB, flip_many), 4),
    "bits flipped in the log": (changed(WAL, flip_many), 2),
    "block of the file zeroed": (changed(DB, zero_block), 2),
    "block of the log zeroed": (changed(WAL, zero_block), 2),
    "block of the file misdirected": (changed(DB, misdirect_block), 3),
    "block of the log misdirected": (changed(WAL, misdirect_block), 2),
    "file cut short": (changed(DB, cut_short), 2),
    "log cut short": (changed(WAL, cut_short), 3),
    "witness cut short": (changed(WITNESS, cut_short), 1),
    "log deleted": (lost(WAL), 2),
    "file deleted": (lost(DB), 1),
    "file and log deleted": (lost(DB, WAL), 1),
    "witness deleted": (lost(WITNESS), 1),
    "older file": (taken_from("earlier", DB), 3),
    "older log": (taken_from("earlier", WAL), 3),
    "older file and log": (taken_from("earlier", DB, WAL), 3),
    "file of another store": (taken_from("foreign", DB), 1),
    "log of another store": (taken_from("foreign", WAL), 2),
    "file and log of another store": (taken_from("foreign", DB, WAL), 1),
    "witness of another store": (taken_from("foreign", WITNESS), 1),
    "file and log exchanged": (exchanged, 1),
}
NEVER_HARMLESS = ("file and log of another store", "witness of another store", "file and log exchanged")
RIGHT = {"exact", "exact, under way", "refused", "went back"}


@pytest.mark.timeout(300)
async def test_damage_is_refused_or_without_effect(long_run):
    lives, trials = (16, 2400) if long_run else (6, 300)
    rng = random.Random(1)
    found = await scenes(lives)
    verdicts: dict[str, Counter[str]] = {name: Counter() for name in DAMAGES}
    names = rng.choices(list(DAMAGES), [weight for _, weight in DAMAGES.values()], k=trials)
    with folder_in_memory() as folder:
        for name in names:
            files: Files = {}
            scene = rng.choice(found)
            while not files or not DAMAGES[name][0](files, scene, rng):
                scene = rng.choice(found)
                files = dict(scene.files)
            verdicts[name][await verdict(lay_out(files, folder), scene.moment, scene.history)] += 1
    for name, counts in verdicts.items():
        print(f"{name:<32} {dict(counts)}")
    total = sum(verdicts.values(), Counter[str]())
    print(f"damaged: {dict(total)}")
    assert not total.keys() - RIGHT, {name: counts for name, counts in verdicts.items() if counts.keys() - RIGHT}
    assert total.total() == trials
    assert min(total["refused"], total["went back"], total["exact"]) > trials / 20, "the trials reached little"
    for name in NEVER_HARMLESS:
        assert not verdicts[name].keys() - {"refused", "went back"}, name


@pytest.mark.timeout(300)
async def test_a_drive_that_lies_about_syncing_is_found_out_or_did_no_harm(long_run):
    lives, images = (20, 30) if long_run else (3, 20)
    verdicts: Counter[str] = Counter()
    for seed in range(lives):
        rng = random.Random(seed)
        with folder_in_memory() as folder:
            recording = await record(folder, seed, STEPS)
            verdicts += await cut_power(recording, images, Disk(lambda call: rng.random() < 0.5), seed)  # noqa: B023
    print(f"a drive that lies half the time: {dict(verdicts)}")
    # where it lied about the witness too, only the brokers still know that there was more: they refuse such a store
    assert not verdicts.keys() - (RIGHT | {"older", "lived on"}), verdicts
    assert verdicts["refused"] > 0
