"""The loop of a fused stage, as Python source text.

One loop runs all steps of a stage record by record, depth first: the order in which rows leave it is the tuple order
of their origins. It binds users' functions and table look-ups as locals and works on bare lists, so nothing is
crossed per record but the users' own calls. A port that is reached from several places (a merge, the output of a
step with timers) becomes a local function. The loop is a generator: it pauses when it has many rows for an exit, and
when it has kept the event loop for long, at which it looks every 32 rows.

The text defines ``make(env)``, which returns ``loop(part)``: Fragment -> iterator of one tuple of Fragments (one per
exit, then one per tap). ``env`` is made by `streamflow.operators.bind`, which also runs the same stage without this
text (`streamflow.operators.plain`), the reference that every generated loop must equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from streamflow.batch import FRAGMENT_ROWS_MAX
from streamflow.graph import Graph, Port, Step
from streamflow.plan.event_time import acts_on_watermarks, closes_by_watermark
from streamflow.plan.stages import Entry, Stage, leaving
from streamflow.plan.steps import HELPERS, STEPS, Scope, write_side
from streamflow.plan.view import StageView, handled, keyed_sink, takes_context, tracks_origins
from streamflow.plan.window_text import write_prologue, write_watermarks

BLOCKS_MAX = 10
"""CPython allows 20 nested blocks; a deeper chain goes on in a function of its own."""

DEPTH_MAX = 70
"""CPython allows 100 levels of indentation."""

LOOK_ROWS = 32
"""After so many rows the loop looks at the time: the look costs a fifth of a cheap step."""

LENGTH_MAX = 30
"""Steps written one inside the other; the writer is recursive."""


@dataclass(frozen=True, slots=True)
class LoopText:
    """Source text of a stage's loop, and per line the step it belongs to and the name of its key, if it has one."""

    text: str
    step_of_line: dict[int, tuple[int, str]]


def loop_text(
    graph: Graph,
    stage: Stage,
    taps: Sequence[Port] = (),
    rows_max: int = FRAGMENT_ROWS_MAX,
    *,
    traced: bool = False,
) -> LoopText:
    """Writes the loop of a stage.

    Args:
        graph: The graph it is part of.
        stage: A stage that is no boundary.
        taps: Ports whose rows are wanted besides, for subscribers and tests.
        rows_max: A loop that gives many rows for one pauses after so many.
        traced: Whether sinks get rows with their origins, never frames, so that headers can be found for them.
    """
    return LoopWriter(graph, stage, tuple(taps), rows_max, traced).write()


