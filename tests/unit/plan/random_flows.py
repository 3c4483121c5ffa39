"""Random flows: every kind of step, wired at random, over small integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st

import streamflow as sf
from streamflow.flow import Flow, KeyedStream, Stream
from streamflow.graph import Port

Pick = Callable[[int], int]
"""Chooses a number below the one given."""

SIDE = sf.Output("side", int)


def number(value: Any) -> int:
    """One small integer for whatever a step gave."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value % 997
    if isinstance(value, str):
        return len(value)
    if isinstance(value, sf.Windowed):
        value = value.value
    if value is None:
        return 11
    if isinstance(value, dict):
        value = [*value.values()]
    return sum((at + 1) * number(part) for at, part in enumerate(value)) % 997


class Steps:
    """The functions of one step; under policy skip they fail on some records, half way where they can."""

    def __init__(self, at: int, policy: sf.OnError) -> None:
        self.at, self.name, self.policy = at, f"s{at}", policy
        self.options: dict[str, Any] = {"name": self.name, "on_error": policy}

    def risk(self, value: Any) -> int:
        if self.policy is sf.skip and (number(value) + self.at) % 7 == 3:
            raise ValueError(f"{self.name} refuses {value!r}")
        return number(value)

    def map(self, value: Any) -> int:
        return self.risk(value) * 3 + self.at

    def map_context(self, ctx: sf.Context[Any, Any], value: Any) -> int:
        return self.risk(value) + int(ctx.id[:8], 16) + ctx.random.randrange(9) + len(ctx.headers)

    def filter(self, value: Any) -> bool:
        return self.risk(value) % 4 != 1

    def flat_map(self, value: Any) -> Iterator[int]:
        for ordinal in range(number(value) % 4):
            yield number(value) + ordinal
            if ordinal == 1:
                self.risk(value)

    def key(self, value: Any) -> str:
        return f"k{self.risk(value) % 3}"

    def reduce(self, so_far: int, value: Any) -> int:
        return (number(so_far) + self.risk(value)) % 997

    def add(self, total: dict[str, int], value: Any) -> dict[str, int]:
        total["n"] = total.get("n", 0) + number(value)
        self.risk(value)
        return total

    def process(self, ctx: sf.Context[str, dict[str, int]], value: Any) -> Iterator[Any]:
        ctx.state["n"] = ctx.state.get("n", 0) + number(value)
        ctx.timer("a", after=f"{number(value) % 5}ms")
        ctx.emit(SIDE, number(value) + 1)
        yield ctx.state
        if number(value) % 5 == 0:
            ctx.timer("b", after="3ms")
            ctx.cancel_timer("a")
        self.risk(value)
        ctx.state["m"] = ctx.state["n"] * 2
        yield ctx.state
        if number(value) % 13 == 0:
            ctx.clear()

    def on_a(self, ctx: sf.Context[str, dict[str, int]]) -> Iterator[Any]:
        yield ctx.state.get("n", 0) + int(ctx.id[:6], 16)
        ctx.state["fired"] = ctx.state.get("fired", 0) + 1
        ctx.timer("b", after="2ms")
        self.risk(ctx.state["fired"])
        ctx.emit(SIDE, 7)

    def on_b(self, ctx: sf.Context[str, dict[str, int]]) -> None:
        ctx.state["b"] = self.risk(ctx.state.get("b", 0) + 1)

    def remember(self, ctx: sf.Context[str, dict[str, int]], value: Any) -> Iterator[Any]:
        assert ctx.event_time is not None
        ctx.state["n"] = ctx.state.get("n", 0) + self.risk(value)
        ctx.timer("soon", after=f"{number(value) % 4}ms")
        yield ctx.event_time.microsecond

    def remind(self, ctx: sf.Context[str, dict[str, int]]) -> Iterator[Any]:
        assert ctx.event_time is not None
        yield self.risk(ctx.state["n"]) + ctx.event_time.microsecond + int(ctx.id[:6], 16)
        if ctx.state["n"] % 3 == 0:
            ctx.state["n"] += 1
            ctx.timer("soon", after="1ms")


KINDS = (
    "map",
    "map_context",
    "filter",
    "flat_map",
    "inspect",
    "branch",
    "split",
    "merge",
    "key_by",
    "map_batch",
    "dedup",
)
KEYED = ("count", "reduce", "aggregate", "process", "batch", "limited", "table")
ON_WATERMARKS = ("window", "reminders", "join", "by_time")


