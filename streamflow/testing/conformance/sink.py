"""What every sink must do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from streamflow.batch import Chunk, Progress, pack_frames
from streamflow.connect.contracts import Level, Sink, SinkOptions
from streamflow.errors import DefinitionError, EncodeError, Fenced, ForeignWriter, Refusal, SinkAhead, Unavailable
from streamflow.testing.conformance.sink_kit import SINK, SinkKit, first_frames, fragment, traced, without


class SinkConformance(SinkKit):
    """The tests that a sink must pass; hooks are in `SinkKit` and `ConnectorConformance`."""

    # Encoding.

    async def test_encodes_one_frame_per_row(self) -> None:
        """Encoding is pure: before opening, and each time the same bytes, one frame per row."""
        values = [self.value(seq) for seq in range(1, 8)]
        frames = self.encoded(values)
        assert len(frames) == len(values)
        assert all(isinstance(frame, bytes) for frame in frames)
        assert self.encoded(values) == frames
        opened = await self.opened()
        assert list(opened.encode(fragment(values[:3]))) + list(opened.encode(fragment(values[3:]))) == frames
        assert list(opened.encode(fragment([]))) == []

    async def test_refuses_what_cannot_be_encoded(self) -> None:
        """A value that the codec refuses is an EncodeError with a hint, at once and for this value only."""
        value = self.unencodable()
        with pytest.raises(EncodeError) as caught:
            self.encoded([self.value(1), value])
        assert caught.value.hint

    async def test_refuses_what_is_too_large(self) -> None:
        """A record larger than the target takes is an EncodeError, so that it never gets into an outbox."""
        value = self.oversized()
        sink = await self.opened()
        with pytest.raises(EncodeError) as caught:
            sink.encode(fragment([value]))
        assert caught.value.hint

    async def test_trace_context_travels_on(self) -> None:
        """Rows that come from a record with a traceparent have it in their headers; others are encoded as ever."""
        texts = [f"00-{seq:032x}-{seq:016x}-01" if seq != 2 else None for seq in range(1, 4)]
        values = [self.value(seq) for seq in range(1, 4)]
        frames = list(self.make(self.spec()).encode(traced(values, texts)))
        plain = self.encoded(values)
        assert [frame == other for frame, other in zip(frames, plain, strict=True)].count(True) in (1, 3)
        assert frames[1] == plain[1]
        sink, baseline = await self.reopened(None, [])
        await self.publish(sink, [Chunk(SINK, 1, 0, 1, 3, pack_frames(frames))], baseline)
        await self.sees(3)
        assert await self.traceparents() == texts

    # Publishing.

    async def test_baseline_starts_at_one(self) -> None:
        """A sink that never published starts at sequence number 1 and publishes nothing by asking."""
        sink, baseline = await self.reopened(None, [])
        assert (baseline.epoch, baseline.next_seq) == (0, 1)
        await self.sees(0)
        await self.publish(sink, self.chunks(1, 1, [3]), baseline)
        await self.sees(3)

    async def test_baseline_with_epochs_waiting(self) -> None:
        """What was committed while the sink could not be opened is published whole behind the baseline."""
        pending = self.chunks(1, 1, [2], [3])
        sink, baseline = await self.reopened(None, pending)
        assert baseline.next_seq == 1
        await self.publish(sink, pending, baseline)
        await self.sees(5)

    async def test_baseline_behind_the_records_of_others(self) -> None:
        """Records that were there before do not count as published."""
        others = [self.value(9000), self.value(9001)]
        await self.write_foreign(others)
        sink, baseline = await self.reopened(None, [])
        pending = self.chunks(1, 1, [1, 2])
        await self.publish(sink, pending, baseline)
        _, progress = await self.reopened(baseline, pending)
        await self.sees(3, before=others)
        assert progress.next_seq == 4 or self.level is not Level.EXACTLY_ONCE

    async def test_publishes_in_order(self) -> None:
        """Runs of many epochs and chunks arrive whole and in order."""
        sink, progress = await self.reopened(None, [])
        chunks = self.chunks(1, 1, [1], [400, 400, 7], [1, 1, 1], [900])
        progress = await self.publish(sink, chunks[:1], progress)
        progress = await self.publish(sink, chunks[1:], progress)
        await self.sees(1711)

    async def test_restarts_go_on_behind_the_stored_progress(self) -> None:
        """Restarted again and again with nothing waiting, it goes on where it was."""
        stored: Progress | None = None
        for epoch in range(1, 6):
            sink, progress = await self.reopened(stored, [])
            assert progress.next_seq == 2 * epoch - 1
            stored = await self.publish(sink, self.chunks(epoch, progress.next_seq, [2]), progress)
            await sink.close()
        await self.sees(10)

    async def test_passes_over_what_was_given_up(self) -> None:
        """An empty frame is a record that the broker refuses for good: its number is used, and nothing is published."""
        sink, stored = await self.reopened(None, [])
        whole = self.chunks(1, 1, [3], [1], [4], [2])
        given_up = {1, 4, 6, 7, 10}  # the first, a whole chunk, two in a row, the last
        pending = [without(chunk, given_up) for chunk in whole]
        left = [self.value(seq) for seq in range(1, 11) if seq not in given_up]
        await self.publish(sink, pending, stored)
        await self.sees_exactly(left)
        sink, found = await self.reopened(stored, pending)
        if found.next_seq < 11:
            found = await self.publish(sink, pending, found)
        await self.sees_exactly(left)
        await self.publish(sink, self.chunks(found.epoch + 1, 11, [2]), found)
        await self.sees_exactly([*left, self.value(11), self.value(12)])

    # Crashes.

    async def test_a_crash_at_every_cut(self) -> None:
        """Whatever part of a run arrived, at each chunk and each frame, the rest is published exactly once."""
        epochs: Sequence[Sequence[int]] = ([1], [2, 1], [3])
        sink, stored = await self.reopened(None, [])
        for arrived in range(8):
            pending = self.chunks(stored.epoch + 1, stored.next_seq, *epochs)
            if arrived:
                await sink.publish(first_frames(pending, arrived), stored)
            sink, found = await self.reopened(stored, pending)
            self._is_truth(found, stored, pending, arrived)
            stored = await self.publish(sink, pending, found) if arrived < 7 else found
        await self.sees(56)

    async def test_a_lost_acknowledgement(self) -> None:
        """All of a run arrived and nobody was told: recovery finds it, publishing it again adds nothing."""
        sink, stored = await self.reopened(None, [])
        pending = self.chunks(1, 1, [2, 2], [3])
        await self.publish(sink, pending, stored)
        for _ in range(2):
            sink, found = await self.reopened(stored, pending)
            self._is_truth(found, stored, pending, 7)
            if found.next_seq < 8:
                await self.publish(sink, pending, found)
        await self.sees(7)

    async def test_a_crash_between_baseline_and_first_publish(self) -> None:
        """The stored baseline is good for ever, however often recovery itself is repeated."""
        _, stored = await self.reopened(None, [])
        pending = self.chunks(1, 1, [2])
        await self.reopened(stored, pending)
        sink, found = await self.reopened(stored, pending)
        assert found.next_seq == 1
        await self.publish(sink, pending, found)
        await self.sees(2)

    async def test_a_publish_cancelled_anywhere(self) -> None:
        """Cancelled at any await, with the old instance closed or left alive, the run arrives exactly once."""
        sink, stored = await self.reopened(None, [])
        total = 0
        for steps in range(16):
            pending = self.chunks(stored.epoch + 1, stored.next_seq, [12, 12], [12])
            publishing = asyncio.ensure_future(sink.publish(pending, stored))
            for _ in range(steps):
                await asyncio.sleep(0)
            publishing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await publishing
            if steps % 2:
                await sink.close()
            sink, found = await self.reopened(stored, pending)
            total += 36
            stored = found if found.next_seq > total else await self.publish(sink, pending, found)
        await self.sees(total)

    async def test_a_broker_that_dies_and_comes_back(self) -> None:
        """Publishing to a dead broker raises Unavailable; what it confirmed before survived its death."""
        sink, stored = await self.reopened(None, [])
        stored = await self.publish(sink, self.chunks(1, 1, [50]), stored)
        pending = self.chunks(2, 51, [30], [20])
        await self.take_down()
        try:
            with pytest.raises(Unavailable):
                async with asyncio.timeout(self.timeout_seconds):
                    await sink.publish(pending, stored)
            await sink.close()
        finally:
            await self.bring_up()
        sink, found = await self.reopened(stored, pending)
        if found.next_seq < 101:
            await self.publish(sink, pending, found)
        await self.sees(100)

    # Refusals.

    async def test_an_older_instance_is_fenced(self) -> None:
        """From the opening of a newer instance on, the older one cannot publish, and the newer one is not disturbed."""
        self._needs_fence()
        older, stored = await self.reopened(None, [])
        stored = await self.publish(older, self.chunks(1, 1, [2]), stored)
        pending = self.chunks(2, 3, [3])
        newer = await self.opened()
        await self._is_fenced(older, pending, stored)
        found = await newer.recover(stored, pending)
        assert found.next_seq == 3
        await self._is_fenced(older, pending, stored)
        stored = await self.publish(newer, pending, found)
        await self._is_fenced(older, pending, found)
        await older.close()
        await self.publish(newer, self.chunks(3, 6, [1]), stored)
        await self.sees(6)

    async def test_an_equal_generation_fences_too(self) -> None:
        """A sink reopened inside one process fences the one before."""
        self._needs_fence()
        older, stored = await self.reopened(None, [])
        newer: Sink = self.made(self.spec())
        await newer.open(self.context(self._generation))
        pending = self.chunks(1, 1, [2])
        await self._is_fenced(older, pending, stored)
        await self.publish(newer, pending, await newer.recover(stored, pending))
        await self.sees(2)

    async def test_a_probe_fences_nothing(self) -> None:
        """Probing beside a running sink leaves it running."""
        sink, progress = await self.reopened(None, [])
        assert (await self.made(self.spec()).probe()).ok
        await self.publish(sink, self.chunks(1, 1, [2]), progress)
        await self.sees(2)

    @pytest.mark.parametrize("waiting", [0, 1])
    async def test_an_older_store_is_refused(self, waiting: int) -> None:
        """A store that knows less than was published is refused, with or without epochs of its own waiting."""
        self._needs_truth()
        sink, stored = await self.reopened(None, [])
        chunks = self.chunks(1, 1, [2], [2], [2])
        stored = await self.publish(sink, chunks[:1], stored)
        await self.publish(sink, chunks[1:], stored)
        sink = await self.opened()
        with pytest.raises(SinkAhead) as caught:
            await sink.recover(stored, chunks[1 : 1 + waiting])
        assert caught.value.hint
        await self.sees(6)

    @pytest.mark.parametrize("arrived", [0, 1, 3])
    async def test_foreign_records_do_not_count_as_published(self, arrived: int) -> None:
        """As many foreign records as were waiting: refused where the sink must be alone, left out where not."""
        self._needs_truth()
        sink, stored = await self.reopened(None, [])
        stored = await self.publish(sink, self.chunks(1, 1, [2]), stored)
        pending = self.chunks(2, 3, [3])
        if arrived:
            await sink.publish(first_frames(pending, arrived), stored)
        await self.write_foreign([self.value(9000 + number) for number in range(3)])
        await sink.close()
        sink = await self.opened()
        if self.spec().target:
            with pytest.raises(Refusal) as caught:
                await sink.recover(stored, pending)
            assert isinstance(caught.value, ForeignWriter | SinkAhead)
            assert caught.value.hint
        else:
            assert (await sink.recover(stored, pending)).next_seq == 3 + arrived

    async def test_a_replaced_target_is_refused(self) -> None:
        """If what was published is gone, recovery says so instead of starting anew."""
        self._needs_truth()
        sink, stored = await self.reopened(None, [])
        stored = await self.publish(sink, self.chunks(1, 1, [3]), stored)
        await sink.close()
        await self.replace()
        sink = await self.opened()
        with pytest.raises(Refusal) as caught:
            await sink.recover(stored, self.chunks(2, 4, [2]))
        assert caught.value.hint

    # The rest.

    async def test_options_are_taken(self) -> None:
        """Functions for key and headers are called while encoding, and what they raise or give stays there."""
        calls: list[Any] = []

        def key(value: Any) -> str:
            calls.append(value)
            return "k"

        options = SinkOptions(key=key, headers=lambda value: {"h": "1"})
        try:
            sink = self.spec().sink(options)
        except DefinitionError as error:
            pytest.skip(f"options: refused, {error}")
        self._made.append(sink)
        frames = sink.encode(fragment([self.value(1)]))
        assert len(frames) == 1

    # Below: how the tests above say things.

    def _is_truth(self, found: Progress, stored: Progress, pending: Sequence[Chunk], arrived: int) -> None:
        """Checks what recovery found when the first ``arrived`` frames are there."""
        truth = stored.next_seq + arrived
        assert stored.next_seq <= found.next_seq <= truth
        if self.level is Level.EXACTLY_ONCE:
            assert found.next_seq == truth, f"recovery says {found.next_seq}, the truth is {truth}"
        whole = [chunk.epoch for chunk in pending if chunk.first_seq + chunk.count <= found.next_seq]
        open_epochs = [chunk.epoch for chunk in pending if chunk.first_seq + chunk.count > found.next_seq]
        assert found.epoch == max([stored.epoch, *(epoch for epoch in whole if epoch not in open_epochs)])

    async def _is_fenced(self, sink: Sink, chunks: Sequence[Chunk], at: Progress) -> None:
        with pytest.raises(Fenced):
            async with asyncio.timeout(self.timeout_seconds):
                await sink.publish(chunks, at)

    def _needs_truth(self) -> None:
        if self.level is not Level.EXACTLY_ONCE:
            pytest.skip(f"guarantee: {self.level}, so the target need not tell what arrived")

    def _needs_fence(self) -> None:
        if self.level is Level.AT_LEAST_ONCE:
            pytest.skip(f"guarantee: {self.level}, so older instances need not be kept out")
