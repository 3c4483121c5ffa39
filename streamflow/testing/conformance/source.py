"""What every source must do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from streamflow.batch import Partition, Position, Taken
from streamflow.connect.contracts import MORE, Source
from streamflow.errors import PositionAhead, Refusal, RetentionGap, SourceReplaced, Unavailable
from streamflow.testing.conformance.source_kit import Read, SourceKit


class SourceConformance(SourceKit):
    """The tests that a source must pass; hooks are in `SourceKit` and `ConnectorConformance`."""

    # Reading.

    async def test_order_is_kept(self) -> None:
        """All records come, in order, with positions that rise, or ids that differ."""
        expected = self.payloads(0, 1500)
        await self.feed(expected, self.first)
        found = await self.take(await self.opened(), len(expected))
        assert [read.payload for read in found] == expected
        if self.by_ids:
            assert len({read.id for read in found}) == len(found)
        else:
            at = [position(read).at for read in found]
            assert at == sorted(set(at))
            assert len({position(read).identity for read in found}) == 1

    async def test_partitions_are_each_in_order(self) -> None:
        """Each partition keeps its order, and all of them are read."""
        if len(self.partitions) < 2:
            pytest.skip("partitions: there is only one")
        for number, name in enumerate(self.partitions):
            await self.feed(self.payloads(1000 * number, 1000 * number + 700), name)
        found = await self.take(await self.opened(), 700 * len(self.partitions))
        for number, name in enumerate(self.partitions):
            expected = self.payloads(1000 * number, 1000 * number + 700)
            assert [read.payload for read in found if read.partition == name] == expected

    async def test_waits_for_records(self) -> None:
        """A source that has read everything waits, and goes on when more comes."""
        source = await self.opened()
        await self.take_nothing(source)
        for index in range(3):
            await self.feed([self.payload(index)], self.first)
            assert [read.payload for read in await self.take(source, 1)] == [self.payload(index)]
        await self.take_nothing(source)

    async def test_a_cancelled_read_loses_nothing(self) -> None:
        """Wherever a read is cancelled, each record comes exactly once, in order."""
        source = await self.opened()
        found: list[Read] = []
        for index in range(40):
            reading = asyncio.ensure_future(source.read())
            for _ in range(index % 7):
                await asyncio.sleep(0)
            await self.feed([self.payload(index)], self.first)
            for _ in range(index % 5):
                await asyncio.sleep(0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                batch = await reading
                assert batch is not None
                found += self.rows(batch)
        found += await self.take(source, 40 - len(found))
        assert [read.payload for read in found] == self.payloads(0, 40)

    async def test_a_bounded_source_ends(self) -> None:
        """Behind the last record `read` returns None, once and for all, also when it was waiting."""
        await self.feed(self.payloads(0, 5), self.first)
        source = self.made(self.bounded_spec())
        await self.open(source)
        found = await self.take(source, 5)
        await self.end_input()
        async with asyncio.timeout(self.timeout_seconds):
            assert await source.read() is None
            assert await source.read() is None
        assert [read.payload for read in found] == self.payloads(0, 5)

    async def test_nothing_follows_the_last_batch_of_a_partition(self) -> None:
        """A partition that ends before others may be told of as at its end: it is, and none of it is missing."""
        if len(self.partitions) < 2:
            pytest.skip("partitions: there is only one")
        await self.feed(self.payloads(0, 3), self.first)
        await self.feed(self.payloads(3, 9), self.partitions[1])
        source = self.made(self.bounded_spec())
        await self.open(source)
        await self.end_input()
        found: list[Read] = []
        ended: set[Partition] = set()
        async with asyncio.timeout(self.timeout_seconds):
            while (batch := await source.read()) is not None:
                assert batch.partition not in ended, f"more of partition {batch.partition!r} came behind its last batch"
                found += self.rows(batch)
                ended |= {batch.partition} if batch.last else set()
        for partition, payloads in ((self.first, self.payloads(0, 3)), (self.partitions[1], self.payloads(3, 9))):
            assert [read.payload for read in found if read.partition == partition] == payloads

    async def test_pause_stops_the_read_ahead(self) -> None:
        """A paused partition gives at most its read-ahead; resumed, it goes on without a gap, a waiting read too."""
        source = await self.opened()
        ahead = self.read_ahead_records_max
        expected = self.payloads(0, ahead + 40)
        source.pause({self.first})
        await self.feed(expected, self.first)
        found = await self._until_quiet(source)
        assert len(found) <= ahead, f"{len(found)} records came although the partition is paused"
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0)
        source.pause(frozenset())
        async with asyncio.timeout(self.timeout_seconds):
            batch = await reading
        assert batch is not None
        found += self.rows(batch)
        found += await self.take(source, len(expected) - len(found))
        assert [read.payload for read in found] == expected

    async def test_pause_spares_the_other_partitions(self) -> None:
        """Pausing one partition leaves the others running."""
        if len(self.partitions) < 2:
            pytest.skip("partitions: there is only one")
        source = await self.opened()
        source.pause({self.first})
        await self.feed(self.payloads(0, 20), self.partitions[1])
        found = await self.take(source, 20)
        assert {read.partition for read in found} == {self.partitions[1]}

    async def test_a_probe_moves_nothing(self) -> None:
        """Probing beside a running source changes nothing for it."""
        await self.feed(self.payloads(0, 10), self.first)
        source = await self.opened()
        for _ in range(2):
            assert (await self.made(self.spec()).probe()).ok
        assert [read.payload for read in await self.take(source, 10)] == self.payloads(0, 10)

    # Resuming by position.

    async def test_opening_says_where_it_starts(self) -> None:
        """`open` returns where each partition starts; a source opened there gives what came in the meantime too."""
        self._needs_positions()
        await self.feed(self.payloads(0, 3), self.first)
        starts = await self._starts({})
        assert set(starts) == set(self.partitions)
        await self.feed(self.payloads(3, 5), self.first)
        assert await self._starts(starts) == starts
        assert [read.payload for read in await self.take(await self.opened(starts), 5)] == self.payloads(0, 5)

    async def test_resumes_at_every_cut(self) -> None:
        """Resumed behind any record, it gives all later ones, in order, and nothing else."""
        self._needs_positions()
        count = 9
        await self.feed(self.payloads(0, count), self.first)
        found = await self.take(await self.opened(), count)
        for taken in range(1, count):
            source = await self.opened({self.first: position(found[taken - 1])})
            rest = await self.take(source, count - taken)
            assert [read.payload for read in rest] == self.payloads(taken, count)
            assert [read.position for read in rest] == [read.position for read in found[taken:]]
            await source.close()

    async def test_resumes_at_the_end_and_waits(self) -> None:
        """Resumed behind the last record, it gives only what comes afterwards."""
        self._needs_positions()
        await self.feed(self.payloads(0, 5), self.first)
        last = position((await self.take(await self.opened(), 5))[-1])
        source = await self.opened({self.first: last})
        await self.take_nothing(source)
        await self.feed(self.payloads(5, 8), self.first)
        assert [read.payload for read in await self.take(source, 3)] == self.payloads(5, 8)

    async def test_resumes_where_no_record_was_taken(self) -> None:
        """The position that `ends` gives for an empty partition can be resumed at, once there are records."""
        self._needs_positions()
        end = (await (await self.opened()).ends())[self.first]
        await self.feed(self.payloads(0, 3), self.first)
        source = await self.opened({} if end is None else {self.first: end})
        assert [read.payload for read in await self.take(source, 3)] == self.payloads(0, 3)

    async def test_each_partition_resumes_on_its_own(self) -> None:
        """Every partition goes on behind what was taken from it."""
        self._needs_positions()
        if len(self.partitions) < 2:
            pytest.skip("partitions: there is only one")
        for name in self.partitions:
            await self.feed(self.payloads(0, 6), name)
        found = await self.take(await self.opened(), 6 * len(self.partitions))
        resume: dict[Partition, Position] = {}
        for taken, name in enumerate(self.partitions[:6], 1):
            resume[name] = position([read for read in found if read.partition == name][taken - 1])
        rest = await self.take(await self.opened(resume), sum(6 - taken for taken in range(1, len(resume) + 1)))
        for taken, name in enumerate(resume, 1):
            assert [r.payload for r in rest if r.partition == name] == self.payloads(taken, 6)

    async def test_ends_is_where_a_reader_that_is_caught_up_stands(self) -> None:
        """`ends` names each partition, gives the last record's position, moves when more comes, and moves nothing."""
        self._needs_positions()
        await self.feed(self.payloads(0, 4), self.first)
        source = await self.opened()
        ends = await source.ends()
        assert set(ends) == set(self.partitions)
        found = await self.take(source, 4)
        assert ends[self.first] == found[-1].position
        await self.feed(self.payloads(4, 6), self.first)
        last = (await self.take(source, 2))[-1]
        assert (await source.ends())[self.first] == last.position

    async def test_committed_may_be_told_at_any_time(self) -> None:
        """Reports of committed positions, lost, late or repeated, change nothing for a source with positions."""
        self._needs_positions()
        await self.feed(self.payloads(0, 6), self.first)
        source = await self.opened()
        found = await self.take(source, 6)
        for epoch, read in enumerate((found[3], found[1], found[1]), 1):
            await source.committed(epoch, Taken({self.first: position(read)}))
        again = await self.opened({self.first: position(found[1])})
        assert [read.payload for read in await self.take(again, 4)] == self.payloads(2, 6)

    # Refusals.

    async def test_a_retention_gap_is_refused(self) -> None:
        """If records behind the position are gone, opening says so instead of skipping them."""
        self._needs_positions()
        await self.feed(self.payloads(0, 10), self.first)
        found = await self.take(await self.opened(), 10)
        await self.truncate(5, self.first)
        await self._is_refused(RetentionGap, found[2])
        source = await self.opened({self.first: position(found[4])})
        assert [read.payload for read in await self.take(source, 5)] == self.payloads(5, 10)

    async def test_a_position_ahead_is_refused(self) -> None:
        """If the source ends before the position, opening says so instead of waiting for ever."""
        self._needs_positions()
        await self.feed(self.payloads(0, 10), self.first)
        found = await self.take(await self.opened(), 10)
        await self.lose(5, self.first)
        await self._is_refused(PositionAhead, found[7])
        await self.opened({self.first: position(found[4])})

    async def test_a_replaced_source_is_refused(self) -> None:
        """A stream made anew is refused, also if it already holds as many records as the old one."""
        self._needs_positions()
        await self.feed(self.payloads(0, 5), self.first)
        found = await self.take(await self.opened(), 5)
        await self.replace()
        await self._is_refused(SourceReplaced, found[1])
        await self.feed(self.payloads(100, 110), self.first)
        await self._is_refused(SourceReplaced, found[1])

    # Ids.

    async def test_what_is_not_acknowledged_comes_again(self) -> None:
        """With ids: a reopened source gives again what was not acknowledged, under the same ids, in order."""
        self._needs_ids()
        assert await self._starts({}) == {}
        await self.feed(self.payloads(0, 10), self.first)
        source = await self.opened()
        found = await self.take(source, 10)
        await source.committed(1, Taken(ids=[name(read) for read in found[:4]]))
        await source.close()
        again = await self.take(await self.opened(), 6)
        assert again == found[4:]

    async def test_what_is_seen_is_dropped(self) -> None:
        """With ids: a record whose id is in the checkpoint is dropped and acknowledged, wherever it stands."""
        self._needs_ids()
        await self.feed(self.payloads(0, 10), self.first)
        source = await self.opened()
        found = await self.take(source, 10)
        await source.close()
        seen = {name(read) for read in (found[0], found[3], found[4], found[9])}
        source = await self.opened(seen=seen)
        rest = [read for read in found if read.id not in seen]
        assert await self.take(source, 6) == rest
        await source.close()
        assert await self.take(await self.opened(), 6) == rest

    async def test_ends_says_whether_there_is_more(self) -> None:
        """With ids: `ends` gives `MORE` until everything was read, and None then; that moves nothing."""
        self._needs_ids()
        source = await self.opened()
        found: list[Read] = []
        for start in (0, 3):
            assert await source.ends() == dict.fromkeys(self.partitions)
            await self.feed(self.payloads(start, start + 3), self.first)
            assert await source.ends() == {**dict.fromkeys(self.partitions), self.first: MORE}
            found = await self.take(source, 3)
            assert [read.payload for read in found] == self.payloads(start, start + 3)
        assert await source.ends() == dict.fromkeys(self.partitions)
        await source.committed(1, Taken(ids=[name(read) for read in found]))
        assert await source.ends() == dict.fromkeys(self.partitions)

    async def test_ends_gives_more_where_it_waits_for_acknowledgements(self) -> None:
        """With ids: a source that handed out as much as it may has not read everything."""
        self._needs_ids()
        if not self.unacknowledged_max:
            pytest.skip("unacknowledged_max: it hands out whatever there is")
        bound = self.unacknowledged_max
        await self.feed(self.payloads(0, bound + 3), self.first)
        source = await self.opened()
        found = await self.take(source, bound)
        await self.take_nothing(source)
        assert (await source.ends())[self.first] == MORE
        await source.committed(1, Taken(ids=[name(read) for read in found]))
        found = await self.take(source, 3)
        assert [read.payload for read in found] == self.payloads(bound, bound + 3)
        assert (await source.ends())[self.first] is None

    async def test_an_older_copy_acknowledges_nothing(self) -> None:
        """With ids: what is in the checkpoint stays in the queue until sinks have recovered, and could refuse it."""
        self._needs_ids()
        await self.feed(self.payloads(0, 4), self.first)
        source = await self.opened()
        found = await self.take(source, 4)
        await source.close()
        copy: Source = self.made(self.spec())
        seen = frozenset(name(read) for read in found[:3])
        await copy.open(replace(self.context(seen), may_acknowledge=lambda: False), {})
        assert await self.take(copy, 1) == found[3:]
        await self.take_nothing(copy)
        await copy.close()
        assert await self.take(await self.opened(), 4) == found

    # Trouble.

    async def test_a_lost_connection_is_reported_and_nothing_is_lost(self) -> None:
        """While the broker is down `read` and `ends` raise Unavailable; reopened at the last position it goes on."""
        await self.feed(self.payloads(0, 5), self.first)
        source = await self.opened()
        found = await self.take(source, 5)
        await self.take_down()
        try:
            with pytest.raises(Unavailable):
                async with asyncio.timeout(self.timeout_seconds):
                    await source.read()
            with pytest.raises(Unavailable):
                async with asyncio.timeout(self.timeout_seconds):
                    await source.ends()
            await source.close()
        finally:
            await self.bring_up()
        await self.feed(self.payloads(5, 8), self.first)
        seen = {name(read) for read in found} if self.by_ids else set[str]()
        resume = {} if self.by_ids else {self.first: position(found[-1])}
        source = await self.opened(resume, seen=seen)
        assert [read.payload for read in await self.take(source, 3)] == self.payloads(5, 8)

    # Below: how the tests above say things.

    async def _starts(self, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        source: Source = self.made(self.spec())
        try:
            return await source.open(self.context(), resume)
        finally:
            # some brokers let one reader in at a time
            await source.close()

    async def _until_quiet(self, source: Source) -> list[Read]:
        found: list[Read] = []
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(self.quiet_seconds):
                    batch = await source.read()
                assert batch is not None
                found += self.rows(batch)
        return found

    async def _is_refused(self, error: type[Refusal], taken: Read) -> None:
        source: Any = self.made(self.spec())
        with pytest.raises(error) as caught:
            async with asyncio.timeout(self.timeout_seconds):
                await source.open(self.context(), {self.first: position(taken)})
        assert caught.value.hint
        await source.close()

    def _needs_positions(self) -> None:
        if self.by_ids:
            pytest.skip("by_ids: the source has no positions")

    def _needs_ids(self) -> None:
        if not self.by_ids:
            pytest.skip("by_ids: the source has positions")


def position(read: Read) -> Position:
    """The position of a record that must have one."""
    assert read.position is not None
    return read.position


def name(read: Read) -> str:
    """The id of a record that must have one."""
    assert read.id is not None
    return read.id
