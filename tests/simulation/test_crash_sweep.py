"""A flow killed at every turn of its event loop and at every crash point of its store gives what a quiet run gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import streamflow as sf
from tests.simulation.schedule import Incarnations

WORDS = [f"w{number * 7 % 11}" for number in range(60)]
POINTS = ("commit.begun", "commit.written", "commit.done", "fold.written")


class Case:
    """A flow with two sources, state, timers and two sinks, over topics that outlive it."""

    def __init__(self) -> None:
        self.words: sf.MemoryTopic[str] = sf.MemoryTopic("words", value=str)
        self.more: sf.MemoryTopic[str] = sf.MemoryTopic("more", value=str)
        self.counts: sf.MemoryTopic[list[object]] = sf.MemoryTopic("counts", value=list[object])
        self.lists: sf.MemoryTopic[list[object]] = sf.MemoryTopic("lists", value=list[object])

    def flow(self) -> sf.Flow:
        flow = sf.Flow("sweep")
        words = flow.source(self.words).merge(flow.source(self.more).map(str.lower))
        keyed = words.flat_map(lambda word: [word, word[0]]).key_by(lambda word: word)
        keyed.count(name="counted").to(self.counts)  # type: ignore[arg-type]
        words.batch(7, within="1s", name="lists").to(self.lists)  # type: ignore[arg-type]
        return flow

    def check(self) -> None:
        """Every input has had its effect once: per key the counts are 1, 2, 3 ... and each word is in one list."""
        expected = Counter(WORDS) + Counter(word.lower() for word in WORDS)
        expected["w"] = 2 * len(WORDS)
        seen: dict[object, list[object]] = {}
        for key, count in self.counts.values:
            seen.setdefault(key, []).append(count)
        assert {key: list(range(1, count + 1)) for key, count in expected.items()} == seen
        lists = [word for part in self.lists.values for word in part]
        assert Counter(lists) == Counter(WORDS) + Counter(WORDS)


async def run_with_kills(case: Case, folder: Path, kills: list[int | str]) -> list[bool]:
    """Feeds the words in two parts, killing one life after the other, then lets the last one finish."""
    lives = Incarnations(case.flow, folder)
    case.words.send_all(WORDS)
    case.more.send_all([word.upper() for word in WORDS])
    cut = []
    for kill in kills:
        if isinstance(kill, int):
            cut.append(await lives.live(kill))
        else:
            cut.append(await lives.live(armed=kill))
    if not await lives.live():
        case.check()
        return cut
    raise AssertionError("the last life was cut short")


async def test_quiet_run(tmp_path: Path) -> None:
    case = Case()
    await run_with_kills(case, tmp_path, [])
    assert len(case.counts.values) == 4 * len(WORDS)


@pytest.mark.parametrize("first", range(0, 60, 6))
async def test_killed_at_every_turn(tmp_path: Path, first: int) -> None:
    cuts = []
    for turn in range(first, first + 6):
        case = Case()
        cuts += await run_with_kills(case, tmp_path / str(turn), [turn])
    assert any(cuts) or first > 40


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_every_crash_point(tmp_path: Path, point: str) -> None:
    case = Case()
    assert await run_with_kills(case, tmp_path, [point]) == [True]


@pytest.mark.parametrize("turns", [3, 8, 13, 21])
async def test_killed_again_and_again(tmp_path: Path, turns: int) -> None:
    case = Case()
    await run_with_kills(case, tmp_path, [turns, "commit.written", turns + 1, "commit.done", turns + 2, turns])
