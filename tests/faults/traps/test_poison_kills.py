"""Poison of every kind under every policy, through deaths at every crash point: each record once, each letter once."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.state.reader import dead_letters
from tests.faults.poison import (
    MESSAGE_BYTES_MAX,
    WHERE,
    Out,
    Policy,
    Record,
    add_steps,
    mixture,
    payload,
    told_letters,
    wanted,
    wanted_letters,
)
from tests.faults.traps.lives import Lives

KINDS = list(WHERE)
RECORDS = 120
POINTS = (
    "number.formed", "barrier.formed", "stage.sealed", "epoch.encoded", "commit.begun", "commit.written", "commit.done",
    "epoch.appended", "publish.begun", "publish.done", "progress.noted", "record.buried", "ack.begun", "sink.fenced",
    "sink.asked", "source.opened", "state.loaded",
)  # fmt: skip


ONCE = ("state.loaded", "record.buried", "source.opened", "sink.fenced", "sink.asked", "progress.noted")
"""What a life passes once, or may pass once."""


class Counts(sf.Instrument):
    def __init__(self) -> None:
        self.left_out: list[str] = []

    def skipped(self, step: str, place: str, error: Exception) -> None:
        self.left_out.append(step)


def topics(ids: bool = False) -> tuple[sf.MemoryTopic[Record], sf.MemoryTopic[Any]]:
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out", value=Out)
    out.refuse(lambda value: len(value.extra) > MESSAGE_BYTES_MAX)
    return sf.MemoryTopic("in", value=Record, ids=ids), out


def flow_over(folder: Path, source: Any, out: Any, policy: Policy) -> sf.Flow:
    settings = sf.Settings(message_bytes_max=MESSAGE_BYTES_MAX, commit_min="0ms", fragment_rows_max=7, chunk_bytes=500)
    flow = sf.Flow("poison", state=folder / "poison.db", settings=settings)
    add_steps(flow, source, out, policy)
    return flow


@pytest.mark.parametrize("ids", [False, True], ids=["positions", "ids"])
@pytest.mark.parametrize("policy", ["skip", "dead_letter", "retry"])
async def test_nothing_is_lost_nothing_is_twice_and_the_letters_are_those_of_the_oracle(
    tmp_path: Path, policy: Policy, ids: bool
) -> None:
    source, out = topics(ids)
    kinds = mixture(RECORDS, 1, KINDS)
    seen = Counts()
    flow = flow_over(tmp_path, source, out, policy)
    lives = Lives(lambda: flow, tmp_path / "poison.db", flow.settings, instrument=seen)
    share, sent, died = RECORDS // len(POINTS), 0, []
    kinds[share * POINTS.index("record.buried")] = "refused"  # there is one to bury in that life
    for at, point in enumerate(POINTS):
        async with lives.life(point, 1 if point in ONCE else 1 + at % 2) as life:
            for kind in kinds[sent : sent + share]:
                sent += 1
                source.send_bytes(payload(sent, kind))
            await life.until(partial(has_come_out, out, kinds[:sent]), seconds=10)
            await life.turns(300)
            if not life.dead:
                await life.kill()
            else:
                died.append(point)
    for kind in kinds[sent:]:
        sent += 1
        source.send_bytes(payload(sent, kind))
    source.close_input()
    async with lives.life() as life:
        await life.ended()
    assert [(value.n, value.count) for value in out.values] == wanted(kinds)
    letters = [found.letter for found in dead_letters(tmp_path / "poison.db")[1]]
    assert told_letters(letters) == (wanted_letters(kinds) if policy != "skip" else [])
    assert {WHERE[kind][1] for kind in KINDS} <= set(seen.left_out)
    assert len(died) >= len(POINTS) - 4, f"it died at {died} only"
    assert "record.buried" in died


def has_come_out(out: Any, kinds: list[str]) -> bool:
    return len(out) >= len(wanted(kinds))


@pytest.mark.parametrize("kind", KINDS)
async def test_by_default_each_stops_the_flow_at_its_place_and_nothing_behind_it_is_taken(
    tmp_path: Path, kind: str
) -> None:
    source, out = topics()
    kinds = ["good"] * 5 + [kind] + ["good"] * 3
    for n, each in enumerate(kinds, 1):
        source.send_bytes(payload(n, each))
    source.close_input()
    flow = flow_over(tmp_path, source, out, "stop")
    told = set()
    for _ in range(3):
        with pytest.raises(sf.StreamflowError) as died:
            await flow.run()
        told.add(re.sub(r"\(number \d+\)", "", str(died.value)))
        assert died.value.hint
    assert len(told) == 1, "at each start the same"
    if kind != "refused":
        where, name = WHERE[kind]
        assert f"{where} {name!r}" in told.pop()
    assert [(value.n, value.count) for value in out.values] == wanted(kinds)[: len(out.values)]
    assert len(out.values) <= 5
    assert dead_letters(tmp_path / "poison.db")[1] == []


@pytest.mark.parametrize("kind", KINDS)
async def test_what_stops_the_flow_stops_it_at_its_place_through_deaths_before_it(tmp_path: Path, kind: str) -> None:
    source, out = topics()
    kinds = ["good"] * 5 + [kind] + ["good"] * 3
    payloads = [payload(n, each) for n, each in enumerate(kinds, 1)]
    flow = flow_over(tmp_path, source, out, "stop")
    lives = Lives(lambda: flow, tmp_path / "poison.db", flow.settings)
    source.send_all_bytes(payloads[:3])
    async with lives.life() as life:
        await life.until(lambda: len(out) == 3)
    source.send_all_bytes(payloads[3:])
    died, told = [], set()
    for point in (*POINTS, ""):
        try:
            async with lives.life(point) as life:
                await life.until(lambda: False)
            died.append(point)
        except sf.StreamflowError as stopped:
            told.add(re.sub(r"\(number \d+\)", "", str(stopped)))
    assert {"state.loaded", "source.opened", "sink.fenced", "sink.asked"} <= set(died)
    assert "number.formed" in died or WHERE[kind][0] == "source"
    assert "" not in died
    assert len(told) == 1, "at each start the same"
    assert [(value.n, value.count) for value in out.values] == wanted(kinds)[: len(out.values)]
    assert 3 <= len(out.values) <= 5
    assert dead_letters(tmp_path / "poison.db")[1] == []
