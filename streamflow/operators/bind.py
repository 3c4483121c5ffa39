"""Binding: the objects that a stage's steps work with - tables, timers, contexts - and the names its loop sees.

The generated loop and the plain one (`streamflow.operators.plain`) run on the same bound stage.
"""

from __future__ import annotations

import os
import sysconfig
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from streamflow.batch import END, TIME_MAX, TIME_MIN, DeadLetter, Fragment, MicroBatch, Watermark
from streamflow.codecs import Codec, codec_for
from streamflow.errors import ConnectorError, EncodeError, FoundLate, StepError, StreamflowError
from streamflow.graph import SINK, Graph, OnError, Step
from streamflow.keys import Key
from streamflow.operators.context import Context, window_mark
from streamflow.operators.event_dedup import EventDedup
from streamflow.operators.join_forms import join_of
from streamflow.operators.joins import LEFT, RIGHT, Join
from streamflow.operators.letters import letter_of, spot_of
from streamflow.operators.stateful import Fold, Process, all_of
from streamflow.operators.step_clock import SideClocks, StepClock
from streamflow.operators.tables import Changelog, Find
from streamflow.operators.values import FROZEN, own
from streamflow.operators.window_forms import windows_of
from streamflow.operators.windows import LATE, Windows
from streamflow.plan import Stage, handled
from streamflow.plan.event_time import closes_by_watermark
from streamflow.state.bounds import KeyBound
from streamflow.state.key_check import KeyCheck
from streamflow.state.keyed import MISSING, Table
from streamflow.state.panes import PaneTable
from streamflow.state.timers import Timers

_HOME = str(Path(__file__).parents[1]) + os.sep
_DRIVER = str(Path(__file__).with_name("operator.py"))
_LIBRARY = sysconfig.get_path("stdlib") + os.sep


@dataclass(frozen=True, slots=True)
class StateSpec:
    """What kind of state a step keeps per key.

    Args:
        kind: ``value``, ``map`` or ``list``.
        type: Type of the value, or of a map's or list's elements.
        factory: Makes the value of a new key; None for maps, lists and where absence is a value.
        ttl_ms: State is gone this long after the key's last record; None keeps it.
        migrate: Turns an old value, as plain JSON, into one of ``type``.
        codec: Encodes values; default is typed JSON.
        sub_type: Type of a map's keys; needed to restore Enums.
        keys_max: Most keys; a record of one more is an error of the step.
        items_max: Most items that a map or list may hold for one key.
        form: The class of its table.
        hint: What to do about a value that cannot be stored, where that is not the value's own fault.
    """

    kind: str
    type: Any
    factory: Callable[[], Any] | None = None
    ttl_ms: int | None = None
    migrate: Callable[[Any], Any] | None = None
    codec: Codec[Any] | None = None
    sub_type: Any = None
    keys_max: int | None = None
    items_max: int | None = None
    form: type[Table[Any]] = Table
    hint: str = ""

    def table(self, name: str, key_type: Any) -> Table[Any]:
        """Makes the empty table of a step."""
        codec = self.codec or codec_for(self.type)
        if self.type in (str, bytes) and self.codec is None:
            codec = json_codec(self.type)
        table: Table[Any] = self.form(
            name, codec, self.factory, subs=self.kind != "value", ttl_ms=self.ttl_ms, key_type=key_type
        )
        table.sub_check.declared = self.sub_type
        table.bound = None if self.keys_max is None else KeyBound(name, self.keys_max)
        table.items_max = self.items_max
        table.hint = self.hint or table.hint
        return table


def json_codec(kind: Any) -> Codec[Any]:
    """State is JSON whatever its type, so that SQL can read it."""
    from streamflow.codecs import JsonCodec

    return JsonCodec[Any](kind)


def _nowhere(stage: int, letter: DeadLetter) -> None:
    raise AssertionError("a stage whose steps have dead letters has a place for them")


