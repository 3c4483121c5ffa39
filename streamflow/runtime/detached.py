"""Detached calls at run time: made once their input is committed, their results fed back in by the internal source."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from streamflow.batch import Fragment, SourceBatch
from streamflow.clock import Clock
from streamflow.codecs import Codec
from streamflow.connect.contracts import Guarantee, Level
from streamflow.connect.ended import EndedSource
from streamflow.graph import SOURCE, Graph, Port
from streamflow.keys import Key
from streamflow.operators.async_map import collected
from streamflow.operators.cached import cached
from streamflow.operators.calls import Call, Calls
from streamflow.operators.detached import ERROR_CHARS_MAX, Begin, Result, Waiting, context_of
from streamflow.policy import CallLimits, Retry
from streamflow.runtime.cut import Pushed
from streamflow.runtime.taps import Tap

BEGUN_AT_ONCE: Final = 32
"""Calls begun before others have a turn."""

_IDENTITY: Final[Any] = object.__eq__
"""The comparison of a class that has none of its own: a copy is another one."""

_BY_STATE: Final = Guarantee(
    Level.EXACTLY_ONCE, "the commit that takes a call's result in takes its input out of the state"
)


@dataclass(frozen=True, slots=True)
class DetachedResults:
    """The internal source of a detached step's results, as the graph holds it: what to call, and within which bounds.

    Args:
        step: Name of the step, for users.
        waiting: Id of the step whose state holds the inputs.
        verb: ``map``, ``filter`` or ``flat_map``.
        function: The user's function.
        context: Whether it gets a `Context`.
        keyed: Whether the stream has keys.
        limits: Bounds of its calls.
        retry: Policy of its attempts.
        codec: Encodes results.
    """

    step: str
    waiting: str
    verb: str
    function: Callable[..., Any]
    context: bool
    keyed: bool
    limits: CallLimits
    retry: Retry | None
    codec: Codec[Result]
    internal: bool = True

    @property
    def name(self) -> str:
        return f"{self.step}_results"

    @property
    def guarantee(self) -> Guarantee:
        return _BY_STATE

    def describe(self) -> str:
        return f"results of the detached calls of {self.step}"

    def source(self) -> EndedSource:
        return EndedSource(_BY_STATE)

    def place(self, result: Result, payload: bytes) -> tuple[str, SourceBatch]:
        """What is said of a result's origin: that of its input, or the internal source where that has none."""
        source, records = result.waiting.place(payload, original=bool(result.failure))
        return source or self.name, records


class Begins(Tap):
    """Where inputs pass on their way into the state; counts them at once, and hands them on when they are committed."""

    def __init__(self, begin: Callable[[list[Any]], None]) -> None:
        super().__init__(begin)
        self.passed = 0

    async def put(self, part: Fragment) -> None:
        self.passed += len(part.values)
        await super().put(part)


class _Held:
    """An input whose call was not begun, is under way, or waits for the one before it of its key."""

    __slots__ = ("begin", "result")

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self.result: Result | None = None


