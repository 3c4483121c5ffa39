"""Aggregators against plain Python: over all records, over panes merged in order, through their codec, in a flow."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamflow as sf
from streamflow.codecs import codec_for
from streamflow.errors import DefinitionError, StepError
from streamflow.testing.harness import FlowTest


def same(record: int) -> int:
    return record


def as_float(record: int) -> float:
    return float(record)


def _variance(values: Sequence[int]) -> float | None:
    return statistics.variance(values) if len(values) > 1 else None


CASES: dict[str, tuple[sf.Aggregator[int, Any, Any], Callable[[list[int]], Any]]] = {
    "count": (sf.count(), len),
    "sum": (sf.sum(same), sum),
    "min": (sf.min(same), lambda v: min(v, default=None)),
    "max": (sf.max(same), lambda v: max(v, default=None)),
    "mean": (sf.mean(as_float), lambda v: statistics.fmean(v) if v else None),
    "variance": (sf.variance(as_float), _variance),
    "pvariance": (sf.variance(as_float, sample=False), lambda v: statistics.pvariance(v) if v else None),
    "first": (sf.first(same), lambda v: v[0] if v else None),
    "last": (sf.last(same), lambda v: v[-1] if v else None),
    "collect": (sf.collect(same), list),
    "distinct": (sf.distinct(same), lambda v: len(set(v))),
    "top_k": (sf.top_k(3, by=lambda r: r % 7), lambda v: sorted(v, key=lambda r: -(r % 7))[:3]),
    "reduce": (sf.reduce(lambda a, b: a * 31 % 997 + b), lambda v: None),
    "own": (sf.aggregator(int, lambda a, r: a ^ r, lambda a, b: a ^ b, str), lambda v: str(_xor(v))),
}
ASSOCIATIVE = sorted(CASES.keys() - {"reduce"})


def _xor(values: Sequence[int]) -> int:
    found = 0
    for value in values:
        found ^= value
    return found


def folded(aggregator: sf.Aggregator[Any, Any, Any], records: Sequence[Any]) -> Any:
    held = aggregator.init()
    for record in records:
        held = aggregator.add(held, record)
    return held


def result(aggregator: sf.Aggregator[Any, Any, Any], held: Any) -> Any:
    return held if aggregator.result is None else aggregator.result(held)


@pytest.mark.parametrize("name", ASSOCIATIVE)
@given(panes=st.lists(st.lists(st.integers(-50, 50), max_size=12), max_size=5))
@settings(max_examples=40, deadline=None)
def test_merged_panes_give_what_all_records_give(name: str, panes: list[list[int]]) -> None:
    aggregator, expected = CASES[name]
    records = [record for pane in panes for record in pane]
    merged = aggregator.init()
    codec = aggregator.codec or codec_for(aggregator.type)
    for pane in panes:
        part = codec.decode(codec.encode(folded(aggregator, pane)))
        before = copy.deepcopy(part)
        merged = codec.decode(codec.encode(aggregator.merge(merged, part)))
        assert part == before, "merge changed its second argument"
    for held in (merged, folded(aggregator, records)):
        found = result(aggregator, held)
        wanted = expected(records)
        assert found == pytest.approx(wanted) if isinstance(found, float) else found == wanted


def test_reduce_keeps_the_first_record_and_combines_in_order() -> None:
    aggregator = sf.reduce(lambda a, b: f"{a}{b}")
    assert result(aggregator, folded(aggregator, "abc")) == "abc"
    assert result(aggregator, aggregator.merge(folded(aggregator, "ab"), folded(aggregator, "cd"))) == "abcd"
    assert result(aggregator, aggregator.merge(aggregator.init(), folded(aggregator, "cd"))) == "cd"
    assert result(aggregator, aggregator.init()) is None


def test_several_refuse_names_that_cannot_be_fields() -> None:
    keyed = sf.Flow("names").source(sf.MemoryTopic[int]("in")).key_by(lambda r: "k")
    for name in ("class", "_private"):
        named: dict[str, Any] = {name: sf.count()}
        with pytest.raises(DefinitionError, match="cannot name an aggregator"):
            keyed.agg(name="a", **named)


@pytest.mark.parametrize("seed", [1, 2])
def test_sketches_are_close_survive_their_codec_and_merge(seed: int) -> None:
    values = [seed * 1_000_000 + number for number in range(20_000)]
    distinct: sf.Aggregator[int, Any, int] = sf.approx_distinct(same)
    spread: sf.Aggregator[int, Any, list[float]] = sf.quantiles(as_float, [0.0, 0.5, 0.99, 1.0])
    both: list[sf.Aggregator[int, Any, Any]] = [distinct, spread]
    for aggregator in both:
        assert aggregator.codec is not None
        one, two = folded(aggregator, values[:8000]), folded(aggregator, values[7000:])
        stored = aggregator.codec.encode(two)
        two = aggregator.codec.decode(stored)
        assert aggregator.codec.encode(two) == stored
        merged = aggregator.merge(aggregator.merge(aggregator.init(), one), two)
        assert aggregator.codec.encode(two) == stored, "merge changed its second argument"
        if aggregator is distinct:
            assert result(aggregator, merged) == pytest.approx(20_000, rel=0.06)
        else:
            low, middle, high, top = result(aggregator, merged)
            assert (low, top) == (values[0], values[-1])
            assert middle - values[0] == pytest.approx(10_000, rel=0.1)
            assert high - values[0] == pytest.approx(19_800, rel=0.02)
    assert result(spread, spread.init()) == []
    assert distinct.codec is not None
    assert distinct.codec.encode(folded(distinct, values)) == distinct.codec.encode(folded(distinct, values))


async def test_keys_without_windows_take_the_same_aggregators_and_survive_a_crash() -> None:
    flow = sf.Flow("keyed")
    records = flow.source(sf.MemoryTopic[int]("in"))
    keyed = records.key_by(lambda r: r % 2)
    stats = keyed.agg(
        name="stats",
        n=sf.count(),
        seen=sf.distinct(same),
        about=sf.approx_distinct(same),
        best=sf.top_k(2, by=same),
        money=sf.sum(Decimal, kind=Decimal),
    )
    biggest = keyed.agg(sf.max(same), name="biggest")
    async with FlowTest(flow) as t:
        await t.send(records, 1, 2, 3)
        await t.crash()
        await t.send(records, 5, 5, 4)
        rows = dict(t.out(stats))
        assert rows[1] == {"n": 4, "seen": 3, "about": 3, "best": [5, 5], "money": Decimal(14)}
        assert rows[0] == {"n": 2, "seen": 2, "about": 2, "best": [4, 2], "money": Decimal(6)}
        assert t.out(biggest) == [(1, 1), (0, 2), (1, 3), (1, 5), (1, 5), (0, 4)]


async def test_what_leaves_does_not_change_with_the_accumulator() -> None:
    flow = sf.Flow("own")
    records = flow.source(sf.MemoryTopic[int]("in"))
    kept = records.key_by(lambda r: "k").agg(sf.collect(same), name="kept")
    async with FlowTest(flow) as t:
        await t.send(records, 1, 2)
        assert t.out(kept) == [("k", [1]), ("k", [1, 2])]


@pytest.mark.parametrize("windows", [False, True])
async def test_some_records_only(windows: bool) -> None:
    flow = sf.Flow("some")
    records = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: 1000)
    keyed: Any = records.key_by(lambda record: "k")
    there: Any = lambda record: record is not None  # noqa: E731
    low: Any = (keyed.window(sf.tumbling("1m")) if windows else keyed).agg(
        name="low",
        n=sf.count(),
        there=sf.where(there, sf.count()),
        least=sf.where(there, sf.min(lambda record: record)),
        mean=sf.where(there, sf.mean(lambda record: record)),
        about=sf.where(there, sf.approx_distinct(lambda record: record)),
        none=sf.where(lambda record: False, sf.max(lambda record: record)),
    )
    async with FlowTest(flow) as t:
        await t.send(records, None, 3)
        await t.crash()
        await t.send(records, 1, None)
        await t.advance("31s")
        row = t.out(low)[-1]
        found = row.value if windows else row[1]
        assert found == {"n": 4, "there": 2, "least": 1, "mean": 2.0, "about": 2, "none": None}


@pytest.mark.parametrize("verb", ["min", "max", "sum", "mean"])
async def test_a_null_is_no_number(verb: str) -> None:
    flow = sf.Flow("nulls")
    records = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: 1000)
    aggregator = getattr(sf, verb)(lambda record: record)
    records.key_by(lambda record: "k").window(sf.tumbling("1m")).agg(aggregator, name="nulls")
    async with FlowTest(flow) as t:
        with pytest.raises(StepError, match="step 'nulls' raised TypeError"):
            await t.send(records, 1, None)


async def test_records_of_equal_time_all_count_in_their_order() -> None:
    flow = sf.Flow("equal")
    records = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: record[0] * 1000, future_max="365d")
    windows = records.key_by(lambda record: "k").window(sf.tumbling("10s"))
    kept = windows.agg(sf.collect(lambda record: record[1]), name="kept")
    async with FlowTest(flow) as t:
        await t.send(records, (9, "a"), (9, "b"), (9, None))
        await t.send(records, (9, "c"), (20, "d"), (20, "e"))
        assert [row.value for row in t.out(kept)] == [["a", "b", None, "c"]]
        assert t.out(kept.late) == []