@dataclass(slots=True)
class BoundStage:
    """A stage with the objects its steps work with.

    Args:
        graph: The graph.
        stage: The stage.
        report: Called for each record that a policy leaves out, with step name, place and error.
        bury: Called besides for each that is to be kept as a dead letter, with the number of the stage.
        monotonic: Seconds that never go back.

    Attributes:
        until: When its loop should pause, so that others can run.
        entered: Since when its loop has been at work without a pause; 0 while it is not.
        at: Is told how far event time is at a step, when that has moved.
    """

    graph: Graph
    stage: Stage
    report: Callable[[str, str, Exception], None]
    monotonic: Callable[[], float] = time.monotonic
    bury: Callable[[int, DeadLetter], None] = _nowhere
    env: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Table[Any]] = field(default_factory=dict)
    timers: dict[str, Timers] = field(default_factory=dict)
    event_timers: dict[str, Timers] = field(default_factory=dict)
    changelogs: dict[str, Changelog] = field(default_factory=dict)
    windows: dict[str, Windows | Join | EventDedup] = field(default_factory=dict)
    clocks: dict[str, StepClock | SideClocks] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    step_of_line: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    file: str = ""
    blamed: tuple[int, Any] | None = None
    until: float = inf
    entered: float = 0.0
    _acted: tuple[int, int] = (0, 0)
    _marks: tuple[Watermark, ...] = ()
    at: Callable[[str, int], None] = lambda step, at_us: None
    _told: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.env |= {
            "Fragment": Fragment,
            "MISSING": MISSING,
            "FROZEN": FROZEN,
            "END": END,
            "own": own,
            "fail": self.fail,
            "lost": self.lost,
            "ticks": self.ticks,
            "late": self.late,
            "islice": islice,
            "moved": self.moved,
            "LATE": LATE,
            "NEVER": TIME_MIN - TIME_MAX,
        }
        for x, exit in enumerate(self.stage.exits):
            if exit.encodes or exit.lines:
                self.env[f"encode{x}"] = self.graph.step(f"{SINK}:{exit.name}").options["row_encoder"]
        for n, step in enumerate(self.stage.steps):
            self.env |= {f"{name}{n}": value for name, value in self._bind(n, step).items()}

    def _bind(self, n: int, step: Step) -> dict[str, Any]:
        """Names that the loop uses for one step, without the step's number."""
        names: dict[str, Any] = {"f": step.function}
        if step.options.get("context"):
            names["c"] = Context(self.graph.flow, step.name, tables=self.finds(step))
        match step.kind:
            case "branch":
                predicates = step.options["predicates"]
                names = {f"f{n}_{j}": predicate for j, predicate in enumerate(predicates)}
                self.env |= names
                names = {"none": _no_branch(step)}
            case "split":
                names["route"] = _router(step)
            case "flat_map":
                names["all"] = all_of
            case "key_by":
                names["q"] = KeyCheck(step.name, step.options["key_type"])
            case "dedup" if closes_by_watermark(step):
                names |= self._bind_event_dedup(step)
            case "count" | "reduce" | "aggregate" | "dedup":
                names |= self._bind_fold(step)
            case "process":
                names |= Process(self, step).names()
            case "async_process":
                names["process"] = Process(self, step)
            case "window":
                names |= self._bind_window(step)
            case "table":
                log = self.changelogs[step.id] = Changelog(step, self._table(step))
                names |= {"take": log.take, "attempt": log.attempt, "told": log.told}
            case "lookup":
                (names["find"],) = self.finds(step).values()
            case "broadcast":
                names |= {"pairs": partial(self.changelogs[step.reads[0]].pairs, step), "all": all_of}
            case "join":
                names |= self._bind_join(step)
        return names

    def finds(self, step: Step) -> Mapping[str, Find]:
        """How a step looks up the tables that it names, by their ids."""
        return {table: self.changelogs[table].find for table in step.reads}

    def _table(self, step: Step) -> Table[Any]:
        spec: StateSpec = step.options["state"]
        table = spec.table(step.name, step.options["key_type"])
        self.tables[step.name] = table
        return table

    def _bind_fold(self, step: Step) -> dict[str, Any]:
        table = self._table(step)
        fold = Fold(step, table, KeyCheck(step.name, step.options["key_type"]))
        return {
            "t": table,
            "miss": table.miss,
            "attempt": fold.attempt,
            "result": step.options.get("result"),
            "none": fold.none,
            "first": fold.first,
        }

    def _bind_window(self, step: Step) -> dict[str, Any]:
        table = self._table(step)
        assert isinstance(table, PaneTable), f"step {step.name} has no table of panes"
        windows = self.windows[step.name] = windows_of(self.graph, step, table)
        if windows.clock is not None:
            self.clocks[step.name] = windows.clock
        if handled(step):

            def lose(error: Exception, key: Key) -> None:
                self.skipped[step.name] += 1
                self.report(step.name, f"a window, key {key!r:.60}", error)

            windows.lose = lose
        return {
            "pane": windows.table.pane,
            "near": windows.table.near.get,
            "take": windows.take,
            "attempt": windows.attempt,
            "open": getattr(windows, "open", None),
            "add": windows.aggregator.add,
            "clock": windows.clock,
            "advance": windows.advance,
            "closing": windows.closing,
            "mark": partial(window_mark, step.name),
        }

    def _bind_event_dedup(self, step: Step) -> dict[str, Any]:
        dedup = self.windows[step.name] = EventDedup(self.graph, step, self._table(step))
        self.clocks[step.name] = dedup.clock
        mark = partial(window_mark, step.name)
        return {"first": dedup.first, "advance": dedup.advance, "closing": dedup.closing, "mark": mark}

    def _bind_join(self, step: Step) -> dict[str, Any]:
        join = self.windows[step.name] = join_of(self.graph, step, self._table(step))
        self.clocks[step.name] = join.clock
        taker = join.careful_taker if handled(step) else join.taker
        return {
            "left": taker(LEFT),
            "right": taker(RIGHT),
            "advance": join.advance,
            "closing": join.closing,
            "mark": partial(window_mark, step.name),
        }

    def installed(self) -> None:
        """Ends loading of all its state."""
        all_timers = [*self.timers.values(), *self.event_timers.values()]
        timer_tables = {timers.table.name for timers in all_timers}
        for name, table in self.tables.items():
            if name not in timer_tables:
                table.installed()
        for timers in all_timers:
            timers.installed()
        for windows in self.windows.values():
            windows.installed()

    # -- time and errors --------------------------------------------------------------------------

    def resume(self, now_ms: int, watermarks: Sequence[Watermark] = ()) -> None:
        """Goes on behind a checkpoint: what was due by its time and its watermarks has been acted on."""
        self._acted = (0, now_ms)
        self._marks = tuple(watermarks)
        for clock in self.clocks.values():
            clock.advance(watermarks)

    def moved(self, batch: MicroBatch) -> bool:
        """Whether a number says at its end that a watermark is further than the last one acted on."""
        if batch.watermarks == self._marks:
            return False
        self._marks = batch.watermarks
        return True

    def tell_clocks(self) -> None:
        """Tells how far event time is at the steps where it has moved."""
        for name, clock in self.clocks.items():
            at_us = clock.at_us
            if at_us != self._told.get(name, TIME_MIN):
                self._told[name] = at_us
                self.at(name, at_us)

    def ticks(self, batch: MicroBatch) -> bool:
        """Whether this is the first fragment of a number with a later time than the last one acted on."""
        number, now_ms = self._acted
        if batch.number == number or batch.now_ms <= now_ms or not batch.fires:
            return False
        self._acted = (batch.number, batch.now_ms)
        return True

    def late(self) -> bool:
        """Whether the loop has been at work for so long that it should pause."""
        return self.monotonic() > self.until

    def next_due_ms(self) -> int | None:
        """When the earliest timer of the stage is due."""
        return min((due for timers in self.timers.values() if (due := timers.next_due_ms()) is not None), default=None)

    def fail(self, error: Exception, part: Fragment, row: int) -> StreamflowError:
        """Makes the error that stops the flow out of what a step raised, with its exact place."""
        # an error of a connector that user code raised is the code's: nothing is to be opened again
        passes = isinstance(error, StreamflowError) and not isinstance(error, StepError | ConnectorError)
        if passes or isinstance(error, FoundLate):
            assert isinstance(error, StreamflowError)
            return error
        found, key = self._culprit(error.__traceback__)
        if found >= len(self.stage.steps):
            sink = self.stage.exits[found - len(self.stage.steps)].name
            return refused_by_sink(sink, key, self.place(part, row), error)
        step, where = self.stage.steps[found], self.place(part, row, key)
        at = _users_line(error.__traceback__)
        hint = getattr(error, "hint", "") or "Fix the step or the record; on_error=sf.skip leaves such records out."
        if isinstance(error, StepError):
            return type(error)(f"{error.message} ({where})", step=step.name, hint=hint)
        what = f"{type(error).__name__}: {error}"
        return StepError(f"step {step.name!r} raised {what}{at} ({where})", step=step.name, hint=hint)

    def _culprit(self, trace: TracebackType | None) -> tuple[int, Any]:
        """The step that raised and the key it was working on; MISSING where it has none.

        Exits count behind the steps; what a sink was working on is the value.
        """
        found, key = self.blamed or (0, MISSING)
        self.blamed = None
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.file and trace.tb_lineno in self.step_of_line:
                found, name = self.step_of_line[trace.tb_lineno]
                key = trace.tb_frame.f_locals.get(name, MISSING) if name else MISSING
            trace = trace.tb_next
        return found, key

    def at_work(self, frame: FrameType | None) -> tuple[str, str]:
        """The step whose call a thread is in, and the user's line, given the thread's innermost frame."""
        step, line = "", ""
        while frame is not None and not step and frame.f_code.co_filename != _DRIVER:
            name = frame.f_code.co_filename
            if name == self.file and frame.f_lineno in self.step_of_line:
                n, _ = self.step_of_line[frame.f_lineno]
                steps, exits = self.stage.steps, self.stage.exits
                step = steps[n].name if n < len(steps) else exits[n - len(steps)].name
            elif not line and not name.startswith((_HOME, _LIBRARY, "<")) and "site-packages" not in name:
                line = f" at {Path(name).name}:{frame.f_lineno}"
            frame = frame.f_back
        return step or " or ".join(step.name for step in self.stage.steps), line

    def lost(self, n: int, error: Exception, part: Fragment, row: int, key: Key = MISSING) -> None:
        """Counts a record that policy ``skip`` leaves out; raises the error of a step that only had more attempts."""
        step = self.stage.steps[n]
        if step.options["on_error"] is OnError.STOP:
            self.blamed = (n, key)
            raise error
        place = self.place(part, row, key)
        if step.options["on_error"] is OnError.DEAD_LETTER:
            self.bury(self.stage.index, letter_of("step", step.name, place, error, spot_of(part, row)))
        self.skipped[step.name] += 1
        self.report(step.name, place, error)

    def place(self, part: Fragment, row: int, key: Key = MISSING) -> str:
        """Says where a row of a fragment came from."""
        about = f", key {key!r:.60}" if key is not MISSING else ""
        if part.origins is not None and 0 <= row < len(part.origins):
            row = part.origins[row][0]
        found = part.batch.locate(row) if row >= 0 else None
        if found is None:
            return f"a timer{about}, number {part.batch.number}"
        (source, _, records), at = found
        spot = f"source {source!r}"
        if records.partition:
            spot += f", partition {records.partition!r}"
        if records.positions is not None:
            return f"{spot}, the record before position {records.positions[at]}{about}"
        return f"{spot}, message {(records.ids or ())[at]}{about}"


