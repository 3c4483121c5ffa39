"""Known: what of a partition was released ahead of others before a restart, so that it is not given once more."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator

from streamflow.batch import Ahead, SourceBatch


class Known:
    """Finds them in what is read again.

    GUARANTEE: each record is found once. BOUND: as many runs as the checkpoint has.

    Args:
        above: What the checkpoint says of the partition.

    Attributes:
        runs: What was not found yet.
    """

    def __init__(self, above: Iterable[Ahead]) -> None:
        self.runs = deque(above)

    def cut(self, batch: SourceBatch) -> Iterator[tuple[SourceBatch, Ahead | None]]:
        """Cuts a batch into parts that are new, with None, and parts of what was released."""
        positions, start = batch.positions, 0
        assert positions is not None, "what has no positions is known by its ids"
        while self.runs and start < len(batch):
            run = self.runs[0]
            first = max(start, bisect_left(positions, run.first))
            stop = max(first, bisect_right(positions, run.last))
            if first > start:
                yield batch.cut(start, first), None
            if stop > first:
                yield batch.cut(first, stop), run
            start = stop
            if batch.end < run.last:
                # the rest of the run is in batches to come
                self.runs[0] = run._replace(first=max(run.first, batch.end + 1))
            else:
                self.runs.popleft()
        if start < len(batch) or not len(batch):
            yield batch.cut(start, len(batch)), None
