"""The source of a memory topic: reads what the log holds and waits for more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.connect.contracts import MORE, Guarantee, Probe, SourceContext
from streamflow.connect.memory_log import READ_RECORDS_MAX, PartitionLog, TopicLog, record_id
from streamflow.errors import Unavailable


class MemorySource:
    """Reads the partitions in turn, in order, at most 2048 records each time; keeps no read-ahead.

    GUARANTEE: exactly-once by positions, or by ids if the topic forgets what is acknowledged.
    """

    def __init__(self, log: TopicLog, guarantee: Guarantee, *, ids: bool, latest: bool) -> None:
        self.guarantee = guarantee
        self._log = log
        self._ids = ids
        self._latest = latest
        self._seen: Set[str] = frozenset()
        self._may_acknowledge: Callable[[], bool] = lambda: False
        self._again: list[tuple[PartitionLog, list[int]]] = []
        self._next: dict[Partition, Position] = {}
        self._paused: Set[Partition] = frozenset()
        self._over: set[Partition] = set()
        self._open = False

    async def probe(self) -> Probe:
        return probe_log(self._log)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        log = self._log
        log.check_reachable()
        self._seen, self._may_acknowledge = ctx.seen, ctx.may_acknowledge
        self._next = dict(log.ends() if self._latest else log.starts())
        for name, position in {} if self._ids else dict(resume).items():
            log.check_position(name, position)
            self._next[name] = position
        self._open = True
        return {} if self._ids else dict(self._next)

    async def read(self) -> SourceBatch | None:
        while True:
            if not self._open:
                raise Unavailable(f"the source on memory topic {self._log.name} is closed")
            self._log.check_reachable()
            batch = self._end()
            if batch is None:
                batch = self._take()
            if batch is not None:
                return batch
            if self._log.closed and self._at_end():
                return None
            await self._log.changed()

    async def ends(self) -> Mapping[Partition, Position | None]:
        self._log.check_reachable()
        if not self._ids:
            return self._log.ends()
        parts = self._log.partitions.items()
        return {name: None if self._offset(name) >= part.end else MORE for name, part in parts}

    def pause(self, partitions: Set[Partition]) -> None:
        self._paused = frozenset(partitions)
        self._log.wake()

    async def committed(self, epoch: int, taken: Taken) -> None:
        self._acknowledge_again()
        if self._ids and self._log.acks_arrive:
            self._log.acknowledge(taken.ids)

    async def close(self) -> None:
        self._acknowledge_again()
        self._open = False
        self._log.wake()

    def _end(self) -> SourceBatch | None:
        """Says of a partition that it is at its end, once, if others are not."""
        if not self._log.closed or self._at_end():
            return None
        over = (name for name in self._next if name not in self._over and self._is_at_end(name))
        name = next(over, None)
        if name is None:
            return None
        self._over.add(name)
        return SourceBatch(name, [], ids=[], last=True) if self._ids else SourceBatch(name, [], [], last=True)

    def _take(self) -> SourceBatch | None:
        """Returns records of the first partition that has some; the others go first next time."""
        for name in list(self._next):
            if name in self._paused:
                continue
            batch = self._take_ids(name) if self._ids else self._take_positions(name)
            if batch is not None:
                self._next[name] = self._next.pop(name)
                return batch
        return None

    def _take_positions(self, name: Partition) -> SourceBatch | None:
        at = self._next[name]
        self._log.check_position(name, at)
        part = self._log.partitions[name]
        stop = min(part.end, at.at + READ_RECORDS_MAX)
        if stop == at.at:
            return None
        self._next[name] = Position(stop, at.identity)
        return part.batch(name, at.identity, range(at.at, stop))

    def _take_ids(self, name: Partition) -> SourceBatch | None:
        """Returns unacknowledged records; one whose id is in a checkpoint is acknowledged instead."""
        identity = self._log.identity
        part = self._log.partitions[name]
        offset = self._offset(name)
        fresh: Sequence[int] = ()
        while offset < part.end and not fresh:
            stop = min(part.end, offset + READ_RECORDS_MAX)
            waiting = [each for each in range(offset, stop) if each not in part.acknowledged]
            fresh, offset = self._without_seen(name, part, waiting), stop
        self._next[name] = Position(offset, identity)
        return part.batch_of_ids(name, identity, fresh) if fresh else None

    def _offset(self, name: Partition) -> int:
        """Where to look on for records that are not acknowledged."""
        first, at = self._log.partitions[name].first, self._next[name]
        return max(first, at.at) if at.identity == self._log.identity else first

    def _without_seen(self, name: Partition, part: PartitionLog, offsets: Sequence[int]) -> Sequence[int]:
        if not self._seen:
            return offsets
        identity = self._log.identity
        done = [offset for offset in offsets if record_id(identity, name, offset) in self._seen]
        self._again.append((part, done))
        self._acknowledge_again()
        gone = set(done)
        return [offset for offset in offsets if offset not in gone]

    def _acknowledge_again(self) -> None:
        """Acknowledges what was committed before, once a sink could have refused this state as an older copy."""
        if self._open and self._again and self._log.acks_arrive and self._may_acknowledge():
            for part, offsets in self._again:
                part.acknowledge(offsets)
            self._again.clear()

    def _at_end(self) -> bool:
        return all(map(self._is_at_end, self._next))

    def _is_at_end(self, name: Partition) -> bool:
        return self._next[name].at >= self._log.partitions[name].end


def probe_log(log: TopicLog) -> Probe:
    """Looks at a topic without touching it."""
    if not log.reachable:
        return Probe(False, {}, f"memory topic {log.name} is unreachable", "Set topic.unreachable = False.")
    counts = {name or "records": str(part.end - part.first) for name, part in log.partitions.items()}
    return Probe(True, counts)