def _users_line(trace: TracebackType | None) -> str:
    """Where the user's code was: its innermost line, or the innermost of a library where only those are known."""
    lines = [line for line in reversed(traceback.extract_tb(trace)) if not line.filename.startswith((_HOME, "<"))]
    own_code = (
        line for line in lines if not line.filename.startswith(_LIBRARY) and "site-packages" not in line.filename
    )
    found = next(own_code, lines[0] if lines else None)
    return f" at {Path(found.filename).name}:{found.lineno}" if found is not None else ""


def _no_branch(step: Step) -> Callable[[Any], int]:
    def none(value: Any) -> int:
        raise ValueError(f"no branch of {step.name!r} takes {value!r:.80}; add a last one that takes the rest")

    return none


def _router(step: Step) -> Callable[[Any], int]:
    routes = {route: at for at, route in enumerate(step.options["routes"])}

    def route(name: Any) -> int:
        try:
            return routes[name]
        except KeyError:
            raise ValueError(
                f"split {step.name!r} has no route {name!r:.60}, only {', '.join(map(repr, routes))}"
            ) from None

    return route


def refused_by_sink(sink: str, value: object, where: str, error: Exception) -> EncodeError:
    """Makes the error for a value that a sink cannot encode."""
    reason = error.message if isinstance(error, StreamflowError) else f"{type(error).__name__}: {error}"
    return EncodeError(
        f"sink {sink!r} cannot encode {value!r:.80} ({where}): {reason}",
        step=sink,
        hint=(error.hint if isinstance(error, StreamflowError) else "")
        or "Map it to what the sink's value= says, or leave such records out with .to(..., on_error=sf.skip).",
    )
