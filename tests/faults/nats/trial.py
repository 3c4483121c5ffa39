"""A trial on a real NATS: streams of its own, a flow between them, and the check of every single result."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.brokers import NatsServer
from tests.faults.nats.flow import Mode, Setup, Target, Trap
from tests.faults.nats.outside import BURSTS, Feeder, Outsider, make_stream
from tests.faults.nats.process import FlowProcess

Retention = Literal["limits", "workqueue", "interest"]
TrialOfKind = Callable[[NatsServer, Path, "Kind"], Coroutine[Any, Any, None]]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Kind:
    """What a trial is about: the source's stream, the sink's guard, and whether its stream takes atomic batches."""

    source: Retention = "limits"
    mode: Mode = "chain"
    atomic: bool = False

    def __str__(self) -> str:
        return f"{self.source}-{self.mode}{'-atomic' if self.atomic and self.mode == 'chain' else ''}"


KINDS = (Kind(), Kind(atomic=True), Kind(mode="batch", atomic=True))
"""The exactly-once sinks, behind a stream with limits."""
MSGID = Kind(mode="msgid")
QUEUES = (Kind("workqueue"), Kind("workqueue", "batch", atomic=True), Kind("interest", atomic=True))
"""Sources that acknowledge."""


@dataclass
class Trial:
    """Two streams of one server, and a flow between them.

    Args:
        server: Where the streams are; trials may share it.
        folder: For state, diary and log.
        kind: What the streams are like.
        window_seconds: For how long the server remembers message ids.
        source_url, sink_url: Other ways to the server, through a proxy for instance.
        settings, limits, timeout_seconds: As in `Setup`.
        stream_options, sink_options: More configuration of the two streams.
    """

    server: NatsServer
    folder: Path
    kind: Kind = Kind()
    window_seconds: float = 120.0
    source_url: str = ""
    sink_url: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 5.0
    stream_options: dict[str, Any] = field(default_factory=dict)
    sink_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.source, self.sink = f"IN{number}", f"OUT{number}"
        self.folder = self.folder / f"trial{number}"
        self.folder.mkdir(parents=True)
        self.flow = FlowProcess(self.setup(), self.folder)

    async def __aenter__(self) -> Self:
        await make_stream(self.server, self.source, retention=self.kind.source, **self.stream_options)
        await self.make_sink_stream()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flow.stop()

    async def make_sink_stream(self) -> None:
        window = int(self.window_seconds * 1e9)
        await make_stream(
            self.server, self.sink, allow_atomic=self.kind.atomic, duplicate_window=window, **self.sink_options
        )

    def setup(self, **other: Any) -> Setup:
        """The flow of this trial."""
        url = self.server.url
        target = Target(self.sink, self.kind.mode, self.sink_url or url)
        limits = {"ack_wait_seconds": 1.0, **self.limits}
        given: dict[str, Any] = {
            "url": self.source_url or url,
            "source": self.source,
            "targets": (target,),
            "state": self.folder / "flow.db",
            "settings": self.settings,
            "limits": limits,
            "timeout_seconds": self.timeout_seconds,
        }
        return Setup(**{**given, **other})

    def feeder(self, seed: int = 7, bursts: Sequence[int] = BURSTS) -> Feeder:
        return Feeder(self.server, self.source, self.sink, seed, bursts)

    async def wait_for(self, feeder: Feeder, seconds: float = 30) -> None:
        """Waits until everything that was fed has come out, or long enough."""
        async with Outsider(self.server) as outsider:
            for _ in range(int(seconds * 20)):
                if await outsider.count(self.sink) >= feeder.total - feeder.taken_away or not self.flow.alive:
                    break
                await asyncio.sleep(0.05)
            assert self.flow.alive, f"the flow ended by itself: {self.flow.account()}"

    async def check(self, feeder: Feeder, since: Counter[str] | None = None) -> None:
        """Waits for the last result, and a moment longer; then every record must be there once, and in order.

        Args:
            feeder: Knows what was sent.
            since: What had been sent when the results before it were taken away.
        """
        await self.wait_for(feeder)
        await asyncio.sleep(0.3)
        check(feeder.sent, await self.results(), f"{self.kind}: {self.flow.log}", since)
        assert feeder.total > 0

    async def results(self) -> list[dict[str, Any]]:
        async with Outsider(self.server) as outsider:
            return await outsider.results(self.sink)

    async def begin(self) -> None:
        """A first short life: from then on an interest stream has somebody to keep messages for."""
        trap = Trap("source.opened")
        self.flow.start(trap)
        await self.flow.killed(trap)

    async def run_through(self, feeder: Feeder, **changed: Any) -> None:
        """Starts the flow, and ends it cleanly when everything that was fed has come out."""
        self.flow.start(**changed)
        await self.wait_for(feeder)
        await self.flow.stop_cleanly()


def at_once(*kinds: Kind) -> Callable[[TrialOfKind], Callable[[NatsServer, Path], Awaitable[None]]]:
    """Turns a trial of one kind into a test that runs those of several kinds beside each other: mostly they wait."""

    def decorate(trial: TrialOfKind) -> Callable[[NatsServer, Path], Awaitable[None]]:
        async def test(server: NatsServer, tmp_path: Path) -> None:
            async with asyncio.TaskGroup() as group:
                for kind in kinds:
                    group.create_task(trial(server, tmp_path, kind), name=str(kind))

        test.__name__, test.__qualname__, test.__doc__ = trial.__name__, trial.__qualname__, trial.__doc__
        test.__module__ = trial.__module__
        return test

    return decorate


def check_at_least_once(sent: Counter[str], found: list[dict[str, Any]], where: str) -> int:
    """The oracle of mode msgid: every record is there, with the count that belongs to it; returns how many twice."""
    results = [(each["key"], each["n"], each["count"]) for each in found]
    wanted = {(key, n, n) for key, count in sent.items() for n in range(1, count + 1)}
    assert set(results) == wanted, f"{where}: {len(wanted - set(results))} missing, {len(set(results) - wanted)} wrong"
    return len(results) - len(wanted)


def check(sent: Counter[str], found: list[dict[str, Any]], where: str, since: Counter[str] | None = None) -> None:
    """The oracle: per key record 1 to the last, each once, in order, with the count that belongs to it."""
    since = since or Counter()
    per_key: dict[Any, list[tuple[int, int, int]]] = {}
    for result in found:
        per_key.setdefault(result["key"], []).append((result["n"], result["count"], result["gap"]))
    for key, count in sent.items():
        got = per_key.pop(key, [])
        wanted = [(n, n, 1) for n in range(since[key] + 1, count + 1)]
        if got != wanted:
            at = next((at for at, pair in enumerate(zip(got, wanted, strict=False)) if pair[0] != pair[1]), len(got))
            doubled = len(got) - len(set(got))
            raise AssertionError(
                f"{where}: {key}: {count} sent, {len(got)} came, {doubled} of them twice; wrong from the "
                f"{at}th on: {got[at : at + 3]}"
            )
    assert not per_key, f"{where}: results for keys that nobody sent: {list(per_key)[:3]}"
