"""Stateful calls that are not written into a loop: folds and process steps, atomic, with attempts and timers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from streamflow.graph import Step
from streamflow.keys import Key
from streamflow.operators.context import CALL_OUTPUTS_MAX, CLEARED, Context, timer_mark
from streamflow.operators.step_clock import StepClock, clock_of
from streamflow.operators.values import own
from streamflow.plan import handled
from streamflow.policy import Retry
from streamflow.state.collections import ListState, MapState
from streamflow.state.key_check import KeyCheck
from streamflow.state.keyed import MISSING, Table
from streamflow.state.timers import EVENT_TIMERS_SUFFIX, Timers

if TYPE_CHECKING:
    from streamflow.operators.bind import BoundStage, StateSpec

T = TypeVar("T")


@dataclass(slots=True)
class Fold:
    """Calls of a reduce, aggregate, count or dedup step that are not written into the loop."""

    step: Step
    table: Table[Any]
    check: KeyCheck

    def attempt(self, key: Key, value: Any) -> tuple[Key, Any]:
        """The call under a policy other than stop: restores the key's state if it raises."""
        return again(self.step, lambda: self._once(key, value))

    def _once(self, key: Key, value: Any) -> tuple[Key, Any]:
        table, options = self.table, self.step.options
        table.begin()
        try:
            before = table.get(key)
            if self.step.kind == "count":
                after: Any = before + 1
            else:
                after = own(value) if before is MISSING else self.step.call(before, value)
            if after is None and before is not MISSING:
                self.none()
            table.put(key, after)
            result = own(options["result"](after) if options.get("result") is not None else after)
            table.verify()
        except BaseException:
            table.roll_back()
            raise
        table.keep()
        return key, result

    def none(self) -> None:
        raise TypeError(f"the function of {self.step.kind} step {self.step.name!r} returned None, not the new value")

    def first(self, key: Key, now_ms: int) -> bool:
        """Whether a key is seen for the first time within the step's ttl."""
        table = self.table
        if key.__class__ is not self.check.kind:
            self.check.check(key)
        if table.ttl_ms is None:
            if table.peek(key) is not MISSING:
                return False
        elif not table.expired(key, now_ms):
            return False
        else:
            table.renew(key, now_ms)
        table.put(key, True)
        return True