class DetachedCalls:
    """The calls of one detached step in one life of a shard.

    GUARANTEE: a call begins when its input is committed, and again in the next life if its result is not. Results of
    one key are fed in in the order of its inputs.
    BOUND: ``concurrency`` calls under way; intake stops taking records while ``detached_max`` inputs wait.

    Args:
        flow: Name of the flow.
        spec: The step.
        clock: The time.
        feed: Takes results in.
    """

    def __init__(self, flow: str, spec: DetachedResults, clock: Clock, feed: Callable[[Pushed], None]) -> None:
        self.spec = spec
        self.begins = Begins(self._begin)
        self.settled = 0
        self.told: Callable[[], None] = lambda: None
        self._flow = flow
        self._clock = clock
        self._feed = feed
        self._unbegun: deque[_Held] = deque()
        self._lines: dict[Key, deque[_Held]] = {}
        self._wake = asyncio.Event()
        self._running = 0

    @property
    def port(self) -> Port:
        """Where inputs pass that go into the state."""
        return Port(self.spec.waiting, 1)

    @property
    def waiting(self) -> int:
        """Inputs whose result is not committed."""
        return self.begins.passed - self.settled

    @property
    def under_way(self) -> int:
        """Calls that users' awaits are waited for."""
        return self._running + len(self._unbegun)

    def restore(self, state: Mapping[Key, Mapping[int, Waiting]]) -> None:
        """Takes over what an earlier life left in the state."""
        inputs = [
            Begin(key, number, waiting) for key, items in state.items() for number, waiting in sorted(items.items())
        ]
        # by age: who came first is called first, whatever his key
        inputs.sort(key=lambda begin: begin.waiting.now_ms)
        self.begins.passed += len(inputs)
        self._begin(inputs)

    def _begin(self, inputs: Iterable[Begin]) -> None:
        for begin in inputs:
            held = _Held(begin)
            self._unbegun.append(held)
            if self.spec.keyed:
                self._lines.setdefault(begin.key, deque()).append(held)
        self._wake.set()

    async def run(self) -> None:
        """Makes calls until cancelled."""
        spec = self.spec
        function = collected(spec.function, spec.step) if spec.verb == "flat_map" else spec.function
        if spec.limits.cache is not None:
            function = cached(function, spec.limits.cache, self._clock)
        calls = Calls(spec.step, function, spec.limits, spec.retry, self._clock, self._ended)
        calls.told = self._wake.set
        try:
            while True:
                self._wake.clear()
                if calls.broken is not None:
                    raise calls.broken
                room = min(spec.limits.concurrency - calls.running, BEGUN_AT_ONCE, len(self._unbegun))
                if room > 0:
                    calls.begin([self._call(self._unbegun.popleft()) for _ in range(room)])
                    await asyncio.sleep(0)
                else:
                    await self._wake.wait()
        finally:
            await calls.close()

    def _call(self, held: _Held) -> Call:
        self._running += 1
        begin, spec = held.begin, self.spec
        if spec.context:
            context = context_of(self._flow, spec.step, begin, keyed=spec.keyed)
            return Call((context, begin.waiting.value), held)
        return Call((begin.waiting.value,), held)

    def _ended(self, call: Call) -> None:
        self._running -= 1
        self._wake.set()
        held: _Held = call.place
        held.result = self._result(held.begin, call)
        if not self.spec.keyed:
            self._feed_in(held.result)
            return
        line = self._lines[held.begin.key]
        while line and line[0].result is not None:
            self._feed_in(line.popleft().result)
        if not line:
            del self._lines[held.begin.key]

    def _result(self, begin: Begin, call: Call) -> Result:
        if call.error is not None:
            return _failed(begin, call.error)
        if self.spec.verb == "flat_map":
            outputs = call.value
        elif self.spec.verb == "filter":
            outputs = [begin.waiting.value] if call.value else []
        else:
            outputs = [call.value]
        return Result(begin.key, begin.number, begin.waiting, outputs)

    def _feed_in(self, result: Result | None) -> None:
        """Feeds a result in as it will be read back, so that a replay sees the same."""
        assert result is not None
        codec = self.spec.codec
        try:
            payload = codec.encode(result)
            value = codec.decode(payload)
            if not _same(value.outputs, result.outputs):
                raise ValueError(f"{result.outputs!r:.80} comes back from JSON as {value.outputs!r:.80}")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            unfit = TypeError(f"what it returned cannot be stored: {error}; annotate what the function returns")
            result = _failed(Begin(result.key, result.number, result.waiting), unfit)
            payload = codec.encode(result)
            value = codec.decode(payload)
        if result.error is not None:
            value = result
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done.add_done_callback(self._taken_in)
        self._feed(Pushed(self.spec.name, value, payload, done, result.waiting.id))

    def _taken_in(self, done: asyncio.Future[int]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.settled += 1
            self.told()


def _same(again: list[Any], outputs: list[Any]) -> bool:
    """Whether outputs came back from JSON as what they were, as far as they can be compared."""
    pairs = zip(again, outputs, strict=True)
    return all(type(new) is type(old) and (new == old or type(old).__eq__ is _IDENTITY) for new, old in pairs)


def _failed(begin: Begin, error: Exception) -> Result:
    said = f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX].encode("utf-8", "backslashreplace").decode()
    return Result(begin.key, begin.number, begin.waiting, [], said, error)


class Detached:
    """The detached steps of a shard.

    Args:
        graph: The flow.
        clock: The time.
        feed: Takes results in.
        most: Inputs that may wait before intake takes no more records.
    """

    def __init__(self, graph: Graph, clock: Clock, feed: Callable[[Pushed], None], most: int) -> None:
        self._most = most
        self.calls: Sequence[DetachedCalls] = [
            DetachedCalls(graph.flow, spec, clock, feed)
            for step in graph.of_kind(SOURCE)
            if isinstance(spec := step.options["spec"], DetachedResults)
        ]

    def full(self) -> str:
        """Why intake should take no records now; empty if it may."""
        for calls in self.calls:
            if calls.waiting >= self._most:
                return f"detached step {calls.spec.step!r} has {calls.waiting:,} inputs whose calls are not done"
        return ""

    @property
    def waiting(self) -> int:
        """Inputs whose result is not committed."""
        return sum(calls.waiting for calls in self.calls)

    @property
    def under_way(self) -> int:
        """Calls that are to be waited for."""
        return sum(calls.under_way for calls in self.calls)
