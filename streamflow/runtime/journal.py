"""The journal: how the numbers of past epochs were cut, and the intake that cuts the same again.

State and outputs are a function of the journal, the records and the steps. So who cuts by a journal, whatever the
speed of sources and tasks, gets the same epochs, to the last byte: that is what a replay rests on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from streamflow.batch import Partition
from streamflow.clock import Clock
from streamflow.codecs import Prepared
from streamflow.errors import DeterminismError
from streamflow.runtime.channel import Channel
from streamflow.runtime.cut import PUSHED, Envelope, Pushed
from streamflow.runtime.decoding import Ready, as_read
from streamflow.runtime.intake import Intake, Start
from streamflow.runtime.ordering import Given, TimeOrder
from streamflow.runtime.pacing import Pacer
from streamflow.runtime.pump import Pump
from streamflow.runtime.taking import NOTHING_TURNED, Taking, Turned

_unpack = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True, slots=True)
class Share:
    """What one partition gave to a number.

    Args:
        source: Name of the source; `PUSHED` for records from inside the process.
        partition: The partition; for pushed records the source whose stream they joined.
        count: Number of records.
        ids: Their ids, of a source without positions.
        runs: Their positions, first and last of each run, of a source that is read in the order of event time.
    """

    source: str
    partition: Partition
    count: int
    ids: tuple[str, ...] = ()
    runs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedNumber:
    """One number as the journal tells it, and what happened to sources beside it."""

    number: int
    now_ms: int
    fires: bool
    shares: tuple[Share, ...]
    turned: Turned = NOTHING_TURNED


class RecordedPush(NamedTuple):
    """One record that was pushed: source, payload, identity, and what is known of the record that it was."""

    source: str
    payload: bytes
    id: str = ""
    envelope: Envelope | None = None


@dataclass(frozen=True, slots=True)
class RecordedEpoch:
    """One epoch as its store tells it.

    Args:
        epoch: Its number.
        numbers: Its micro-batches; the last one carries the barrier.
        pushed: The records that were pushed.
    """

    epoch: int
    numbers: tuple[RecordedNumber, ...]
    pushed: tuple[RecordedPush, ...] = ()


def read_epoch(epoch: int, journal: bytes, pushed: bytes) -> RecordedEpoch:
    """Decodes what the store keeps of an epoch in its tables ``journal`` and ``internal``."""
    numbers = tuple(
        RecordedNumber(number, now_ms, fires, tuple(_share(*share) for share in line), _turned(*rest))
        for number, now_ms, fires, line, *rest in _unpack(journal)
    )
    return RecordedEpoch(epoch, numbers, tuple(_push(*push) for push in _unpack(pushed or b"\x90")))


def _push(source: str, payload: bytes, id: str = "", envelope: Sequence[Any] | None = None) -> RecordedPush:
    return RecordedPush(source, payload, id, None if envelope is None else Envelope(*envelope))


def _turned(turned: Any = ((), (), ())) -> Turned:
    silent, ended, horizons = turned
    return Turned(tuple(map(tuple, silent)), tuple(ended), tuple(map(tuple, horizons)))


def _share(source: str, partition: str, count: int, end: int | list[Any]) -> Share:
    if not isinstance(end, list):
        return Share(source, partition, count)
    if isinstance(end[0], str):
        return Share(source, partition, count, tuple(end))
    return Share(source, partition, count, (), tuple((first, last) for first, last in end))


class JournalIntake(Intake):
    """An intake that forms the numbers of a journal.

    GUARANTEE: numbers, times, barriers and the records in each are those of the journal; `run` returns behind its
    last epoch. BOUND: reads ahead of a partition as far as the journal makes it wait for another one.

    Args:
        journal: The epochs, without a gap.
        pumps: The sources, in the order of the graph.
        channel: Where the fragments go.
        pacer: Is told of barriers; the journal decides when.
        clock: For the times of waiting only.
        start: Where the shard goes on; epochs up to there are passed over.
    """

    def __init__(
        self,
        journal: Sequence[RecordedEpoch],
        pumps: Sequence[Pump],
        channel: Channel,
        pacer: Pacer,
        clock: Clock,
        start: Start,
    ) -> None:
        super().__init__(pumps, channel, pacer, clock, start)
        self._journal = [epoch for epoch in journal if epoch.epoch > start.epoch]
        self._by_name = {pump.name: pump for pump in pumps}

    async def run(self) -> None:
        for epoch in self._journal:
            assert epoch.epoch == self._epoch + 1, f"the journal goes on with epoch {epoch.epoch} after {self._epoch}"
            pushed = iter(epoch.pushed)
            await self._prepare(epoch.pushed)
            for number in epoch.numbers:
                await self._until_held(number)
                last = number is epoch.numbers[-1]
                while (last and not self._pacer.idle) or (number.shares and self._is_stalled()):
                    await self._woken()
                self._number, self._now_ms = number.number, number.now_ms
                barrier = self._end_epoch if last else lambda: None
                await self._channel.put(self._made(self._rows_of(number, pushed), number.fires, barrier, number.turned))
        while not self._pacer.idle:
            await self._woken()

    def _rows_of(self, number: RecordedNumber, pushed: Any) -> Taking:
        """Takes what a number took."""
        rows = self._nothing_taken()
        self._turn(number.turned.silent, ())
        for pump in self.pumps:
            pump.now_ms = number.now_ms
        ordered = {order: [each for each in number.shares if self._order_of(each) is order] for order in self._orders}
        for share in number.shares:
            order = self._order_of(share)
            if order is None:
                for ready in self._given(share, rows, pushed):
                    self._enter(share.source, ready, rows)
            elif ordered[order]:
                self._enter_given(self._picked(order, ordered.pop(order)), rows)
                ordered[order] = []
        self._turn((), number.turned.ended)
        for index, *fields in number.turned.horizons:
            self._orders[index].horizon.set(*fields)
        return rows

    def _order_of(self, share: Share) -> TimeOrder | None:
        if share.source == PUSHED or not (pump := self._by_name[share.source]).ordered:
            return None
        return next(order for order in self._orders if pump in order.pumps)

    def _picked(self, order: TimeOrder, shares: Sequence[Share]) -> Given:
        given = order.pick({(share.source, share.partition): (share.runs, share.ids) for share in shares})
        found = {_share(source, partition, count, where) for source, partition, count, where in given.shares}
        if found != set(shares):
            raise DeterminismError(
                f"source {shares[0].source!r} does not give the records again that its journal has",
                hint="Replay needs the records that were there when the journal was written.",
            )
        return given

    def _is_held(self, number: RecordedNumber, share: Share) -> bool:
        """Whether the records of a share were read."""
        pump, order = self._by_name[share.source], self._order_of(share)
        if order is None:
            return pump.held(share.partition) >= self._wanted(number, share)
        pump.now_ms = number.now_ms
        order.draw(pump, share.partition, share.runs[-1][1] if share.runs else None)
        return order.has_read(share.source, share.partition, share.runs, share.ids)

    async def _until_held(self, number: RecordedNumber) -> None:
        """Waits until every record of a number has been read."""
        while True:
            missing = [
                self._by_name[share.source]
                for share in number.shares
                if share.source != PUSHED and not self._is_held(number, share)
            ]
            if not missing:
                return
            for pump in missing:
                if pump.ended:
                    raise DeterminismError(
                        f"source {pump.name!r} ended before number {number.number} had the records of its journal",
                        hint="Replay needs the records that were there when the journal was written.",
                    )
                if pump.waiting:
                    pump.widen()
            await self._woken()

    def _wanted(self, number: RecordedNumber, share: Share) -> int:
        """How many records of a partition a number takes, in all its shares."""
        place = (share.source, share.partition)
        return sum(other.count for other in number.shares if (other.source, other.partition) == place)

    def _given(self, share: Share, rows: Taking, pushed: Any) -> list[Ready]:
        if share.source == PUSHED:
            for _ in range(share.count):
                self._enter_recorded_push(next(pushed), rows)
            return []
        found = self._by_name[share.source].take_from(share.partition, share.count)
        ids = tuple(id for ready in found for id in ready.records.ids or ())
        if ids != share.ids:
            raise DeterminismError(
                f"source {share.source!r} gives messages {ids[:3]} where its journal has {share.ids[:3]}",
                hint="A queue that was read cannot be replayed from the broker.",
            )
        return found

    async def _prepare(self, pushed: Sequence[RecordedPush]) -> None:
        for push in pushed:
            codec = self._by_name[push.source].step.options["spec"].codec
            if isinstance(codec, Prepared):
                await codec.prepare_decoding([push.payload])

    def _enter_recorded_push(self, push: RecordedPush, rows: Taking) -> None:
        source, payload, id, envelope = push
        step = self._by_name[source].step
        codec = step.options["spec"].codec
        value = msgspec.json.decode(payload) if codec is None else codec.decode(payload)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        recorded = Pushed(source, as_read(step, value, envelope), payload, done, id, envelope=envelope)
        self._enter_push(recorded, rows)
        self._cut.pushed.append(recorded)

    def _is_stalled(self) -> bool:
        self._stall = self.stalled()
        return bool(self._stall)

    async def _woken(self) -> None:
        await self._wakeup.wait()
        self._wakeup.clear()