class How(NamedTuple):
    """How random flows are built: fused, a map stands where a batch step would; with steps that go by watermarks."""

    fused: bool
    watermarks: bool


def grow(pick: Pick, flow: Flow, streams: list[Stream[Any]], at: int, how: How) -> list[Stream[Any]]:
    """Adds one random step behind a random stream."""
    stream = streams[pick(len(streams))]
    keyed = isinstance(stream, KeyedStream)
    steps = Steps(at, (sf.stop, sf.skip)[pick(2)])
    options, name = steps.options, steps.name
    on_keys = KEYED * 2 + ON_WATERMARKS * 3 * how.watermarks
    kinds = KINDS + on_keys if keyed else (*KINDS, "key_by", "key_by")
    kind = kinds[pick(len(kinds))]
    match kind:
        case "map":
            return [stream.map(steps.map, **options)]
        case "map_context":
            return [stream.map(steps.map_context, **options)]
        case "filter":
            return [stream.filter(steps.filter, **options)]
        case "flat_map":
            return [stream.flat_map(steps.flat_map, **options)]
        case "inspect":
            return [stream.inspect(steps.risk, **options)]
        case "branch":
            return list(stream.branch(steps.filter, sf.otherwise, **options))
        case "split":
            routes = ["k0", "k1", "k2"]
            return list(stream.split(steps.key, routes, **options).values())
        case "merge":
            others = [streams[pick(len(streams))] for _ in range(1 + pick(3))]
            same = [other for other in others if isinstance(other, KeyedStream) == keyed]
            return [stream.merge(*(same or [stream]), name=name)]
        case "key_by":
            return [stream.key_by(steps.key, **options)]
        case "dedup":
            within = (None, "2ms")[pick(2)]
            return [stream.dedup(steps.map, within=within, **options)]
        case "map_batch":
            steps.policy = sf.stop
            if how.fused:
                step = flow._builder.add("map", name, [stream._port], steps.map, on_error=sf.stop)
                return [Stream(flow, Port(step.id))]
            return [stream.map_batch(lambda values: [steps.map(value) for value in values], name=name)]
    assert isinstance(stream, KeyedStream)
    match kind:
        case "count":
            return [stream.count(name=name)]
        case "reduce":
            return [stream.map(number, name=f"{name}-n").reduce(steps.reduce, **options)]
        case "aggregate":
            return [stream.aggregate(dict, steps.add, **options)]
        case "batch":
            return [stream.map(number, name=f"{name}-n").batch(3, within="4ms", name=name)]
        case "window":
            kinds_of_windows = (
                sf.tumbling("4ms"),
                sf.sliding("6ms", "2ms"),
                sf.session("2ms"),
                sf.count_window(3, 2),
            )
            windows = stream.window(kinds_of_windows[pick(4)], emit=("final", "updates")[pick(2)])
            result = windows.agg(sf.collect(steps.risk, kind=int), **options)
            return [result.map(lambda row: row.value or [], name=f"{name}-v"), result.late]
        case "join":
            keyed_streams = [other for other in streams if isinstance(other, KeyedStream)]
            sides = stream, keyed_streams[pick(len(keyed_streams))]
            left, right = (side.map(number, name=f"{name}-{n}") for n, side in zip("lr", sides, strict=True))
            joined = joined_by(left, right, pick, options)
            return [joined, joined.late.left, joined.late.right]
        case "table":
            others = [other for other in streams if isinstance(other, KeyedStream)]
            return looked_up(stream, others[pick(len(others))], pick, steps)
        case "by_time":
            return by_time(stream, [other for other in streams if isinstance(other, KeyedStream)], pick, steps)
        case "reminders":
            reminders = stream.process(state=dict, **options)(steps.remember)
            reminders.on_timer("soon", time="event")(steps.remind)
            return [reminders]
        case "limited":
            return [
                stream.process(state=dict, ttl="3ms", **options)(lambda ctx, value: steps.add(ctx.state, value).items())
            ]
    process = stream.process(state=dict, outputs=[SIDE], **options)(steps.process)
    process.on_timer("a")(steps.on_a)
    process.on_timer("b")(steps.on_b)
    return [process, process.output(SIDE)]


