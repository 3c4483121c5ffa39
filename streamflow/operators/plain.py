"""The plain executor: the same bound stage, walked step by step without generated text.

It is the reference that every generated loop must equal, row for row, and the mode for debugging: an ordinary
recursion into which one can step. It gives a fragment per row that reaches an exit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from streamflow.batch import END, Fragment, Origin
from streamflow.graph import Port, Step
from streamflow.operators.bind import BoundStage
from streamflow.operators.fused import Transform
from streamflow.operators.values import own
from streamflow.operators.windows import LATE
from streamflow.plan import Entry, Exit, handled, leaving
from streamflow.plan.event_time import closes_by_watermark
from streamflow.plan.view import keyed_sink
from streamflow.state.keyed import MISSING


def plain_loop(bound: BoundStage, taps: Sequence[Port] = (), *, careful: bool = False) -> Transform:
    """Returns the plain executor of a stage.

    Args:
        bound: The stage.
        taps: Ports whose rows are wanted besides.
        careful: Encode what a call left in the state at its end, so that what cannot be encoded is told with its place.
    """
    for table in bound.tables.values() if careful else ():
        table.checks_all = True
    return _Plain(bound, tuple(taps), careful).run


@dataclass(frozen=True, slots=True)
class _Row:
    value: Any
    key: Any
    origin: Origin
    time: Any = None
    mark: Any = None
    port: Port | None = None
    """What gave it to the step at hand."""

    def to(self, value: Any, *path: int) -> _Row:
        return _Row(value, self.key, (*self.origin, *path), self.time, self.mark)


_Left = tuple[int, _Row, int, Origin]
"""A row that leaves: exit, row, port number in the target, and how far every edge is complete then."""


@dataclass(frozen=True)
class _Plain:
    bound: BoundStage
    taps: tuple[Port, ...]
    careful: bool

    def run(self, part: Fragment) -> Iterator[tuple[Fragment, ...]]:
        row = -1
        try:
            if self.bound.timers and self.bound.ticks(part.batch):
                for left in self._timers(part):
                    yield self._fragments(part, left, last=False)
            for row, value in enumerate(part.values):
                entry = self.bound.stage.entries[part.ports[row] if part.ports else 0]
                origin = part.origins[row] if part.origins else (row,)
                key = part.keys[row] if part.keys else None
                here = _Row(
                    value, key, origin, *((part.times[row], part.marks[row]) if part.times and part.marks else ())
                )
                for left in self._enter(entry, here, part, row):
                    yield self._fragments(part, left, last=False)
            if part.last and self.bound.clocks and self.bound.moved(part.batch):
                row = -1
                for left in self._watermarks(part):
                    yield self._fragments(part, left, last=False)
        except Exception as error:
            raise self.bound.fail(error, part, row) from error
        yield self._fragments(part, None, last=part.last)

    def _fragments(self, part: Fragment, left: _Left | None, *, last: bool) -> tuple[Fragment, ...]:
        traced = part.batch.traced
        exits = [
            (
                keyed_sink(self.bound.graph, exit) if traced and not exit.edge else exit.keyed,
                exit.edge is not None,
                bool(exit.edge and exit.edge.timed),
                traced or exit.placed,
            )
            for exit in self._exits
        ] + [(False, False, False, False)] * len(self.taps)
        upto = part.upto if left is None else left[3]
        out = []
        for x, (keyed, edge, timed, placed) in enumerate(exits):
            rows = [left] if left is not None and left[0] == x else []
            if x < len(self.bound.stage.exits) and not traced:
                rows = [self._encoded(x, row) for row in rows]
            values, keys = [row.value for _, row, *_ in rows], [row.key for _, row, *_ in rows]
            ports, origins = [port for _, _, port, _ in rows], [row.origin for _, row, *_ in rows]
            columns = (keys if keyed else None, ports if edge else None, origins if edge or placed else None)
            times = ([row.time for _, row, *_ in rows], [row.mark for _, row, *_ in rows]) if timed else (None, None)
            out.append(Fragment(part.batch, values, last, *columns, upto, *times))
        return tuple(out)

    @property
    def _exits(self) -> Sequence[Exit]:
        return self.bound.stage.exits

    def _encoded(self, x: int, left: _Left) -> _Left:
        exit, row = self.bound.stage.exits[x], left[1]
        if not exit.encodes and not exit.lines:
            return left
        self.bound.blamed = (len(self.bound.stage.steps) + x, row.value)
        frame = self.bound.env[f"encode{x}"](row.value)
        self.bound.blamed = None
        # lines are made of many rows at once; it was encoded here to find out which of them cannot be
        return left if exit.lines else (left[0], replace(row, value=frame), *left[2:])

    def _enter(self, entry: Entry, row: _Row, part: Fragment, at: int) -> Iterator[_Left]:
        if entry.into:
            step = self.bound.graph.step(entry.into)
            port = Port(entry.step, entry.out)
            return self._step(self.bound.stage.steps.index(step), step, replace(row, port=port), part, at)
        return self._emit(Port(entry.step, entry.out), row, part, at)

    def _timers(self, part: Fragment) -> Iterator[_Left]:
        env, graph = self.bound.env, self.bound.graph
        for n, step in reversed(list(enumerate(self.bound.stage.steps))):
            if step.name not in self.bound.timers:
                continue
            env[f"c{n}"].batch = part.batch
            for j, (key, name, due_ms) in enumerate(env[f"due{n}"](part.batch.now_ms)):
                origin = (-1, -graph.steps.index(step), j, env[f"mark{n}"](key, name, due_ms))
                timer = _Row(None, key, origin, *[due_ms * 1000] * 2 * self.bound.stage.timed)
                yield from self._fired_timer(n, step, timer, name, part)

    def _watermarks(self, part: Fragment) -> Iterator[_Left]:
        """What the number's watermarks make due, step by step."""
        env, marks = self.bound.env, part.batch.watermarks
        for n, step in enumerate(self.bound.stage.steps):
            if step.name not in self.bound.clocks or not env[f"advance{n}"](marks):
                continue
            place = (END, self.bound.graph.steps.index(step))
            if closes_by_watermark(step):
                for j, fired in enumerate(self._watched(n, MISSING, env[f"closing{n}"]())):
                    if fired is None:
                        continue
                    key, value, time, about = fired
                    row = _Row(value, key, (*place, j, env[f"mark{n}"](key, about)), time, time)
                    yield from self._emit(Port(step.id), row, part, -1)
                continue
            env[f"c{n}"].batch = part.batch
            for j, (key, name, due_us) in enumerate(env[f"eventdue{n}"](env[f"upto{n}"](marks))):
                timer = _Row(None, key, (*place, j, env[f"mark{n}"](key, name, due_us)), due_us, due_us)
                yield from self._fired_timer(n, step, timer, name, part)

    def _fired_timer(self, n: int, step: Step, timer: _Row, name: str, part: Fragment) -> Iterator[_Left]:
        env, key, origin = self.bound.env, timer.key, timer.origin
        env[f"c{n}"].time = timer.time
        try:
            outputs = self._encoded_after(step, env[f"fire{n}"](key, name, origin))
        except Exception as error:
            if not handled(step):
                raise
            self.bound.lost(n, error, part, -1, key)
            return
        for m, value in enumerate(self._watched(n, key, outputs)):
            yield from self._emit(Port(step.id), timer.to(value, m), part, -1)
        yield from self._sides(n, step, timer, part, -1)

    def _emit(self, port: Port, row: _Row, part: Fragment, at: int) -> Iterator[_Left]:
        """Walks a row from a port to every exit that it reaches, depth first."""
        stage = self.bound.stage
        for t, tap in enumerate(self.taps):
            if tap == port:
                # the row itself is still to come: complete is what stands before it
                yield len(stage.exits) + t, row, 0, (*row.origin[:-1], row.origin[-1] - 1, END)
        consumers = self.bound.graph.consumers(port)
        for c, step in enumerate(consumers):
            inner = row.to(row.value, c) if len(consumers) > 1 else row
            if step in stage.steps:
                yield from self._step(stage.steps.index(step), step, replace(inner, port=port), part, at)
            else:
                x, number = leaving(stage, port, step)
                yield x, inner, number, (*inner.origin, END)

    def _step(self, n: int, step: Step, row: _Row, part: Fragment, at: int) -> Iterator[_Left]:
        env = self.bound.env
        if f"c{n}" in env:
            context = env[f"c{n}"]
            context.batch, context.key, context.origin = part.batch, row.key, row.origin
            context.time = row.time
        if not handled(step):
            calls = self._encoded_after(step, self._call(n, step, row, part))
            outputs = self._watched(n, row.key if self._keyed(step) else MISSING, calls)
        else:
            try:
                outputs = iter(list(self._call(n, step, row, part)))
            except Exception as error:
                self.bound.lost(n, error, part, at, *[row.key] * self._keyed(step))
                return
        for out, result in outputs:
            yield from self._emit(Port(step.id, out), result, part, at)
        if step.kind == "process":
            yield from self._sides(n, step, row, part, at)

    def _encoded_after(self, step: Step, outputs: Iterable[Any]) -> Iterator[Any]:
        """The outputs of a call; behind the last one, what it left in the state must be such that it can be stored."""
        if not (self.careful and step.traits.stateful) or handled(step):
            yield from outputs
            return
        table = self.bound.tables[step.name]
        table.begin()
        try:
            yield from outputs
            table.verify()
        finally:
            table.keep()

    def _keyed(self, step: Step) -> bool:
        return any(self.bound.graph.step(port.step).keyed for port in step.inputs)

    def _watched(self, n: int, key: Any, outputs: Iterable[Any]) -> Iterator[Any]:
        """Notes whose call it was that raised; what the rows behind it raise does not pass here."""
        try:
            yield from outputs
        except Exception:
            self.bound.blamed = (n, key)
            raise

    def _sides(self, n: int, step: Step, row: _Row, part: Fragment, at: int) -> Iterator[_Left]:
        for j, (out, value) in enumerate(self.bound.env[f"side{n}"]()):
            yield from self._emit(Port(step.id, out), row.to(value, END, j), part, at)

    def _call(self, n: int, step: Step, row: _Row, part: Fragment) -> Iterator[tuple[int, _Row]]:
        """One call of a step: pairs of port and row."""
        env, key, value = self.bound.env, row.key, row.value
        arguments = (env[f"c{n}"], value) if step.options.get("context") else (value,)
        match step.kind:
            case "map":
                yield 0, row.to(step.call(*arguments))
            case "filter":
                if step.call(*arguments):
                    yield 0, row
            case "inspect":
                step.call(*arguments)
                yield 0, row
            case "merge":
                yield 0, row
            case "flat_map":
                outputs = step.call(*arguments)
                for j, output in enumerate(env[f"all{n}"](outputs) if handled(step) else outputs):
                    yield 0, row.to(output, j)
            case "key_by":
                new = step.call(*arguments)
                env[f"q{n}"].check(new)
                yield 0, replace(row, key=new)
            case "branch":
                for j, predicate in enumerate(step.options["predicates"]):
                    if predicate(value):
                        yield j, row.to(value, j)
                        return
                env[f"none{n}"](value)
            case "split":
                j = env[f"route{n}"](step.call(*arguments))
                yield j, row.to(value, j)
            case "dedup":
                times = (part.batch.now_ms,) if step.options["dedup"] is None else (row.time, row.mark)
                if env[f"first{n}"](step.call(*arguments), *times):
                    yield 0, row
            case "count" | "reduce" | "aggregate":
                yield 0, row.to(self._fold(n, step, key, value))
            case "process":
                yield from self._process(n, step, row, part)
            case "table" | "lookup" | "broadcast":
                yield from self._with_table(n, step, row, part)
            case "window":
                yield from self._window(n, step, row, part)
            case "join":
                yield from self._join(n, step, row)

    def _with_table(self, n: int, step: Step, row: _Row, part: Fragment) -> Iterator[tuple[int, _Row]]:
        env, key, value, now_ms = self.bound.env, row.key, row.value, part.batch.now_ms
        match step.kind:
            case "table":
                if step.options["pairs"]:
                    key, value = value
                changed = env[f"attempt{n}" if handled(step) else f"take{n}"](key, value, now_ms)
                if changed is not None:
                    yield 0, replace(row, key=key, value=env[f"told{n}"](changed))
            case "lookup":
                found = env[f"find{n}"](key if step.function is None else step.call(value), now_ms)
                if found is not MISSING or step.options["how"] == "left":
                    yield 0, row.to((value, None if found is MISSING else found))
            case "broadcast":
                pairs = env[f"pairs{n}"](value, now_ms)
                for j, pair in enumerate(env[f"all{n}"](pairs) if handled(step) else pairs):
                    yield 0, row.to(pair, j)

    def _window(self, n: int, step: Step, row: _Row, part: Fragment) -> Iterator[tuple[int, _Row]]:
        take = self.bound.env[f"attempt{n}" if handled(step) else f"take{n}"]
        given: Any = take(row.key, row.value, row.time, row.mark, part.batch.now_ms)
        if given is LATE:
            yield 1, row.to(row.value, 1)
            return
        rows: Sequence[tuple[Any, int]] = given or ()
        for j, (output, time) in enumerate(rows):
            inner = row.to(output, 0, j)
            yield 0, inner if row.time is None else replace(inner, time=time, mark=time)

    def _join(self, n: int, step: Step, row: _Row) -> Iterator[tuple[int, _Row]]:
        assert row.port is not None
        side = step.inputs.index(row.port)
        found: Any = self.bound.env[f"{('left', 'right')[side]}{n}"](row.key, row.value, row.time, row.mark)
        if found is LATE:
            yield 1 + side, row.to(row.value, 1 + side)
            return
        matches: Sequence[tuple[int, Any]] = found or ()
        for j, (time, held) in enumerate(matches):
            pair = (held.left, row.value) if side else (row.value, held.right)
            yield 0, replace(row.to(pair, 0, j), time=max(row.time, time))

    def _fold(self, n: int, step: Step, key: Any, value: Any) -> tuple[Any, Any]:
        table = self.bound.tables[step.name]
        if handled(step):
            return self.bound.env[f"attempt{n}"](key, value)  # type: ignore[no-any-return]
        before = table.get(key)
        if step.kind == "count":
            after: Any = before + 1
        elif before is MISSING:
            after = own(value)
        else:
            after = step.call(before, value)
        if after is None and before is not MISSING:
            self.bound.env[f"none{n}"]()
        table.put(key, after)
        result = step.options.get("result")
        return key, own(after if result is None else result(after))

    def _process(self, n: int, step: Step, row: _Row, part: Fragment) -> Iterator[tuple[int, _Row]]:
        env = self.bound.env
        if handled(step):
            outputs = env[f"attempt{n}"](row.key, row.value, row.origin)
            yield from ((0, row.to(output, j)) for j, output in enumerate(outputs))
            return
        context, state = env[f"c{n}"], env[f"view{n}"](row.key, part.batch.now_ms)
        context.state = state
        outputs = step.call(context, row.value)
        for j, output in enumerate(() if outputs is None else outputs):
            yield 0, row.to(own(output), j)
        if context.state is not state:
            env[f"put{n}"](row.key, context.state)