class Process:
    """Calls of a process step that are not written into its loop: views, atomic calls, timers."""

    def __init__(self, bound: BoundStage, step: Step) -> None:
        options = step.options
        self.step = step
        self.spec: StateSpec = options["state"]
        self.table: Table[Any] = self.spec.table(step.name, options["key_type"])
        self.table.in_place = self.spec.kind == "value"
        bound.tables[step.name] = self.table
        self.timers: Timers | None = None
        self.event_timers: Timers | None = None
        self.clock: StepClock | None = None
        self.handlers = {**options["timers"], **options["event_timers"]}
        if options["timers"]:
            self.timers = bound.timers[step.name] = Timers(step.name, options["timers"], options["key_type"])
            bound.tables[self.timers.table.name] = self.timers.table
        if options["event_timers"]:
            self.event_timers = Timers(
                step.name, options["event_timers"], options["key_type"], suffix=EVENT_TIMERS_SUFFIX
            )
            bound.event_timers[step.name] = self.event_timers
            bound.tables[self.event_timers.table.name] = self.event_timers.table
            self.clock = bound.clocks[step.name] = clock_of(bound.graph, step)
        self._flow = bound.graph.flow
        self._finds = bound.finds(step)
        self.context = self.new_context()

    def new_context(self) -> Context[Any, Any]:
        """A context for a call."""
        name, outputs = self.step.name, self.step.options["outputs"]
        context: Context[Any, Any] = Context(self._flow, name, self.timers, outputs, self._finds)
        context.event_timers = self.event_timers
        return context

    def names(self) -> dict[str, Any]:
        timers: dict[str, Any] = {}
        if self.handlers:
            fire = self.attempt_timer if handled(self.step) else self.fire
            timers = {"fire": fire, "mark": partial(timer_mark, self.step.name)}
        if self.timers is not None:
            timers["due"] = self.timers.due
        if self.event_timers is not None and self.clock is not None:
            timers |= {"eventdue": partial(self.event_timers.due, chained=True)}
            timers |= {"advance": self.clock.advance, "upto": self.clock.upto}
        return {
            "t": self.table,
            "c": self.context,
            "miss": self.table.miss,
            "view": self.view,
            "put": self.put,
            "attempt": self.attempt,
            "side": self.context.drain,
            **timers,
        }

    def view(self, key: Key, now_ms: int) -> Any:
        """The state of a key, as the step's context shows it."""
        if self.spec.kind == "map":
            return MapState(self.table, key)
        if self.spec.kind == "list":
            return ListState(self.table, key)
        return self.table.get(key) if self.spec.ttl_ms is None else self.table.live(key, now_ms)

    def put(self, key: Key, value: Any) -> None:
        """Stores what a call assigned to ``ctx.state``, or removes the key's state."""
        if self.spec.kind == "value":
            if value is CLEARED:
                self.table.delete(key)
            else:
                self.table.put(key, value)
        elif value is not CLEARED:
            raise TypeError(
                f"ctx.state of {self.step.name!r} is a {self.spec.kind}: change it in place, do not assign it"
            )
        else:
            for sub in list(self.table.index.get(key, ())):
                self.table.delete((key, sub))

    def keep(self, key: Key, context: Context[Any, Any], state: Any) -> None:
        """Stores what a call that took its time left in its context."""
        if context.state is not state:
            self.put(key, context.state)
            ttl_ms = self.table.ttl_ms
            if ttl_ms is not None and context.state is not CLEARED and key not in self.table.expires:
                # its time was over meanwhile, and it was deleted
                self.table.set_expiry(key, context.batch.now_ms + ttl_ms)

    def attempt(self, key: Key, value: Any, origin: tuple[int, ...]) -> list[Any]:
        """One call under a policy other than stop: its outputs, all of them, or the state as it was and the error."""
        return again(self.step, lambda: self._atomic(key, origin, lambda context: self.step.call(context, value)))

    def attempt_timer(self, key: Key, name: str, origin: tuple[int, ...]) -> list[Any]:
        """`attempt` for a timer's handler; the timer itself is spent in any case."""
        return again(self.step, lambda: self._atomic(key, origin, self.handlers[name]))

    def _atomic(self, key: Key, origin: tuple[int, ...], call: Callable[[Any], Any]) -> list[Any]:
        context, table = self.context, self.table
        kept = [timers for timers in (self.timers, self.event_timers) if timers is not None]
        table.begin()
        for timers in kept:
            timers.begin(key)
        try:
            outputs = all_of(self._outputs(key, origin, call))
            table.verify()
        except BaseException:
            table.roll_back()
            for timers in kept:
                timers.roll_back()
            context.drain()
            raise
        table.keep()
        for timers in kept:
            timers.table.keep()
        return outputs

    def fire(self, key: Key, name: str, origin: tuple[int, ...]) -> Iterator[Any]:
        """Calls a timer's handler and gives what it gives."""
        return self._outputs(key, origin, self.handlers[name])

    def _outputs(self, key: Key, origin: tuple[int, ...], call: Callable[[Any], Any]) -> Iterator[Any]:
        """Makes one call; each output is taken as it is when it is given."""
        context = self.context
        state = self.view(key, context.batch.now_ms)
        context.key, context.origin, context.state = key, origin, state
        outputs = call(context)
        if outputs is not None:
            yield from map(own, outputs)
        if context.state is not state:
            self.put(key, context.state)


def again(step: Step, attempt: Callable[[], T]) -> T:
    """Makes a call, and makes it again at once for as long as the step's policy says so."""
    retry: Retry | None = step.options.get("retry")
    failures = 0
    while True:
        try:
            return attempt()
        except Exception as error:
            failures += 1
            if retry is None or retry.wait_after(failures, error) is None:
                raise


def all_of(outputs: Any) -> list[Any]:
    """Takes all outputs of one call, up to a bound: under a policy other than stop a call is all or nothing."""
    found = list(islice(outputs, CALL_OUTPUTS_MAX + 1))
    if len(found) > CALL_OUTPUTS_MAX:
        raise ValueError(f"more than {CALL_OUTPUTS_MAX} outputs in one call of a step with an error policy")
    return found