def joined_by(left: Any, right: Any, pick: Pick, options: dict[str, Any]) -> Any:
    """A join of two streams of integers, of some kind."""
    how = ("inner", "left", "right", "outer")[pick(4)]
    windows = (sf.tumbling("4ms"), sf.sliding("6ms", "2ms"), sf.session("2ms"))
    within = ("3ms", ("0ms", "2ms"), ("4ms", "-1ms"), ("-1ms", "2ms"))
    kind = pick(7)
    if kind < 4:
        return left.join(right, within=within[kind], how=how, **options)
    return left.join(right, window=windows[kind - 4], how=how, **options)


def value_or_none(value: Any) -> int | None:
    """The value of a table, or None, which removes it."""
    return None if number(value) % 4 == 0 else number(value)


def looked_up(stream: Any, other: Any, pick: Pick, steps: Steps) -> list[Stream[Any]]:
    """Joins with a table, a step and its timer that look it up, and its changes."""
    how, name = ("inner", "left")[pick(2)], steps.name
    ttl = (None, "3ms")[pick(2)]
    table = other.map(value_or_none, name=f"{name}-v").to_table(name=name, ttl=ttl, on_error=steps.policy)
    joined = stream.join(table, how=how, name=f"{name}-j")
    again: Any
    if pick(2):
        again = stream.join_broadcast(table, by=steps.key, how=how, name=f"{name}-b", on_error=steps.policy)
    else:
        where = lambda record, value: (steps.risk(record) + value) % 2  # noqa: E731
        again = stream.join_broadcast(table, where=where, how=how, name=f"{name}-b", on_error=steps.policy)

    @stream.process(state=int, tables=[table], name=f"{name}-s", on_error=steps.policy)
    def in_step(ctx: sf.Context[Any, int], value: Any) -> Iterator[int]:
        ctx.state += 1
        ctx.timer("soon", after="2ms")
        yield steps.risk(value) + (ctx.lookup(table, ctx.key) or 0) + ctx.state

    @in_step.on_timer("soon")
    def soon(ctx: sf.Context[Any, int]) -> Iterator[int]:
        yield (ctx.lookup(table, ctx.key) or 0) - ctx.state

    changes = table.changes.map(lambda change: (change.before or 0, change.after or 0), name=f"{name}-c")
    return [pairs.map(number, name=f"{name}-{n}") for n, pairs in enumerate((joined, again))] + [changes, in_step]


def by_time(stream: Any, others: list[Any], pick: Pick, steps: Steps) -> list[Stream[Any]]:
    """An as-of join, or dedup by event time."""
    name = steps.name
    if pick(2):
        return [stream.dedup(steps.map, within="3ms", time="event", **steps.options)]
    left = stream.map(number, name=f"{name}-l")
    right = others[pick(len(others))].map(value_or_none, name=f"{name}-r")
    within, allowed = (None, "4ms")[pick(2)], ("0s", "2ms")[pick(2)]
    how = ("inner", "left")[pick(2)]
    joined = left.join_asof(right, how=how, within=within, allowed_lateness=allowed, types=(int, Any), **steps.options)
    return [joined.map(number, name=f"{name}-n"), joined.late.left, joined.late.right.map(number, name=f"{name}-o")]


@st.composite
def flows(draw: Callable[[Any], Any], steps_max: int = 9, watermarks: bool = False) -> tuple[Flow, Flow]:
    """The same flow twice: as it is, and with a map instead of each batch step, so that it is one stage."""
    picked: list[int] = []

    def pick(count: int) -> int:
        picked.append(draw(st.integers(0, count - 1)))
        return picked[-1]

    flow = build(pick, steps_max, How(False, watermarks))
    again = iter(picked)
    return flow, build(lambda count: next(again), steps_max, How(True, watermarks))


def build(pick: Pick, steps_max: int, how: How) -> Flow:
    """Builds a flow of two sources, some random steps and up to three sinks."""
    flow = Flow("random")
    streams: list[Stream[Any]] = [
        flow.source(sf.MemoryTopic(f"in{n}"), time=lambda value: value, idle=None) for n in range(2)
    ]
    for at in range(1 + pick(steps_max)):
        streams += grow(pick, flow, streams, at, how)
    for n in range(1 + pick(3)):
        streams[-1 - n].to(sf.MemoryTopic(f"out{n}"))
    return flow


def _timed(rows: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    now, found = 1000, []
    for step, source, value in rows:
        now += step
        found.append((now, source, value))
    return found


records = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 30)), min_size=1, max_size=40).map(
    _timed
)
