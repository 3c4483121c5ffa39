"""Resources: clients and pools that steps call, opened with the flow and closed with it, behind a circuit breaker."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from streamflow.clock import Duration, duration_ms
from streamflow.errors import CircuitOpen, DefinitionError, StreamflowError
from streamflow.operators.calls import TIME_OVER

T = TypeVar("T")

_CLOSED: Final[Any] = object()

_log = logging.getLogger("streamflow")


@dataclass(frozen=True, slots=True)
class BreakerSpec:
    """When a resource is left alone; made by `circuit_breaker`.

    Args:
        failures: So many failures in a row open the circuit.
        reset_seconds: After so long one call may try again.
    """

    failures: int
    reset_seconds: float


def circuit_breaker(*, failures: int = 5, reset: Duration = "30s") -> BreakerSpec:
    """Leaves a resource alone for a while after several failures in a row: callers fail at once meanwhile.

    Args:
        failures: So many failures in a row open the circuit.
        reset: After so long one call may try again; it closes the circuit, or opens it for as long again.

    Raises:
        DefinitionError: ``failures`` is no whole number above 0.
    """
    if type(failures) is not int or failures < 1:
        raise DefinitionError(f"failures={failures!r:.40} of a circuit breaker", hint="Give a number above 0.")
    return BreakerSpec(failures, duration_ms(reset) / 1000)


class Breaker:
    """The circuit of one open resource.

    GUARANTEE: once open it lets nobody through before its time is over, and then one call at a time until one succeeds;
    how a call ends that began before the circuit opened changes nothing any more.
    """

    def __init__(self, spec: BreakerSpec, name: str, now: Callable[[], float]) -> None:
        self._spec = spec
        self._name = name
        self._now = now
        self._failures = 0
        self._openings = 0
        self._open_until: float | None = None
        self._trying = False

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._open_until is None:
            return "closed"
        return "half-open" if self._now() >= self._open_until else "open"

    def enter(self) -> int:
        """A call is to begin.

        Returns:
            What to give back at its end: how often the circuit had opened when it began.

        Raises:
            CircuitOpen: It must not.
        """
        if self._open_until is None:
            return self._openings
        wait = self._open_until - self._now()
        if wait > 0 or self._trying:
            raise CircuitOpen(
                f"resource {self._name!r} is left alone after {self._failures} failures in a row",
                hint=f"The next attempt may be made in {max(wait, 0):.1f} s; on_error=sf.retry(...) waits for it.",
            )
        self._trying = True
        return self._openings

    def succeeded(self, ticket: int) -> None:
        """A call has ended well."""
        if ticket == self._openings:
            self._failures, self._open_until, self._trying = 0, None, False

    def failed(self, ticket: int) -> None:
        """A call has failed."""
        if ticket != self._openings:
            return
        self._failures += 1
        self._trying = False
        if self._failures >= self._spec.failures or self._open_until is not None:
            self._openings += 1
            self._open_until = self._now() + self._spec.reset_seconds

    def left(self, ticket: int) -> None:
        """A call was given up, which says nothing of the resource: another one may try."""
        if ticket == self._openings:
            self._trying = False


class Resource(Generic[T]):
    """Something that steps use while the flow runs; made by `Flow.resource`. Calling it gives what was opened.

    GUARANTEE: opened on the flow's event loop before its sources, in the order of definition; closed in reverse, when
    no call is under way any more. A restart of the shard opens it anew.

    Args:
        name: Its name, for messages.
        factory: Makes it: an async context manager, something to await, or an object with ``aclose`` or ``close``.
        health: Says whether it works, by raising if it does not; gets what was opened.
        breaker: When to leave it alone.
    """

    def __init__(
        self,
        name: str,
        factory: Callable[[], Any],
        health: Callable[[T], Any] | None = None,
        breaker: BreakerSpec | None = None,
    ) -> None:
        self.name = name
        self._factory = factory
        self._health = health
        self._breaker_spec = breaker
        self._breaker: Breaker | None = None
        self._value: Any = _CLOSED

    def __call__(self) -> T:
        """What was opened.

        Raises:
            StreamflowError: The flow does not run.
        """
        if self._value is _CLOSED:
            raise StreamflowError(
                f"resource {self.name!r} is not open", hint="It is while the flow runs: call it inside a step."
            )
        return self._value  # type: ignore[no-any-return]

    @asynccontextmanager
    async def use(self) -> AsyncIterator[T]:
        """What was opened, behind its circuit breaker: an exception in the body counts as its failure.

        A body that is cancelled counts neither way, but for one thing: the time limit of the step (``timeout=``,
        ``deadline=``) is a failure, else a resource that hangs would never be left alone.

        Raises:
            CircuitOpen: It is left alone for now.
        """
        value, breaker = self(), self._breaker
        if breaker is None:
            yield value
            return
        ticket = breaker.enter()
        try:
            yield value
        except Exception:
            breaker.failed(ticket)
            raise
        except BaseException as cancelled:
            (breaker.failed if cancelled.args == (TIME_OVER,) else breaker.left)(ticket)
            raise
        breaker.succeeded(ticket)

    @property
    def circuit(self) -> str:
        """``closed``, ``open`` or ``half-open``; ``closed`` without a circuit breaker."""
        return "closed" if self._breaker is None else self._breaker.state

    async def check(self) -> None:
        """Raises if the resource is not open, or its health function does."""
        value = self()
        if self._health is not None:
            made = self._health(value)
            if inspect.isawaitable(made):
                await made

    @contextmanager
    def replaced(self, value: T) -> Iterator[None]:
        """Uses this object instead of what the factory makes, for tests; nothing is opened or closed then."""
        factory, self._factory = self._factory, lambda: _Given(value)
        try:
            yield
        finally:
            self._factory = factory

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Opens it for the time of the body; called by the engine."""
        async with AsyncExitStack() as stack:
            self._value = await _open(self._factory(), stack)
            if self._breaker_spec is not None:
                self._breaker = Breaker(self._breaker_spec, self.name, asyncio.get_running_loop().time)
            try:
                yield
            finally:
                self._value = _CLOSED


