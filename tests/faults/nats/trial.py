"""A trial on a real NATS: streams of its own, a flow between them, and the check of every single result."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from tests.brokers import NatsServer
from tests.faults.feeder import BURSTS
from tests.faults.nats.flow import Mode, NatsSetup, Target
from tests.faults.nats.outside import NatsFeeder, Outsider, make_stream
from tests.faults.process import FlowProcess
from tests.faults.trial import FlowTrial

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
class Trial(FlowTrial):
    """Two streams of one server, and a flow between them.

    Args:
        server: Where the streams are; trials may share it.
        folder: For state, diary and log.
        kind: What the streams are like.
        window_seconds: For how long the server remembers message ids.
        source_url, sink_url: Other ways to the server, through a proxy for instance.
        settings, limits, timeout_seconds: As in `NatsSetup`.
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

    def __str__(self) -> str:
        return str(self.kind)

    def outsider(self) -> Outsider:
        return Outsider(self.server)

    async def make_sink_stream(self) -> None:
        window = int(self.window_seconds * 1e9)
        await make_stream(
            self.server, self.sink, allow_atomic=self.kind.atomic, duplicate_window=window, **self.sink_options
        )

    def setup(self, **other: Any) -> NatsSetup:
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
        return NatsSetup(**{**given, **other})

    def feeder(self, seed: int = 7, bursts: Sequence[int] = BURSTS) -> NatsFeeder:
        return NatsFeeder(self.server, self.source, self.sink, seed, bursts)


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
