"""Policies: what happens when a step raises, and how many calls of an async step may be under way for how long."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from streamflow.clock import Duration, duration_ms
from streamflow.errors import DefinitionError


class OnError(StrEnum):
    """What happens when a step raises.

    GUARANTEE: a step call is atomic: when it raises, nothing it emitted, set or changed stays.
    """

    STOP = "stop"
    """The flow stops and names the place; nothing of the epoch is committed."""
    SKIP = "skip"
    """The record is left out, counted under the step's name and logged."""
    DEAD_LETTER = "dead_letter"
    """The record is left out, and kept as it came, with the error, by the commit that leaves it out."""


WAIT_SECONDS_MAX: Final = 30.0
"""The wait between two attempts doubles up to this."""

RETRIES_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Retry:
    """Calls again what raised, before another policy decides. Made by `retry`.

    Args:
        times: Attempts after the first.
        wait_seconds: Before the second attempt; doubles with each further one. None means 0.1 s, and that nobody
            asked for a wait: synchronous steps call again at once.
        on: What is worth another attempt.
        last: What decides when no attempt is left, or the error is of another kind.
    """

    times: int
    wait_seconds: float | None = None
    on: tuple[type[Exception], ...] = (Exception,)
    last: OnError = OnError.STOP

    def then(self, policy: OnError) -> Retry:
        """What decides when no attempt is left: ``sf.retry(3).then(sf.skip)``; without it the flow stops."""
        return replace(self, last=OnError(policy))

    def __str__(self) -> str:
        return f"sf.retry({self.times})" + ("" if self.last is OnError.STOP else f".then(sf.{self.last})")

    def wait_after(self, failures: int, error: BaseException) -> float | None:
        """Seconds to wait before the next attempt; None if there is none."""
        if failures > self.times or not isinstance(error, self.on):
            return None
        first = 0.1 if self.wait_seconds is None else self.wait_seconds
        return float(min(WAIT_SECONDS_MAX, first * 2 ** (failures - 1)))


Policy = OnError | Retry
"""What ``on_error=`` takes."""


def retry(
    times: int,
    *,
    backoff: Duration | None = None,
    on: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Retry:
    """A policy that calls a step again, ``times`` times at the most; what then happens is said by ``.then(...)``.

    Args:
        times: Attempts after the first.
        backoff: Wait before the second attempt; doubles with each further one, up to 30 s. For async steps only:
            a synchronous step would keep the whole event loop waiting, and is called again at once.
        on: The errors that are worth another attempt.

    Raises:
        DefinitionError: ``times`` is no whole number from 1 to 100, or ``on`` names something that is no exception.
    """
    if type(times) is not int or not 0 < times <= RETRIES_MAX:
        raise DefinitionError(f"retry({times!r:.40}) is no number of attempts", hint=f"Give 1 to {RETRIES_MAX}.")
    kinds = on if isinstance(on, tuple) else (on,)
    if not kinds or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        raise DefinitionError(f"retry(on={on!r:.60}) names no exceptions", hint="Write on=TimeoutError, or a tuple.")
    return Retry(times, None if backoff is None else duration_ms(backoff) / 1000, kinds)


DEADLINE_SECONDS: Final = 30.0
"""How long a call of an async step may take with all its attempts, unless ``deadline=`` says something else."""

CONCURRENCY: Final = 16
"""Calls of an async step that are under way at a time, unless ``concurrency=`` says something else."""

WINDOW_PER_CALL: Final = 16
"""Records of an ordered step that may be ahead of the oldest unfinished one, per call that may be under way: with a
window as narrow as the concurrency one slow call keeps all others waiting."""


BATCH_SIZE: Final = 100
"""Records per call of an async batch function, unless ``size=`` says something else."""


CACHE_ENTRIES: Final = 10_000
"""Results that a cache remembers, unless ``entries_max=`` says something else."""


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """Which results of an async step are used again, and for how long; made by `cache`.

    Args:
        ttl_seconds: So long a result may be used again.
        by: Gives a record's key; None for the record itself.
        entries_max: Most results; beyond it the one that was not used for longest goes.
    """

    ttl_seconds: float
    by: Callable[[Any], Hashable] | None = None
    entries_max: int = CACHE_ENTRIES


def cache(ttl: Duration, *, by: Callable[[Any], Hashable] | None = None, entries_max: int = CACHE_ENTRIES) -> CacheSpec:
    """Uses an async step's results again: records of one key share a call, for ``ttl`` from its end.

    Kept in memory only, and anew after each start: the function must not rely on being called, nor on not being.

    Args:
        ttl: So long a result may be used again. Failed calls are not remembered.
        by: ``record -> key``, anything hashable; without it the record itself is the key.
        entries_max: Most results; beyond it the one that was not used for longest goes.

    Raises:
        DefinitionError: It would remember nothing.
    """
    seconds = duration_ms(ttl) / 1000
    if not seconds or type(entries_max) is not int or entries_max < 1:
        raise DefinitionError("this cache remembers nothing", hint='Write sf.cache("10m"), entries_max= above 0.')
    return CacheSpec(seconds, by, entries_max)


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The bounds of an async step.

    Args:
        concurrency: Most calls under way at a time.
        ordered: Whether results go on in the order of their records.
        window: Most records of an ordered step from the oldest unfinished one on.
        timeout_seconds: Longest time of one attempt; None for no other limit than the deadline.
        deadline_seconds: Longest time of a call, from its start, with all attempts and the waits between them.
        size: Records per call, of a batch function.
        within_seconds: Longest time a record waits for such a batch to fill.
        cache: Which results are used again.
    """

    concurrency: int = CONCURRENCY
    ordered: bool = True
    window: int = CONCURRENCY * WINDOW_PER_CALL
    timeout_seconds: float | None = None
    deadline_seconds: float = DEADLINE_SECONDS
    size: int = 1
    within_seconds: float = 0.0
    cache: CacheSpec | None = None
