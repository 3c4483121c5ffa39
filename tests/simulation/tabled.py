"""Cells of tables, joined and looked up in steps, and of what looks back in event time: as-of joins, dedup."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import streamflow as sf
from streamflow.flow import Flow
from tests.simulation.cell import Inputs, Outputs, key, topic
from tests.simulation.windowed import LATENESS, second
from tests.unit.operators.join_reference import LEFT, RIGHT
from tests.unit.operators.table_reference import Record, as_of, first_of_each, looked_up, walked_through

STATIC_ROWS = 60
WITHIN = 4


def _changes(value: int) -> bool:
    return value % 3 == 0


def _value(value: int) -> int | None:
    return None if value % 4 == 3 else value


def _content() -> dict[str, int]:
    return {f"s{n}": n * n for n in range(STATIC_ROWS)}


def _goes_with(value: int, found: int) -> bool:
    return (value + found) % 2 == 0


def tables() -> Flow:
    flow = Flow("tables")
    source = flow.source(topic("a"))
    changelog, others = source.branch(_changes, sf.otherwise)
    table = changelog.key_by(key, name="change-key").map(_value).to_table(name="table", of=int)
    found = others.key_by(key, name="key").join(table, how="left")
    found.map(list, name="a-pair").to(topic("found", list[Any]))
    walked = others.join_broadcast(table, where=_goes_with, how="left", name="walk")
    walked.map(list, name="a-walk").to(topic("walked", list[Any]))
    again = changelog.key_by(key, name="again-key").map(_value, name="again").to_table(name="again-table", of=int)
    behind = others.map_batch(lambda values: values, name="batch").key_by(key, name="behind-key").join(again)
    behind.map(list, name="behind-pair").to(topic("behind", list[Any]))
    static = flow.table(_content, name="static", of=int)
    named = source.join_broadcast(static, by=lambda value: f"s{value % STATIC_ROWS}", name="named")
    named.map(list, name="named-pair").to(topic("named", list[Any]))

    @others.key_by(key, name="step-key").process(state=list, tables=[table, static])
    def in_step(ctx: sf.Context[str, list[int | None]], value: int) -> list[list[Any]]:
        ctx.state.append(ctx.lookup(table, ctx.key))
        return [[value, *ctx.state[-3:], ctx.lookup(static, f"s{value % STATIC_ROWS}")]]

    in_step.to(topic("in-step", list[Any]))
    return flow


def check_tables(inputs: Inputs, outputs: Outputs) -> None:
    records = [
        Record(RIGHT if _changes(value) else LEFT, "", key(value), 0, value, _value(value) is None)
        for value in inputs["a"]
    ]
    found = [list(pair) for pair in looked_up(records, lambda record: record.key)]
    assert list(outputs["found"]) == found
    assert list(outputs["behind"]) == [pair for pair in found if pair[1] is not None]
    assert list(outputs["walked"]) == [list(pair) for pair in walked_through(records, _goes_with)]
    seen: dict[str, list[int | None]] = defaultdict(list)
    in_step: list[list[Any]] = []
    for value, rate in looked_up(records, lambda record: record.key):
        seen[key(value)].append(rate)
        in_step.append([value, *seen[key(value)][-3:], (value % STATIC_ROWS) ** 2])
    assert list(outputs["in-step"]) == in_step
    # nobody came before the static table was there
    assert list(outputs["named"]) == [[value, (value % STATIC_ROWS) ** 2] for value in inputs["a"]]


def looking_back() -> Flow:
    flow = Flow("looking-back")
    left, right = (
        flow.source(topic(name), time=lambda value: second(value) * 1000, lateness=f"{LATENESS}s", idle=None)
        for name in ("a", "b")
    )
    versions = right.key_by(key, name="b-key").map(_value)
    lefts = left.key_by(key, name="a-key")
    joined = lefts.join_asof(versions, how="left", within=f"{WITHIN}s", name="joined", types=(int, int | None))
    joined.map(_pair, name="a-pair").to(topic("joined", list[Any]))
    joined.late.left.to(topic("late-left"))
    joined.late.right.map(lambda value: [value], name="late-version").to(topic("late-right", list[Any]))
    once = left.dedup(lambda value: value % 1000 // 3, within=f"{WITHIN}s", time="event", name="once")
    once.to(topic("once"))
    return flow


def _pair(ctx: sf.Context[str, Any], pair: tuple[int, int | None]) -> list[Any]:
    assert ctx.event_time is not None
    return [*pair, round(ctx.event_time.timestamp())]


def check_looking_back(inputs: Inputs, outputs: Outputs) -> None:
    records = [
        Record(side, "", key(value), second(value), value, side == RIGHT and _value(value) is None)
        for side, name in enumerate(("a", "b"))
        for value in inputs[name]
    ]
    rows, late = as_of(records, [(LEFT, ""), (RIGHT, "")], LATENESS, WITHIN, 0)
    assert sorted(outputs["joined"], key=repr) == sorted(map(list, rows), key=repr)
    assert list(outputs["late-left"]) == late[LEFT]
    assert list(outputs["late-right"]) == [[_value(value)] for value in late[RIGHT]]
    named = [Record(LEFT, "", str(value % 1000 // 3), second(value), value) for value in inputs["a"]]
    assert list(outputs["once"]) == first_of_each(named, [(LEFT, "")], LATENESS, WITHIN)
