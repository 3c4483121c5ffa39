"""What the parts of a shard share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streamflow.batch import Chunk, Partition, Position
from streamflow.clock import Clock
from streamflow.instrument import Instrument
from streamflow.points import Point
from streamflow.runtime.settings import Settings

if TYPE_CHECKING:
    from streamflow.runtime.dead import DeadLetters

SOURCES: Final = "sources"
"""Where dead letters of sources come from: intake, which decodes, and says where an epoch ends."""

STEADY_SECONDS: Final = 10.0
"""A connection that held so long, or was of use, was no failed attempt: the next wait is the shortest again."""


@dataclass(frozen=True, slots=True)
class World:
    """Time, settings, whom to tell, the committer, crash points, dead letters."""

    clock: Clock
    settings: Settings
    instrument: Instrument
    skipped: Callable[[str, str, Exception], None]
    pin: Callable[[str, Mapping[Partition, Position]], Awaitable[None]]
    spill: Callable[[Sequence[Chunk]], Awaitable[None]]
    point: Point
    dead: DeadLetters
