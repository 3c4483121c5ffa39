"""Process: the output of a process step, on which its timer handlers and side outputs hang."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, Generic, Literal, TypeVar

from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.keyed import KeyedStream
from streamflow.graph import Port
from streamflow.operators.context import Context, Output

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")
S = TypeVar("S")

TimerHandler = (
    Callable[[Context[K, S]], Iterable[T] | None]
    | Callable[[Context[K, S]], Awaitable[Iterable[T] | None]]
    | Callable[[Context[K, S]], AsyncIterable[T]]
)
"""What `Process.on_timer` takes."""


class Process(KeyedStream[K, T], Generic[K, S, T]):
    """The output of a `process` step; timer handlers and side outputs hang on it."""

    def on_timer(
        self, name: str, *, time: Literal["processing", "event"] = "processing"
    ) -> Callable[[TimerHandler[K, S, T]], TimerHandler[K, S, T]]:
        """Decorates the handler of the timer ``name``: ``(ctx) -> iterable or None``; async where the step is.

        Args:
            name: Name of the timer, by which ``ctx.timer`` sets it.
            time: Which time it goes by. Event-time timers fire at the end of the micro-batch with which the watermark
                of the step's sources reaches them; that needs ``source(..., time=...)``.
        """
        if time not in ("processing", "event"):
            raise DefinitionError(f"time={time!r} of a timer", hint='Write time="event" or time="processing".')

        if time == "event" and self._step.traits.awaits:
            raise DefinitionError(
                f"timer {name!r} of async step {self.name!r} cannot go by event time",
                hint="Keep such a timer in a plain process step behind this one.",
            )

        def decorate(function: Any) -> Any:
            check = build.check_callable if self._step.traits.awaits else build.check_function
            check("on_timer", function)
            options = self._step.options
            if name in options["timers"] or name in options["event_timers"]:
                raise DefinitionError(f"timer {name!r} of step {self.name!r} has two handlers")
            kind = "event_timers" if time == "event" else "timers"
            handlers = {**options[kind], build.check_name(name, "timer"): function}
            self._flow._builder.amend(self._step, **{kind: handlers})
            return function

        return decorate

    def output(self, output: Output[U]) -> KeyedStream[K, U]:
        """The stream of a side output.

        Raises:
            DefinitionError: The step does not name it.
        """
        names = self._step.options["outputs"]
        if output.name not in names:
            raise DefinitionError(
                f"step {self.name!r} has no output {output.name!r}", hint="Name it: process(..., outputs=[...])."
            )
        port = Port(self._port.step, names.index(output.name) + 1)
        return KeyedStream(self._flow, port, output.type, self._key_type)
