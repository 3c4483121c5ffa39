"""The plain executor: the same bound stage, walked step by step without generated text.

It is the reference that every generated loop must equal, row for row, and the mode for debugging: an ordinary
recursion into which one can step. It gives a fragment per row that reaches an exit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamflow.batch import END, Fragment, Origin
from streamflow.graph import SINK, Port, Step
from streamflow.operators.bind import BoundStage, handled
from streamflow.operators.fused import Transform
from streamflow.operators.values import own
from streamflow.state.keyed import MISSING


def plain_loop(bound: BoundStage, taps: Sequence[Port] = ()) -> Transform:
    """Returns the plain executor of a stage."""
    return _Plain(bound, tuple(taps)).run


@dataclass(frozen=True, slots=True)
class _Row:
    value: Any
    key: Any
    origin: Origin

    def to(self, value: Any, *path: int) -> _Row:
        return _Row(value, self.key, (*self.origin, *path))


_Left = tuple[int, _Row, int]
"""A row that leaves: exit, row, port number in the target."""


@dataclass(frozen=True)
class _Plain:
    bound: BoundStage
    taps: tuple[Port, ...]

    def run(self, part: Fragment) -> Iterator[tuple[Fragment, ...]]:
        row = -1
        try:
            if self.bound.timers and self.bound.ticks(part.batch):
                for left in self._timers(part):
                    yield self._fragments(part, left, last=False)
            for row, value in enumerate(part.values):
                port = self.bound.stage.entries[part.ports[row] if part.ports else 0]
                origin = part.origins[row] if part.origins else (row,)
                here = _Row(value, part.keys[row] if part.keys else None, origin)
                for left in self._emit(port, here, part, row):
                    yield self._fragments(part, left, last=False)
        except Exception as error:
            raise self.bound.fail(error, part, row) from error
        yield self._fragments(part, None, last=part.last)

    def _fragments(self, part: Fragment, left: _Left | None, *, last: bool) -> tuple[Fragment, ...]:
        exits = [(exit.keyed, exit.edge is not None) for exit in self.bound.stage.exits] + [(False, False)] * len(self.taps)
        upto = part.upto if left is None else (*left[1].origin, END)
        out = []
        for x, (keyed, edge) in enumerate(exits):
            rows = [left] if left is not None and left[0] == x else []
            values, keys = [row.value for _, row, _ in rows], [row.key for _, row, _ in rows]
            ports, origins = [port for _, _, port in rows], [row.origin for _, row, _ in rows]
            columns = (keys if keyed else None, ports if edge else None, origins if edge else None)
            out.append(Fragment(part.batch, values, last, *columns, upto))
        return tuple(out)

    def _timers(self, part: Fragment) -> Iterator[_Left]:
        env, graph = self.bound.env, self.bound.graph
        for n, step in reversed(list(enumerate(self.bound.stage.steps))):
            if step.name not in self.bound.timers:
                continue
            env[f"c{n}"].batch = part.batch
            for j, (key, name, due_ms) in enumerate(env[f"due{n}"](part.batch.now_ms)):
                origin = (-1, -graph.steps.index(step), j)
                for m, value in enumerate(env[f"fire{n}"](key, name, due_ms, origin)):
                    yield from self._emit(Port(step.id), _Row(value, key, (*origin, m)), part, -1)
                yield from self._sides(n, step, _Row(None, key, origin), part, -1)

    def _emit(self, port: Port, row: _Row, part: Fragment, at: int) -> Iterator[_Left]:
        """Walks a row from a port to every exit that it reaches, depth first."""
        stage, graph = self.bound.stage, self.bound.graph
        for t, tap in enumerate(self.taps):
            if tap == port:
                yield len(stage.exits) + t, row, 0
        branches: list[tuple[int, Step | None, int]] = []
        edges: set[int] = set()
        here = {step.id: n for n, step in enumerate(stage.steps)}
        for step in graph.consumers(port):
            if step.id in here:
                branches.append((here[step.id], step, 0))
                continue
            for x, exit in enumerate(stage.exits):
                if exit.edge is None:
                    if step.id == f"{SINK}:{exit.name}":
                        branches.append((x, None, 0))
                elif step.kind != SINK and port in exit.edge.entries and x not in edges:
                    edges.add(x)
                    branches.append((x, None, exit.edge.entries.index(port)))
        for c, (n, inside, number) in enumerate(branches):
            inner = row.to(row.value, c) if len(branches) > 1 else row
            if inside is None:
                yield n, inner, number
            else:
                yield from self._step(n, inside, inner, part, at)

    def _step(self, n: int, step: Step, row: _Row, part: Fragment, at: int) -> Iterator[_Left]:
        env = self.bound.env
        if f"c{n}" in env:
            context = env[f"c{n}"]
            context.batch, context.key, context.origin = part.batch, row.key, row.origin
        if not handled(step):
            outputs = self._call(n, step, row, part)
        else:
            try:
                outputs = iter(list(self._call(n, step, row, part)))
            except Exception as error:
                self.bound.lost(n, error, part, at)
                return
        for out, result in outputs:
            yield from self._emit(Port(step.id, out), result, part, at)
        if step.kind == "process":
            yield from self._sides(n, step, row, part, at)

    def _sides(self, n: int, step: Step, row: _Row, part: Fragment, at: int) -> Iterator[_Left]:
        for j, (out, value) in enumerate(self.bound.env[f"side{n}"]()):
            yield from self._emit(Port(step.id, out), row.to(own(value), END, j), part, at)

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
                for j, output in enumerate(step.call(*arguments)):
                    yield 0, row.to(output, j)
            case "key_by":
                new = step.call(*arguments)
                env[f"q{n}"].check(new)
                yield 0, _Row(value, new, row.origin)
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
                if env[f"first{n}"](step.call(*arguments), part.batch.now_ms):
                    yield 0, row
            case "count" | "reduce" | "aggregate":
                yield 0, row.to(self._fold(n, step, key, value))
            case "process":
                yield from self._process(n, step, row, part)

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
        if after is None:
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
        for j, output in enumerate(step.call(context, row.value) or ()):
            yield 0, row.to(own(output), j)
        if context.state is not state:
            env[f"put{n}"](row.key, context.state)
