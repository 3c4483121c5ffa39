"""The verbs that run plain functions beside the event loop: map_thread and map_process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack

from streamflow.clock import Duration
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.graph import OnError
from streamflow.operators.context import Context
from streamflow.policy import CacheSpec, Policy
from streamflow.runtime.resources import Resource
from streamflow.runtime.workers import Processes, Threads, Workers, check_importable

if TYPE_CHECKING:
    from streamflow.flow.flow import Flow
    from streamflow.flow.keyed import KeyedStream
    from streamflow.flow.stream import Stream

K = TypeVar("K")
T = TypeVar("T")
U = TypeVar("U")

WORKERS = 4
"""Threads or processes of a step, unless ``workers=`` says something else."""


class WorkerOptions(TypedDict, total=False):
    """What a step in workers may be given besides: `AsyncOptions` without ``concurrency``, which is the workers'."""

    ordered: bool
    window: int
    timeout: Duration
    deadline: Duration
    cache: CacheSpec
    detached: bool


class ExecutingVerbs(Generic[T]):
    """What a `Stream` can do with each of its records in another thread or process."""

    _flow: Flow

    def map_thread(
        self,
        function: Callable[[T], U] | Callable[[Context[Any, Any], T], U],
        /,
        *,
        workers: int = WORKERS,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        **options: Unpack[WorkerOptions],
    ) -> Stream[U]:
        """Gives what a plain function returns that blocks, called in threads; results keep the order of their records.

        A call that is over its deadline fails, and goes on in its thread: no thread can be stopped.

        Args:
            function: ``record -> value`` or ``(Context, record) -> value``. Up to ``workers`` calls run at a time.
            workers: Number of threads.
            name: The step's name; default is the function's.
            on_error: What happens when it raises.
            **options: The bounds of its calls: see `AsyncOptions`.
        """
        build.check_function("map_thread", function)
        called = name or build.function_name(function) or "map_thread"
        return self._beside(called, function, functools.partial(Threads, called), workers, on_error, options)  # type: ignore[no-any-return]

    def map_process(
        self,
        function: Callable[[T], U],
        /,
        *,
        workers: int = WORKERS,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        **options: Unpack[WorkerOptions],
    ) -> Stream[U]:
        """Gives what a plain function returns that computes, called in processes; results keep their records' order.

        Each process imports the module of the function. A record of which its process dies is an error of the step.

        Args:
            function: ``record -> value``, defined at the top of a module. Records and values are pickled on their way.
            workers: Number of processes.
            name: The step's name; default is the function's.
            on_error: What happens when it raises.
            **options: The bounds of its calls: see `AsyncOptions`.
        """
        build.check_function("map_process", function)
        called = name or build.function_name(function) or "map_process"
        if build.wants_context(function):
            raise DefinitionError(
                f"the function of map_process step {called!r} asks for a context, which cannot leave this process",
                hint="Give it what it needs with the record: put a map step before it.",
            )
        check_importable(called, function)
        return self._beside(called, function, functools.partial(Processes, called), workers, on_error, options)  # type: ignore[no-any-return]

    def _beside(
        self,
        name: str,
        function: Callable[..., Any],
        make: Callable[[int], Workers],
        workers: int,
        on_error: Policy,
        options: WorkerOptions,
    ) -> Any:
        if type(workers) is not int or workers < 1:
            raise DefinitionError(f"workers={workers!r:.40} of step {name!r}", hint="Give a number above 0.")
        pool: Resource[Workers] = Resource(f"workers of {name}", lambda: make(workers))

        @functools.wraps(function)
        async def call(*arguments: Any) -> Any:
            return await pool().call(function, *arguments)

        stream: Any = self
        made = stream.map(call, name=name, on_error=on_error, concurrency=workers, **options)
        self._flow.resources.append(pool)
        return made


class KeyedExecutingVerbs(Generic[K, T]):
    """The types of `ExecutingVerbs` on a stream with keys, which keep them."""

    if TYPE_CHECKING:

        def map_thread(
            self,
            function: Callable[[T], U] | Callable[[Context[Any, Any], T], U],
            /,
            *,
            workers: int = WORKERS,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            **options: Unpack[WorkerOptions],
        ) -> KeyedStream[K, U]: ...

        def map_process(
            self,
            function: Callable[[T], U],
            /,
            *,
            workers: int = WORKERS,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            **options: Unpack[WorkerOptions],
        ) -> KeyedStream[K, U]: ...