@dataclass(frozen=True, slots=True)
class _Given:
    """An object that is neither opened nor closed."""

    value: Any


async def _open(made: Any, stack: AsyncExitStack) -> Any:
    if isinstance(made, _Given):
        return made.value
    if hasattr(type(made), "__aenter__"):
        return await stack.enter_async_context(made)
    if hasattr(type(made), "__enter__"):
        return stack.enter_context(made)
    value = await made if inspect.isawaitable(made) else made
    close = getattr(value, "aclose", None) or getattr(value, "close", None)
    if close is not None:
        stack.push_async_callback(_close, close)
    return value


async def _close(close: Callable[[], Any]) -> None:
    made = close()
    if inspect.isawaitable(made):
        await made


@asynccontextmanager
async def opened(resources: Sequence[Resource[Any]]) -> AsyncIterator[None]:
    """Opens resources in their order, and closes them in reverse; one that fails to close keeps no other open.

    Raises:
        StreamflowError: One cannot be opened, those before it are closed again; or one cannot be closed, and nothing
            else has failed.
    """
    async with AsyncExitStack() as stack:
        for resource in resources:
            own = AsyncExitStack()
            try:
                await own.enter_async_context(resource.opened())
            except Exception as error:
                raise StreamflowError(
                    f"resource {resource.name!r} cannot be opened: {type(error).__name__}: {error}",
                    hint="See what its factory does; it runs on the flow's event loop, before the sources are opened.",
                ) from error
            stack.push_async_exit(partial(_closed, resource.name, own))
        yield


async def _closed(
    name: str,
    stack: AsyncExitStack,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Closes one resource; what ended the flow goes before what that raises.

    Raises:
        StreamflowError: It cannot be closed, and nothing else has failed.
    """
    try:
        await stack.__aexit__(kind, error, trace)
    except Exception as failure:
        if failure is error:
            return
        told = StreamflowError(
            f"resource {name!r} cannot be closed: {type(failure).__name__}: {failure}",
            hint="See what its close does; all else of the flow is closed, and what was committed stands.",
        )
        if error is not None:
            error.add_note(f"{told.message}. {told.hint}")
            _log.warning("%s", told.message, exc_info=failure)
            return
        raise told from failure


async def health(resources: Sequence[Resource[Any]]) -> Mapping[str, str]:
    """Per resource an empty text, or what is wrong."""
    found = {}
    for resource in resources:
        try:
            await resource.check()
        except Exception as error:
            found[resource.name] = f"{type(error).__name__}: {error}"
        else:
            found[resource.name] = "" if resource.circuit == "closed" else f"its circuit is {resource.circuit}"
    return found
