"""How a user bounds an async step: which functions count as async, and the limits of their calls."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict, TypeVar

from streamflow.clock import Duration, duration_ms
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.operators.context import Context, Output
from streamflow.operators.tables import TableHandle
from streamflow.policy import CONCURRENCY, DEADLINE_SECONDS, WINDOW_PER_CALL, CacheSpec, CallLimits

T = TypeVar("T")
U = TypeVar("U")

AsyncFunction = Callable[[T], Awaitable[U]] | Callable[[Context[Any, Any], T], Awaitable[U]]
"""``async def f(record)`` or ``async def f(ctx: sf.Context, record)``."""

AsyncExpansion = (
    Callable[[T], Awaitable[Iterable[U]]]
    | Callable[[Context[Any, Any], T], Awaitable[Iterable[U]]]
    | Callable[[T], AsyncIterable[U]]
    | Callable[[Context[Any, Any], T], AsyncIterable[U]]
)
"""An async function that gives an iterable, or an async generator."""


class CallOptions(TypedDict, total=False):
    """What an async step may be given besides.

    Args:
        concurrency: Most calls under way at a time; default 16.
        timeout: Longest time of one attempt, after which it is cancelled; default is the deadline.
        deadline: Longest time of a call with all its attempts and the waits between them; default 30 s. A commit
            waits for the calls before it, so no call may last for ever.
    """

    concurrency: int
    timeout: Duration
    deadline: Duration


class ProcessOptions(CallOptions, total=False):
    """What a process step may be given besides: `CallOptions` where it is async, and what it deals with.

    Args:
        outputs: Side outputs that the function may `Context.emit` to.
        tables: Tables that a plain function, and its timers, may `Context.lookup`.
    """

    outputs: Sequence[Output[Any]]
    tables: Sequence[TableHandle[Any, Any]]


class AsyncOptions(CallOptions, total=False):
    """What an async step without state may be given besides: `CallOptions` and its order.

    Args:
        ordered: Whether results keep the order of their records (default). Without it those of a micro-batch go on as
            they come; on a stream with keys each key's still keep theirs.
        window: Most records, from the oldest unfinished one on, that an ordered step holds; default is 16 times the
            concurrency.
        cache: `sf.cache`: records of one key share a result for some time.
        detached: No commit waits for the calls: their inputs rest in the state until the results come, which keep the
            order of each key only. For calls that take longer than a commit may.
    """

    ordered: bool
    window: int
    cache: CacheSpec
    detached: bool


_KNOWN: Final = frozenset({"concurrency", "timeout", "deadline", "ordered", "window", "cache", "detached"})


def is_async(function: Any) -> bool:
    """Whether calling a function gives something to await."""
    while isinstance(function, functools.partial):
        function = function.func
    called = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called)


def call_limits(step: str, options: AsyncOptions | CallOptions, size: int = 1, within: Duration = "0ms") -> CallLimits:
    """The bounds of an async step.

    Raises:
        DefinitionError: One of them is no bound.
    """
    build.check_options(f"step {step!r}", options, _KNOWN)
    given_order: Mapping[str, Any] = options
    concurrency = options.get("concurrency", CONCURRENCY)
    window = given_order.get("window", concurrency * WINDOW_PER_CALL if type(concurrency) is int else CONCURRENCY)
    for name, given in (("concurrency", concurrency), ("window", window), ("size", size)):
        if type(given) is not int or given < 1:
            raise DefinitionError(f"{name}={given!r:.40} of step {step!r} is no bound", hint="Give a number above 0.")
    if window < concurrency:
        raise DefinitionError(
            f"window={window} of step {step!r} is less than concurrency={concurrency}",
            hint="Leave window= out: it is 16 times the concurrency then.",
        )
    deadline = _seconds(step, "deadline", options["deadline"]) if "deadline" in options else DEADLINE_SECONDS
    timeout = _seconds(step, "timeout", options["timeout"]) if "timeout" in options else None
    if timeout is not None and timeout > deadline:
        raise DefinitionError(
            f"timeout of {timeout:g} s of step {step!r} is longer than its deadline of {deadline:g} s",
            hint="Give deadline= too: it bounds a call with all its attempts.",
        )
    ordered = bool(given_order.get("ordered", True))
    if given_order.get("detached") and ("ordered" in given_order or "window" in given_order):
        raise DefinitionError(
            f"detached step {step!r} takes no ordered= and no window=", hint="Its results keep the order of each key."
        )
    kept = given_order.get("cache")
    if kept is not None and not isinstance(kept, CacheSpec):
        raise DefinitionError(f"cache={kept!r:.40} of step {step!r} is no cache", hint='Write cache=sf.cache("10m").')
    return CallLimits(concurrency, ordered, window, timeout, deadline, size, duration_ms(within) / 1000, kept)


def process_limits(step: str, function: Any, options: CallOptions) -> CallLimits | None:
    """The bounds of a process step, if it is async.

    Raises:
        DefinitionError: One of them is no bound, or is none of a process step.
    """
    awaits = is_async(function)
    known = {"outputs", "tables"} | ({"concurrency", "timeout", "deadline"} if awaits else set())
    build.check_options(f"process step {step!r}{'' if awaits else ' is a plain function and'}", options, known)
    return call_limits(step, options) if awaits else None


def _seconds(step: str, name: str, duration: Duration) -> float:
    seconds = duration_ms(duration) / 1000
    if not seconds:
        raise DefinitionError(f"{name}={duration!r} of step {step!r} leaves no time", hint='Give one like "2s".')
    return seconds