@dataclass(slots=True)
class LoopWriter:
    """Writes one stage's loop; `streamflow.plan.steps` writes what each kind of step does in it."""

    graph: Graph
    stage: Stage
    taps: tuple[Port, ...]
    rows_max: int
    traced: bool = False
    lines: list[tuple[str, int, str]] = field(default_factory=list)
    depth: int = 0
    blocks: int = 0
    step: int = -1
    key: str = ""
    length: int = 0
    wanted: list[Port] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    track: bool = field(init=False)
    view: StageView = field(init=False)

    def __post_init__(self) -> None:
        self.track = self.traced or tracks_origins(self.stage)
        self.view = StageView(self.graph, self.stage, self.taps)

    def scope(self, path: tuple[str, ...]) -> Scope:
        """Where rows come in: under the names that loops, timers and local functions give their parts."""
        return Scope("v", "k", path, "t", "w") if self.stage.timed else Scope("v", "k", path)

    # -- text ----------------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append((" " * self.depth + text, self.step, self.key))

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(head)
        nests = head.startswith(("for ", "while ", "try", "except"))
        self.depth += 1
        self.blocks += nests
        yield
        self.depth -= 1
        self.blocks -= nests

    def write(self) -> LoopText:
        track = self.track
        with self.block("def make(env):"):
            self.line("values_of = env.__getitem__")
            for name in self._bound_names():
                self.line(f"{name} = values_of({name!r})")
            with self.block("def loop(part):"):
                self._prologue()
                body_at = len(self.lines)
                self._timers(track)
                self._rows(track)
                write_watermarks(self, track)
                self.line(f"yield {self._fragments('last', 'part.upto', copy=False)}")
                body, self.lines = self.lines[body_at:], self.lines[:body_at]
                self._continuations(track)
                self.lines += body
            self.line("return loop")
        steps = {number: (step, key) for number, (_, step, key) in enumerate(self.lines, start=1) if step >= 0}
        return LoopText("\n".join(text for text, _, _ in self.lines) + "\n", steps)

    def _bound_names(self) -> list[str]:
        names = [
            "Fragment",
            "MISSING",
            "FROZEN",
            "own",
            "fail",
            "lost",
            "ticks",
            "late",
            "islice",
            "END",
            "LATE",
            "moved",
            "NEVER",
        ]
        for n, step in enumerate(self.stage.steps):
            if step.kind == "branch":
                names += [f"f{n}_{j}" for j in range(step.ports)]
            elif step.function is not None:
                names.append(f"f{n}")
            names += [f"{name}{n}" for name in HELPERS.get(step.kind, ())]
            if acts_on_watermarks(step):
                names += [f"advance{n}", f"mark{n}"]
                names += [f"closing{n}"] if closes_by_watermark(step) else [f"eventdue{n}", f"upto{n}", f"fire{n}"]
            if step.kind == "process":
                names += [f"due{n}", f"fire{n}", f"mark{n}"] if step.options["timers"] else []
            if step.kind != "process" and step.options.get("context"):
                names.append(f"c{n}")
        return names + [f"encode{x}" for x, exit in enumerate(self.stage.exits) if exit.encodes]

    def _prologue(self) -> None:
        self.line("batch, values, last, keys, ports, origins, upto, times, marks = part")
        self.line("now = batch.now_ms")
        for x, exit in enumerate(self._exits()):
            for letter in exit:
                self.line(f"x{letter}{x} = []; add_x{letter}{x} = x{letter}{x}.append")
        for n, step in enumerate(self.stage.steps):
            without_hot = ("dedup", "join", "table", "window")
            if step.traits.stateful and step.kind not in without_hot and not self.handled(step):
                self.line(f"hot{n} = t{n}.hot; get{n} = hot{n}.get")
            if step.kind == "window":
                write_prologue(self, n, step)
            if takes_context(step):
                self.line(f"c{n}.batch = batch")
            if step.kind == "key_by" and not self.handled(step):
                self.line(f"kind{n} = q{n}.kind")
        with self.block("def flush(upto):"):
            self.line(f"out = {self._fragments('False', 'upto', copy=True)}")
            for x, exit in enumerate(self._exits()):
                self.line("; ".join(f"x{letter}{x}.clear()" for letter in exit))
            self.line("return out")

    def _rows(self, track: bool) -> None:
        entry = self.stage.index == 0
        keyed = any(self.view.keyed(entry) for entry in self.stage.entries)
        columns, names = ["it"], ["v"]
        for want, column, name in (
            (keyed, "keys", "k"),
            (len(self.stage.entries) > 1, "ports", "p"),
            (track and not entry, "origins", "o"),
            (self.stage.timed, "times", "t"),
            (self.stage.timed, "marks", "w"),
        ):
            if want:
                columns.append(column)
                names.append(name)
        self.line("it = iter(values)")
        rows = "it" if len(columns) == 1 else f"zip({', '.join(columns)})"
        row = ", ".join(names)
        if track and entry:
            rows, row = f"enumerate({rows})", f"i, {row}" if len(names) == 1 else f"i, ({row})"
        path = () if not track else ("i",) if entry else ("*o",)
        self.line(f"rows = {rows}; more = it.__length_hint__")
        with self.block("try:"), self.block("while more():"):
            with self.block(f"for {row} in islice(rows, {LOOK_ROWS}):"):
                for p, at in enumerate(self.stage.entries):
                    scope = self.scope(path)
                    if len(self.stage.entries) == 1:
                        self._enter(at, scope)
                    else:
                        with self.block(f"{'if' if p == 0 else 'elif'} p == {p}:"):
                            self._enter(at, scope)
            self.step = -1
            self._look("more() and late()", path)
        with self.block("except Exception as error:"):
            self.line("raise fail(error, part, len(values) - 1 - it.__length_hint__()) from error")

    def _enter(self, entry: Entry, scope: Scope) -> None:
        """Writes what happens to a row that comes in."""
        if entry.into:
            self._step(self.graph.step(entry.into), scope, Port(entry.step, entry.out))
        else:
            self.emit(Port(entry.step, entry.out), scope)

    def _timers(self, track: bool) -> None:
        steps = [n for n, step in enumerate(self.stage.steps) if step.kind == "process" and step.options["timers"]]
        if not steps:
            return
        self.line("it = iter(values)")
        with self.block("if ticks(batch):"):
            with self.block("try:"):
                for n in reversed(steps):
                    self._timers_of(n, self.stage.steps[n], track)
            self.step = -1
            with self.block("except Exception as error:"):
                self.line("raise fail(error, part, -1) from error")

    def _timers_of(self, n: int, step: Step, track: bool) -> None:
        self.step, self.key = n, "k"
        with self.block(f"for j, (k, name, at) in enumerate(due{n}(now)):"):
            self.line(f"o = (-1, {-self.graph.steps.index(step)}, j, mark{n}(k, name, at))")
            if self.stage.timed:
                self.line(f"c{n}.time = t = w = at * 1000")
            self.fired_timer(n, step, track)
        self.key = ""

    def fired_timer(self, n: int, step: Step, track: bool) -> None:
        """Writes the call of a timer's handler and what follows; its origin is ``o``, its ordinal ``j``."""
        with self.guarded(n, step, f"r = fire{n}(k, name, o)"):
            with self.block("for m, v in enumerate(r):"):
                self.emit(Port(step.id), self.scope(("*o", "m") if track else ()))
                self.pause(Port(step.id), ("*o", "m"), "m")
            write_side(self, n, step, self.scope(("*o",) if track else ()))
        self._look(f"j % {LOOK_ROWS} == {LOOK_ROWS - 1} and late()", ("*o",))

    def _continuations(self, track: bool) -> None:
        done: set[Port] = set()
        while self.wanted:
            port = self.wanted.pop(0)
            if port in done:
                continue
            done.add(port)
            self.step, self.key, self.blocks, self.length = -1, "", 0, 0
            more = (", o" if track else "") + (", t, w" if self.stage.timed else "")
            with self.block(f"def {self._function(port)}(v, k{more}):"):
                body_at, self.kept = len(self.lines), []
                self._consume(port, self.scope(("*o",) if track else ()))
                if self.kept:
                    self.lines.insert(body_at, (" " * self.depth + f"nonlocal {', '.join(self.kept)}", -1, ""))
                self.line("return")
                if self.view.expanding[port]:
                    self.line("yield")  # its callers iterate over it, also where what it expands reaches no exit

    # -- exits ---------------------------------------------------------------------------------------------------

    def _exits(self) -> list[str]:
        """Per exit and tap the letters of its columns: values, keys, ports and origins, times and watermarks."""
        found = []
        for exit in self.stage.exits:
            keyed = keyed_sink(self.graph, exit) if self.traced and not exit.edge else exit.keyed
            places = "po" if exit.edge else "o" if self.traced or exit.placed else ""
            found.append(f"v{'k' if keyed else ''}{places}{'tw' if exit.edge and exit.edge.timed else ''}")
        return found + ["v" for _ in self.taps]

    def _fragments(self, last: str, upto: str, *, copy: bool) -> str:
        parts = []
        for x, exit in enumerate(self._exits()):
            cells = [f"x{letter}{x}{'[:]' if copy else ''}" if letter in exit else "None" for letter in "vkpotw"]
            times = f", {cells[4]}, {cells[5]}" if "t" in exit else ""
            parts.append(f"Fragment(batch, {cells[0]}, {last}, {cells[1]}, {cells[2]}, {cells[3]}, {upto}{times})")
        return f"({', '.join(parts)}{',' if parts else ''})"

    def _leave(self, x: int, port: Port, scope: Scope, port_number: int) -> None:
        if x < len(self.stage.exits) and self.stage.exits[x].encodes and not self.traced:
            # blamed on the sink, which stands behind the steps
            before = self.step, self.key
            self.step, self.key = len(self.stage.steps) + x, scope.value
            self.line(f"add_xv{x}(encode{x}({scope.value}))")
            self.step, self.key = before
            return
        columns = self._exits()[x]
        key = scope.key if self.view.keyed(port) else "None"
        cells = {
            "v": scope.value,
            "k": key,
            "p": str(port_number),
            "o": scope.origin(),
            "t": scope.time,
            "w": scope.mark,
        }
        self.line("; ".join(f"add_x{letter}{x}({cells[letter]})" for letter in columns))

    def pause(self, port: Port, path: Sequence[str], count: str) -> None:
        """Writes the pause behind one of many rows; ``count`` names their number."""
        full = [f"len(xv{x}) >= {self.rows_max}" for x in sorted(self.view.reached[port])]
        # what is multiplied again may take long each time
        look = "late()" if self.view.expanding[port] else f"{count} % {LOOK_ROWS} == {LOOK_ROWS - 1} and late()"
        self._look(" or ".join([*full, look]), path)

    def _look(self, condition: str, path: Sequence[str]) -> None:
        """Writes a pause: what is there leaves, complete up to a path."""
        upto = f"({', '.join(path)}, END)" if self.track else "None"
        with self.block(f"if {condition}:"):
            self.line(f"yield flush({upto})")

    def handled(self, step: Step) -> bool:
        return handled(step)

    def _is_function(self, port: Port) -> bool:
        step = self.graph.step(port.step)
        timers = step.kind == "process" and (step.options["timers"] or step.options["event_timers"] or port.out > 0)
        shared = step.kind in ("merge", "window", "join") or timers
        deep = self.blocks >= BLOCKS_MAX or self.depth > DEPTH_MAX or self.length > LENGTH_MAX
        return (shared or deep) and step in self.stage.steps

    def _function(self, port: Port) -> str:
        index = next(n for n, step in enumerate(self.stage.steps) if step.id == port.step)
        return f"go{index}_{port.out}"

    # -- rows ------------------------------------------------------------------------------------------------------

    def emit(self, port: Port, scope: Scope) -> None:
        """Writes what happens to a row of a port."""
        if not self._is_function(port):
            self._consume(port, scope)
            return
        if not self.view.reached[port] and not self.view.inside(port):
            self.line("pass")
            return
        self.wanted.append(port)
        key = scope.key if self.view.keyed(port) else "None"
        origin = f", {scope.origin()}" if scope.path else ""
        times = f", {scope.time}, {scope.mark}" if self.stage.timed else ""
        call = f"{self._function(port)}({scope.value}, {key}{origin}{times})"
        self.line(f"yield from {call}" if self.view.expanding[port] else call)

    def _consume(self, port: Port, scope: Scope) -> None:
        consumers = self.graph.consumers(port)
        taps = [len(self.stage.exits) + t for t, tap in enumerate(self.taps) if tap == port]
        for x in taps:
            self.line(f"add_xv{x}({scope.value})")
        for c, step in enumerate(consumers):
            path = (*scope.path, str(c)) if len(consumers) > 1 and scope.path else scope.path
            inner = replace(scope, path=path)
            if step in self.stage.steps:
                self._step(step, inner, port)
            else:
                x, number = leaving(self.stage, port, step)
                self._leave(x, port, inner, number)
        if not consumers and not taps:
            self.line("pass")

    def _step(self, step: Step, scope: Scope, port: Port) -> None:
        before, keyed = (self.step, self.key, self.length), self.view.keyed(port)
        self.step, self.key, self.length = self.stage.steps.index(step), scope.key if keyed else "", self.length + 1
        STEPS[step.kind](self, self.step, step, replace(scope, side=step.inputs.index(port)))
        self.step, self.key, self.length = before

    def call(self, n: int, step: Step, scope: Scope, function: str = "f") -> str:
        if not step.options.get("context"):
            return f"{function}{n}({scope.value})"
        if self.view.keyed(step.inputs[0]):
            self.line(f"c{n}.key = {scope.key}")
        self.line(f"c{n}.origin = {scope.origin()}")
        if scope.time:
            self.line(f"c{n}.time = {scope.time}")
        return f"{function}{n}(c{n}, {scope.value})"

    @contextmanager
    def guarded(self, n: int, step: Step, assignment: str) -> Iterator[None]:
        """Writes a call and what follows it; under a policy other than stop, an error leaves the row out."""
        if not self.handled(step):
            self.line(assignment)
            yield
            return
        with self.block("try:"):
            self.line(assignment)
        with self.block("except Exception as error:"):
            key = f", {self.key}" if self.key else ""
            self.line(f"lost({n}, error, part, len(values) - 1 - it.__length_hint__(){key})")
        with self.block("else:"):
            yield
