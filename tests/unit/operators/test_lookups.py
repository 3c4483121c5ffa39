"""Tables looked up inside steps: what a call finds, in which steps, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StepError
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest

Rate = tuple[str, float | None]
WAYS = pytest.mark.parametrize("how", [Settings(), Settings(plain=True)], ids=["loop", "plain"])


def code(rate: Rate) -> str:
    return rate[0]


def number(rate: Rate) -> float | None:
    return rate[1]


@dataclass
class Given:
    """A flow with a table of rates, and orders that name a currency."""

    flow: sf.Flow = field(default_factory=lambda: sf.Flow("lookups"))
    changes: sf.Stream[Rate] = field(init=False)
    orders: sf.Stream[tuple[str, str]] = field(init=False)
    rates: sf.Table[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.changes = self.flow.source(sf.MemoryTopic[Rate]("changes", value=tuple[str, float | None]))
        self.orders = self.flow.source(sf.MemoryTopic[tuple[str, str]]("orders", value=tuple[str, str]))
        self.rates = self.changes.key_by(code, name="code").map(number).to_table(name="rates", ttl="1h")


@WAYS
async def test_a_process_step_finds_any_key_as_of_its_record(how: Settings) -> None:
    on = Given()
    names = on.flow.table(lambda: {"USD": "dollar"}, name="names", of=str)

    @on.orders.key_by(lambda order: order[0], name="user").process(state=list, tables=[on.rates, names])
    def seen(ctx: sf.Context[str, list[Any]], order: tuple[str, str]) -> Iterator[list[Any]]:
        ctx.state.append(ctx.lookup(on.rates, order[1]))
        yield [ctx.key, ctx.lookup(names, order[1]), *ctx.state]

    async with FlowTest(on.flow, how) as t:
        await t.send(on.orders, ("ann", "USD"))
        await t.send(on.changes, ("USD", 0.5), ("CHF", 2.0))
        await t.send(on.orders, ("ann", "USD"), ("bob", "CHF"))
        await t.send(on.changes, ("USD", None), ("CHF", 3.0))
        await t.crash()
        await t.send(on.orders, ("ann", "USD"), ("bob", "CHF"))
        assert t.out(seen) == [
            ["ann", "dollar", None],
            ["ann", "dollar", None, 0.5],
            ["bob", None, 2.0],
            ["ann", "dollar", None, 0.5, None],
            ["bob", None, 2.0, 3.0],
        ]
        await t.advance("61m")  # the table's ttl
        await t.send(on.orders, ("eve", "CHF"))
        assert t.out(seen)[-1] == ["eve", None, None]


@WAYS
async def test_one_record_changes_the_table_and_looks_it_up_in_the_order_of_the_program(how: Settings) -> None:
    flow = sf.Flow("order")
    source = flow.source(sf.MemoryTopic[Rate]("in", value=tuple[str, float | None]))
    keyed = source.key_by(code)

    table = keyed.map(number).to_table(name="table")

    @keyed.map(tables=[table], name="behind")
    def behind(ctx: sf.Context[str, None], rate: Rate) -> float | None:
        return ctx.lookup(table, ctx.key)

    async with FlowTest(flow, how) as t:
        await t.send(source, ("a", 1.0), ("a", 2.0), ("a", None), ("a", 3.0))
        assert t.out(behind) == [1.0, 2.0, None, 3.0]


@WAYS
async def test_stateless_steps_look_up_too(how: Settings) -> None:
    on = Given()
    seen: list[float | None] = []

    @on.orders.map(tables=[on.rates])
    def priced(ctx: sf.Context[Any, Any], order: tuple[str, str]) -> tuple[str, float | None]:
        return order[0], ctx.lookup(on.rates, order[1])

    def known(ctx: sf.Context[Any, Any], order: tuple[str, str]) -> bool:
        return ctx.lookup(on.rates, order[1]) is not None

    @on.orders.flat_map(tables=[on.rates], on_error=sf.retry(1).then(sf.skip))
    def times(ctx: sf.Context[Any, Any], order: tuple[str, str]) -> Iterator[str]:
        yield from [order[0]] * int(ctx.lookup(on.rates, order[1]) or 0)

    def look(ctx: sf.Context[Any, Any], order: tuple[str, str]) -> None:
        seen.append(ctx.lookup(on.rates, order[1]))

    let_through = on.orders.filter(known, tables=[on.rates])
    by_user = on.orders.key_by(lambda order: order[0], name="user")
    kept = by_user.filter(known, tables=[on.rates], name="keyed-known")
    on.orders.inspect(look, tables=[on.rates])
    async with FlowTest(on.flow, how) as t:
        await t.send(on.changes, ("CHF", 2.0))
        await t.send(on.orders, ("ann", "CHF"), ("bob", "USD"))
        assert t.out(priced) == [("ann", 2.0), ("bob", None)]
        assert t.out(let_through) == t.out(kept) == [("ann", "CHF")]
        assert t.out(times) == ["ann", "ann"]
        assert seen == [2.0, None]


@WAYS
async def test_what_is_found_is_the_callers_to_change(how: Settings) -> None:
    flow = sf.Flow("own")
    changes = flow.source(sf.MemoryTopic[Any]("changes"))
    words = flow.source(sf.MemoryTopic[str]("words", value=str))
    table = changes.key_by(lambda row: row["key"], name="key").to_table(name="table", of=dict[str, Any])

    @words.key_by(str).process(state=dict, tables=[table])
    def spoiled(ctx: sf.Context[str, dict[str, Any]], word: str) -> Iterator[list[int]]:
        found = ctx.lookup(table, word)
        assert found is not None
        mine = ctx.state.setdefault("mine", found)  # what is looked up becomes state, and changes there
        mine["n"] += 1
        found["list"].append(0)
        yield [mine["n"], len(mine["list"]), len(found["list"])]

    async with FlowTest(flow, how) as t:
        await t.send(changes, {"key": "a", "n": 1, "list": []})
        await t.send(words, "a", "a")
        assert t.state(table) == {"a": {"key": "a", "n": 1, "list": []}}
        await t.crash()
        await t.send(words, "a")
        assert t.out(spoiled) == [[2, 1, 1], [3, 1, 1], [4, 1, 1]]
        assert t.state(table) == {"a": {"key": "a", "n": 1, "list": []}}


@WAYS
async def test_timers_look_up_as_of_where_they_fire(how: Settings) -> None:
    flow = sf.Flow("timers")
    changes = flow.source(sf.MemoryTopic[Rate]("changes", value=tuple[str, float | None]))
    orders = flow.source(sf.MemoryTopic[int]("orders", value=int), time=lambda at: at * 1000, idle=None)
    table = changes.key_by(code, name="code").map(number).to_table(name="rates")

    @orders.key_by(lambda at: "EUR").process(state=int, tables=[table])
    def timed(ctx: sf.Context[str, int], at: int) -> list[tuple[str, float | None]]:
        if at == 0:
            ctx.timer("soon", after="10s")
            ctx.timer("then", after="10s")
        return []

    @timed.on_timer("soon")
    def soon(ctx: sf.Context[str, int]) -> Iterator[tuple[str, float | None]]:
        yield "soon", ctx.lookup(table, ctx.key)

    @timed.on_timer("then", time="event")
    def then(ctx: sf.Context[str, int]) -> Iterator[tuple[str, float | None]]:
        yield "then", ctx.lookup(table, ctx.key)

    async with FlowTest(flow, how) as t:
        await t.send(changes, ("EUR", 1.0))
        await t.send(orders, 0)
        await t.send(changes, ("EUR", 2.0))
        await t.send(orders, 11)
        assert t.out(timed) == [("then", 2.0)]
        await t.send(changes, ("EUR", 3.0))
        await t.crash()
        await t.advance("11s")
        assert t.out(timed)[1:] == [("soon", 3.0)]


async def test_a_timer_that_is_due_at_a_start_finds_the_content_of_that_start() -> None:
    content = {"a": 1}
    flow = sf.Flow("static")
    words = flow.source(sf.MemoryTopic[str]("words", value=str))
    table = flow.table(lambda: dict(content), name="content", of=int)

    @words.key_by(str).process(state=int, tables=[table])
    def later(ctx: sf.Context[str, int], word: str) -> list[int | None]:
        ctx.timer("due", after="1h")
        return []

    @later.on_timer("due")
    def due(ctx: sf.Context[str, int]) -> Iterator[int | None]:
        yield ctx.lookup(table, ctx.key)

    async with flow.test() as t:
        await t.send(words, "a")
        content = {"a": 2}
        t.clock.advance_to(t.clock.now_ms() + 3_600_001)
        await t.crash()
        assert t.out(later) == [2]


async def test_a_table_moves_behind_an_async_step_with_who_looks_it_up() -> None:
    on = Given()

    async def slow(order: tuple[str, str]) -> tuple[str, str]:
        return order

    @on.orders.map(slow).map(tables=[on.rates])
    def found(ctx: sf.Context[Any, Any], order: tuple[str, str]) -> float | None:
        return ctx.lookup(on.rates, order[1])

    plan = on.flow.plan()
    assert plan.stage_of("step:rates") == plan.stage_of("step:found") == 2
    async with on.flow.test() as t:
        await t.send(on.changes, ("USD", 0.5))
        await t.send(on.orders, ("ann", "USD"))
        await t.crash()
        await t.send(on.orders, ("ann", "USD"), ("ann", "CHF"))
        assert t.out(found) == [0.5, 0.5, None]


@WAYS
async def test_a_failed_call_leaves_no_trace_and_looks_up_again(how: Settings) -> None:
    on = Given()
    tries: list[float | None] = []

    @on.orders.key_by(lambda order: order[0], name="user").process(
        state=list, tables=[on.rates], on_error=sf.retry(2).then(sf.skip)
    )
    def counted(ctx: sf.Context[str, list[float]], order: tuple[str, str]) -> Iterator[list[float]]:
        rate = ctx.lookup(on.rates, order[1])
        tries.append(rate)
        ctx.state.append(rate or -1.0)
        if rate is None:
            raise ValueError("no rate")
        yield list(ctx.state)

    async with FlowTest(on.flow, how) as t:
        await t.send(on.orders, ("ann", "USD"))
        await t.send(on.changes, ("USD", 0.5))
        await t.send(on.orders, ("ann", "USD"))
        assert tries == [None, None, None, 0.5]
        assert t.out(counted) == [[0.5]]


@WAYS
async def test_a_key_of_none_finds_nothing_and_one_of_another_type_is_an_error(how: Settings) -> None:
    on = Given()

    @on.orders.map(tables=[on.rates])
    def found(ctx: sf.Context[Any, Any], order: tuple[str, str]) -> float | None:
        key: Any = {"none": None, "int": 7}.get(order[1], order[1])
        return ctx.lookup(on.rates, key)

    async with FlowTest(on.flow, how) as t:
        await t.send(on.changes, ("USD", 0.5))
        await t.send(on.orders, ("ann", "USD"), ("ann", "none"))
        assert t.out(found) == [0.5, None]
        with pytest.raises(StepError, match="'found' raised TypeError: key 7 is int, the keys before were str"):
            await t.send(on.orders, ("ann", "int"))


@WAYS
async def test_a_table_that_the_step_does_not_name_is_refused(how: Settings) -> None:
    on = Given()
    other = on.flow.table(lambda: {"a": 1}, name="other", of=int)

    @on.orders.map(tables=[other])
    def found(ctx: sf.Context[Any, Any], order: tuple[str, str]) -> float | None:
        return ctx.lookup(on.rates, "USD")

    async with FlowTest(on.flow, how) as t:
        with pytest.raises(DefinitionError, match="looks up a table that it does not name"):
            await t.send(on.orders, ("ann", "USD"))


async def slow_process(ctx: sf.Context[str, int], order: Any) -> None: ...


async def slow_map(ctx: sf.Context[str, int], order: Any) -> None: ...


def with_context(ctx: sf.Context[str, int], order: Any) -> None: ...


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda on, user: user.process(state=int, tables=[on.rates])(slow_process), "async step 'slow_process' cannot"),
        (lambda on, user: on.orders.map(slow_map, tables=[on.rates]), "async step 'slow_map' cannot look up"),
        (lambda on, user: user.map(code, tables=[on.rates]), "asks for no context"),
        (lambda on, user: user.filter(with_context, tables=[on.changes]), "which is no table"),
        (lambda on, user: user.process(state=int, tables=[Given().rates])(with_context), "of another flow"),
    ],
)
def test_what_makes_no_sense_is_refused(build: Callable[[Given, Any], object], says: str) -> None:
    on = Given()
    with pytest.raises(DefinitionError, match=says):
        build(on, on.orders.key_by(lambda order: order[0], name="user"))
