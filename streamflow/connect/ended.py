"""A source that is at its end: it stands in the graph for records that enter from inside the process."""

from __future__ import annotations

from collections.abc import Mapping, Set

from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.connect.contracts import Guarantee, Probe, SourceContext


class EndedSource:
    """Reads nothing.

    Args:
        guarantee: Of what enters in its name.
    """

    def __init__(self, guarantee: Guarantee) -> None:
        self.guarantee = guarantee

    async def probe(self) -> Probe:
        return Probe(True)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        return {}

    async def read(self) -> SourceBatch | None:
        return None

    async def ends(self) -> Mapping[Partition, Position | None]:
        return {}

    def pause(self, partitions: Set[Partition]) -> None:
        """There is nothing to pause."""

    async def committed(self, epoch: int, taken: Taken) -> None:
        """Nobody is to be told."""

    async def close(self) -> None:
        """Nothing is open."""
