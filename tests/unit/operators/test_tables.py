"""Tables case by case: tombstones, time to live, bounds, errors, static content, look-ups from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StateFull, StepError, StreamflowError
from streamflow.plan import make_plan
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest

Row = tuple[str, int | None]
WAYS = pytest.mark.parametrize("how", [Settings(), Settings(plain=True)], ids=["loop", "plain"])


def key(row: Row) -> str:
    return row[0]


def value(row: Row) -> int | None:
    return row[1]


def first(text: str) -> str:
    return text[:1]


@dataclass
class Both:
    """A flow with a changelog and a stream, and what its table and its joins give."""

    flow: sf.Flow
    changelog: sf.Stream[Row]
    words: sf.Stream[str]
    table: sf.Table[str, int]
    joined: sf.KeyedStream[str, tuple[str, int | None]]


def both(**options: Any) -> Both:
    flow = sf.Flow("tables")
    changelog = flow.source(sf.MemoryTopic[Row]("changelog", value=tuple[str, int | None]))
    words = flow.source(sf.MemoryTopic[str]("words", value=str))
    table = changelog.key_by(key, name="key").map(value).to_table(name="table", **options)
    joined = words.key_by(first, name="first").join(table, how="left")
    return Both(flow, changelog, words, table, joined)


@WAYS
async def test_none_removes_a_key_and_comes_through_a_crash(how: Settings) -> None:
    on = both()
    async with FlowTest(on.flow, how) as t:
        await t.send(on.changelog, ("a", 1), ("b", 2), ("a", None), ("c", None), ("b", 0))
        await t.crash()
        await t.send(on.words, "apple", "bee", "cow")
        assert t.out(on.joined) == [("apple", None), ("bee", 0), ("cow", None)]
        assert t.state(on.table) == {"b": 0}
        await t.send(on.changelog, ("a", 3), ("b", None))
        await t.crash()
        await t.send(on.words, "apple", "bee")
        assert t.out(on.joined)[3:] == [("apple", 3), ("bee", None)]


async def test_a_record_sees_the_table_as_of_its_own_place() -> None:
    flow = sf.Flow("self")
    source = flow.source(sf.MemoryTopic[Row]("in", value=tuple[str, int | None]))
    keyed = source.key_by(key)
    before = keyed.join(later := keyed.map(value).to_table(name="t"), how="left", name="behind-the-table")
    async with flow.test() as t:
        await t.send(source, ("a", 1), ("a", 2), ("a", None))
        # the table was defined first, so it has taken the record already
        assert [found for _, found in t.out(before)] == [1, 2, None]
        assert [(c.before, c.after) for c in t.out(later.changes)] == [(None, 1), (1, 2), (2, None)]


@WAYS
async def test_a_value_is_gone_when_its_time_is_over(how: Settings) -> None:
    on = both(ttl="10s")
    async with FlowTest(on.flow, how) as t:
        await t.send(on.changelog, ("a", 1))
        await t.advance("6s")
        await t.send(on.changelog, ("b", 2))
        await t.send(on.words, "a")  # looking up does not renew
        await t.advance("5s")
        await t.send(on.words, "a", "b")
        await t.crash()
        await t.send(on.words, "a", "b")
        assert [found for _, found in t.out(on.joined)] == [1, None, 2, None, 2]
        await t.send(on.changelog, ("a", 4))
        assert t.out(on.table.changes)[-1] == sf.Change(None, 4)


@WAYS
async def test_a_key_too_many_is_an_error_of_the_step(how: Settings) -> None:
    on = both(max_keys=2)
    async with FlowTest(on.flow, how) as t:
        await t.send(on.changelog, ("a", 1), ("b", 2), ("c", None), ("a", None), ("c", 3))
        assert t.state(on.table) == {"b": 2, "c": 3}
        with pytest.raises(StepError, match="as many as max_keys= allows") as found:
            await t.send(on.changelog, ("d", 4))
        assert isinstance(found.value, StateFull)
    assert found.value.step == "table"


@WAYS
async def test_a_key_too_many_may_be_left_out(how: Settings) -> None:
    on = both(max_keys=1, on_error=sf.skip)
    async with FlowTest(on.flow, how) as t:
        await t.send(on.changelog, ("a", 1), ("b", 2), ("a", 3))
        await t.crash()
        await t.send(on.changelog, ("b", 4), ("a", None), ("c", 5))
        assert t.state(on.table) == {"c": 5}
        assert t.out(on.table.changes) == [sf.Change(None, 1), sf.Change(1, 3), sf.Change(3, None), sf.Change(None, 5)]


async def test_what_leaves_a_table_may_be_changed() -> None:
    flow = sf.Flow("own")
    changelog = flow.source(sf.MemoryTopic[Any]("changelog"))
    words = flow.source(sf.MemoryTopic[str]("words", value=str))
    table = changelog.key_by(lambda r: r["key"], name="key").to_table(name="table", of=dict[str, Any])

    def spoil(pair: tuple[str, dict[str, Any]]) -> str:
        pair[1]["n"] += 100
        return f"{pair[1]['n']}"

    spoiled = words.key_by(first, name="first").join(table).map(spoil)
    async with flow.test() as t:
        await t.send(changelog, {"key": "a", "n": 1})
        await t.send(words, "a", "a")
        await t.crash()
        await t.send(words, "a")
        assert t.out(spoiled) == ["101", "101", "101"]


@WAYS
async def test_errors_of_a_look_up_go_by_its_policy(how: Settings) -> None:
    on = both()

    def by(word: str) -> str | None:
        return {"none": None, "int": 7}.get(word, word[:1])  # type: ignore[return-value]

    def where(word: str, found: int) -> bool:
        return 12 // found > len(word)

    found = on.words.join_broadcast(on.table, by=by, how="left", on_error=sf.skip)
    pairs = on.words.join_broadcast(on.table, where=where, on_error=sf.skip)
    every = on.words.join_broadcast(on.table)
    async with FlowTest(on.flow, how) as t:
        await t.send(on.changelog, ("a", 1), ("b", 6), ("c", 3))
        await t.send(on.words, "apple", "none", "int", "bee")
        await t.send(on.changelog, ("b", 0))
        await t.send(on.words, "bee")
        assert t.out(found) == [("apple", 1), ("none", None), ("bee", 6), ("bee", 0)]
        # a walk that fails half way gives nothing
        assert t.out(pairs) == [("apple", 1), ("none", 1), ("int", 1), ("int", 3), ("bee", 1), ("bee", 3)]
        assert len(t.out(every)) == 15


async def test_a_look_up_that_fails_stops_the_flow_and_names_the_step() -> None:
    on = both()
    on.words.join_broadcast(on.table, by=lambda word: 7 if word == "int" else word, name="by-what")  # type: ignore[arg-type, return-value]
    async with on.flow.test() as t:
        await t.send(on.changelog, ("a", 1))
        with pytest.raises(StepError, match="step 'by-what' raised TypeError: key 7 is int") as found:
            await t.send(on.words, "int")
    assert found.value.step == "by-what"


# -- where tables stand ------------------------------------------------------------------------------------------------


def halves(flow: sf.Flow) -> tuple[sf.Stream[str], sf.Table[str, int]]:
    words = flow.source(sf.MemoryTopic[str]("words", value=str))
    return words, words.key_by(first, name="key").map(len).to_table(name="table")


def test_a_table_moves_behind_an_async_step_with_who_looks_it_up() -> None:
    flow = sf.Flow("moved")
    words, table = halves(flow)

    async def slow(word: str) -> str:
        await asyncio.sleep(0)
        return word

    slowed = words.map(slow).key_by(first, name="slow-key").join(table)
    plan = make_plan(flow.graph())
    assert plan.stage_of("step:table") == plan.stage_of(slowed._port.step) == 2


async def test_a_record_that_was_awaited_finds_the_table_as_of_its_own_place() -> None:
    flow = sf.Flow("awaited")
    words, table = halves(flow)

    async def slow(word: str) -> str:
        await asyncio.sleep(0.001 * (5 - len(word)))
        return word

    slowed = words.map(slow).key_by(first, name="slow-key").join(table)
    async with flow.test() as t:
        await t.send(words, "a", "abc", "ab", "abcd")
        await t.crash()
        await t.send(words, "abc", "a")
        assert t.out(slowed) == [("a", 1), ("abc", 3), ("ab", 2), ("abcd", 4), ("abc", 3), ("a", 1)]


def test_a_table_cannot_stand_both_before_and_behind_an_async_step() -> None:
    flow = sf.Flow("both-sides")
    words, table = halves(flow)
    early = words.key_by(first, name="early-key").join(table, name="early")
    early.map_batch(lambda pairs: pairs).key_by(lambda pair: pair[0][:1], name="k").join(table, name="late")
    with pytest.raises(DefinitionError, match="looked up both before and behind") as found:
        flow.plan()
    assert "to_table(name=" in found.value.hint


def test_two_tables_that_pull_each_other_along_settle() -> None:
    flow = sf.Flow("pull")
    words, one = halves(flow)
    two = words.key_by(first, name="k2").map(len, name="l2").to_table(name="two")
    words.map_batch(lambda batch: batch, name="b1").key_by(first, name="k3").join(one, name="j1").filter(bool)
    late = words.key_by(first, name="k4").join(one, name="j2").key_by(lambda p: p[0], name="k5").join(two, name="j3")
    words.key_by(first, name="k6").join(two, name="j4")
    plan = make_plan(flow.graph())
    steps = ("step:table", "step:two", late._port.step, "step:j1", "step:j4")
    assert {plan.stage_of(step) for step in steps} == {2}


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda on: on.words.join(on.table), "has no keys"),
        (lambda on: on.words.key_by(len).join(on.joined), "takes either within= or window="),
        (lambda on: on.words.key_by(first).join(on.table, within="1s"), "neither within= nor window="),
        (lambda on: on.words.key_by(first).join(on.table, how="outer"), "how='outer'"),
        (lambda on: on.words.key_by(first).join(on.table, max_keys=3), "takes no max_keys="),
        (lambda on: on.words.key_by(first).join(both().table), "of another flow"),
        (lambda on: on.words.key_by(length).join(on.table), "keys of type"),
        (lambda on: on.words.join_broadcast(on.joined, by=first), "looks up a table, not"),
        (lambda on: on.words.join_broadcast(on.table, by=first, where=min), "not both"),
        (lambda on: on.words.join_broadcast(on.table, by=length), "keys of type"),
        (lambda on: on.words.to_table(name="x"), "has no keys"),
        (lambda on: on.joined.to_table(name="table"), "two steps called 'table'"),
        (lambda on: on.joined.to_table(name="x", max_keys=0), "is no bound"),
        (lambda on: on.flow.table(7), "takes a function"),
        (lambda on: on.flow.table(lambda: [0]), "needs a stable name"),
    ],
)
def test_what_makes_no_sense_is_refused(build: Callable[[Both], object], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        build(both())


def length(word: str) -> int:
    return len(word)


# -- static tables -----------------------------------------------------------------------------------------------------


async def test_static_content_is_there_before_the_first_record_and_changes_at_a_start() -> None:
    content = {f"k{n}": n for n in range(5000)}
    flow = sf.Flow("static")
    words = flow.source(sf.MemoryTopic[str]("words", value=str))
    table = flow.table(lambda: dict(content), name="content", of=int)
    found = words.key_by(str).join(table, how="left")
    async with FlowTest(flow, Settings(fragment_rows_max=64)) as t:
        await t.send(words, "k0", "k4999", "none")
        assert [pair[1] for pair in t.out(found)] == [0, 4999, None]
        before = len(t.out(table.changes))
        del content["k0"]
        content |= {"k1": -1, "none": 8}
        t.topic(words).send("k0")
        t.topic(words).send("none")
        await t.crash()
        assert [pair[1] for pair in t.out(found)][3:] == [None, 8]
        # only what changed has come in
        changed = t.out(table.changes)[before:]
        assert changed == [sf.Change(0, None), sf.Change(1, -1), sf.Change(None, 8)]
        await t.crash()
        assert len(t.out(table.changes)) == before + 3
        assert t.state(table) == content


async def test_what_time_brings_about_waits_for_static_content_as_records_do() -> None:
    rows = 600
    content = dict.fromkeys(map(str, range(rows)), 1)
    flow = sf.Flow("waits")
    days = flow.source(sf.MemoryTopic[int]("days", value=int), time=lambda day: day * 86_400_000, idle=None)
    words = flow.source(sf.MemoryTopic[str]("words", value=str))
    table = flow.table(lambda: dict(content), name="content", of=int)

    @words.key_by(str).process(state=int)
    def later(ctx: sf.Context[str, int], word: str) -> list[str]:
        ctx.timer("due", after="1h")
        return []

    @later.on_timer("due")
    def due(ctx: sf.Context[str, int]) -> Iterable[str]:
        yield ctx.key

    fired = later.join(table)
    closed = days.key_by(lambda _: str(rows - 1)).window(sf.tumbling("1d")).count(name="n").join(table)
    async with FlowTest(flow, Settings(fragment_rows_max=64)) as t:
        await t.send(words, str(rows - 1))
        await t.send(days, 20_000)
        content = dict.fromkeys(content, 2)
        t.clock.advance_to(t.clock.now_ms() + 3_600_001)
        t.topic("days").close_input()
        await t.crash()
        assert [found for _, found in t.out(fired)] == [2]
        assert [found for _, found in t.out(closed)] == [2]


def _loaders(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    def rows() -> list[list[Any]]:
        return [["a", 1], ["b", 2]]

    async def later() -> list[list[Any]]:
        await asyncio.sleep(0)
        return rows()

    async def one_by_one() -> AsyncIterator[list[Any]]:
        for row in rows():
            yield row

    path.write_text('["a", 1]\n\n["b", 2]\n')
    for load in (rows, later, one_by_one, path):
        name = load.stem if isinstance(load, Path) else load.__name__
        yield name, {"load": load, "key": lambda row: row[0], "of": list[Any]}


async def test_content_comes_from_functions_of_any_kind_and_from_a_file(tmp_path: Path) -> None:
    flow = sf.Flow("loaders")
    words = flow.source(sf.MemoryTopic[str]("words", value=str))
    tables = [flow.table(**options) for _, options in _loaders(tmp_path / "some rows.jsonl")]
    assert [table.name for table in tables] == ["rows", "later", "one_by_one", "some-rows"]
    async with flow.test() as t:
        await t.send(words, "x")
        for table in tables:
            assert t.state(table) == {"a": ["a", 1], "b": ["b", 2]}


async def test_content_that_cannot_be_loaded_stops_the_start_and_changes_nothing() -> None:
    content: dict[str, int] | None = {"a": 1}
    flow = sf.Flow("broken")
    words = flow.source(sf.MemoryTopic[str]("words", value=str))

    def load() -> dict[str, int]:
        assert content is not None, "the service is away"
        return content

    found = words.key_by(str).join(flow.table(load))
    async with flow.test() as t:
        await t.send(words, "a")
        assert t.out(found) == [("a", 1)]
        content = None
        with pytest.raises(StreamflowError, match="'load' cannot be loaded: AssertionError: the service is away"):
            await t.crash()


async def test_static_content_runs_with_threads_and_a_flow_that_ends(tmp_path: Path) -> None:
    (tmp_path / "names.jsonl").write_text('{"id": 1, "name": "ann"}\n{"id": 2, "name": "bob"}\n')
    (tmp_path / "in.jsonl").write_text("2\n1\n3\n")
    flow = sf.Flow("whole", state=tmp_path / "state.db")
    numbers = flow.source(sf.jsonl(tmp_path / "in.jsonl", value=int))
    names = flow.table(tmp_path / "names.jsonl", key=lambda row: row["id"], of=dict[str, Any])
    found = numbers.key_by(lambda n: n).join(names).map(lambda pair: pair[1]["name"])
    found.to(sf.jsonl(tmp_path / "out.jsonl", value=str))
    await flow.run()
    assert (tmp_path / "out.jsonl").read_text() == '"bob"\n"ann"\n'
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write("3\n")
    (tmp_path / "names.jsonl").write_text('{"id": 3, "name": "cat"}\n')
    await flow.run()
    assert (tmp_path / "out.jsonl").read_text() == '"bob"\n"ann"\n"cat"\n'


# -- from outside ------------------------------------------------------------------------------------------------------


async def test_a_running_flows_table_is_read_by_key_and_as_a_whole(tmp_path: Path) -> None:
    flow = sf.Flow("outside", state=tmp_path / "state.db")
    changelog = flow.source(sf.MemoryTopic[Row]("changelog", value=tuple[str, int | None]))
    table = changelog.key_by(key).map(value).to_table(name="table")
    async with flow.running() as run:
        for row in [("b", 2), ("a", 1), ('"é\n', 3), ("c", 4), ("c", None)]:
            await run.push(changelog, row)
        view = run.table(table)
        assert (await view.get("a"), await view.get("c")) == (1, None)
        whole = [('"é\n', 3), ("a", 1), ("b", 2)]
        assert await view.items() == whole
        assert await view.items(limit=2) == whole[:2]
        await run.push(changelog, ("a", None))
    async with flow.running() as run:  # what was folded meanwhile reads the same
        assert await run.table(table).items() == [('"é\n', 3), ("b", 2)]


async def test_items_of_a_table_leave_out_what_is_over(tmp_path: Path) -> None:
    on = both(ttl="1h")
    async with FlowTest(on.flow) as t:
        await t.send(on.changelog, ("a", 1))
        await t.advance("59m")
        await t.send(on.changelog, ("b", 2))
        await t.advance("2m")
        await t.send(on.words, "tick")
        assert await t.engine.job.store.items("table", 10) == [(b'"b"', b"2")]


# -- what an as-of join keeps ------------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize(("within", "most"), [(None, 4), ("10s", 12)])
async def test_an_as_of_join_keeps_the_versions_that_may_still_be_found(
    how: Settings, within: str | None, most: int
) -> None:
    flow = sf.Flow("kept")

    def at(event: tuple[str, int]) -> int:
        return event[1] * 1000

    orders = flow.source(sf.MemoryTopic("orders", value=tuple[str, int]), time=at)
    prices = flow.source(sf.MemoryTopic("prices", value=tuple[str, int]), time=at)
    by_name = orders.key_by(lambda e: e[0], name="o")
    kept = by_name.join_asof(prices.key_by(lambda e: e[0], name="p"), within=within, name="kept")
    async with FlowTest(flow, how) as t:
        for second in range(90):
            # without within= every key keeps its last version; with it keys of long ago are gone
            name = "ab"[second % 2] if within is None else f"{second}"
            await t.send(prices, (name, second))
            await t.send(orders, (name, second))
            if second % 40 == 20:
                await t.crash()
            assert sum(map(len, t.state(kept).values())) <= most + 2
        assert len(t.out(kept)) == 89  # the last one waits for what may still happen at its own time
        await t.advance("31s")
        assert len(t.out(kept)) == 90
        assert all(order == price for order, price in t.out(kept))


async def test_none_ends_a_version_and_keys_are_bounded() -> None:
    flow = sf.Flow("ends")
    orders = flow.source(sf.MemoryTopic("orders", value=tuple[str, int]), time=lambda r: r[1] * 1000)
    prices = flow.source(sf.MemoryTopic("prices", value=tuple[str, int, int | None]), time=lambda r: r[1] * 1000)
    by_name = orders.key_by(lambda r: r[0], name="o").map(lambda r: r[1], name="ov")
    priced = prices.key_by(lambda r: r[0], name="p").map(lambda r: r[2])
    found = by_name.join_asof(priced, how="left", name="found", max_keys=2, types=(int, int | None))
    async with flow.test() as t:
        await t.send(prices, ("a", 10, 1), ("b", 10, 2), ("a", 20, None), ("a", 20, None), ("b", 40, 5))
        await t.send(orders, ("a", 15), ("a", 20), ("b", 39), ("b", 41))
        await t.crash()
        await t.send(prices, ("b", 50, 6))
        await t.send(orders, ("b", 50))
        assert t.out(found) == [(15, 1), (20, None), (39, 2), (41, 5)]
        assert set(t.state(found)) == {"b"}  # nothing is left of the one that ended
        await t.send(prices, ("c", 51, 7))
        with pytest.raises(StepError, match="as many as max_keys= allows"):
            await t.send(prices, ("d", 51, 8))
