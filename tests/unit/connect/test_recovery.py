"""From a broker's sequence number to the progress that is stored."""

from __future__ import annotations

import pytest

from streamflow.batch import Chunk, Progress, pack_frames
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import ProgressUnknown, SinkAhead

# Epoch 5 has records 11 to 13 in two chunks, epoch 7 has 14 and 15; epoch 6 published nothing.
CHUNKS = [
    Chunk("out", 5, 0, 11, 2, pack_frames([b"11", b"12"])),
    Chunk("out", 5, 1, 13, 1, pack_frames([b"13"])),
    Chunk("out", 7, 0, 14, 2, pack_frames([b"14", b"15"])),
]
STORED = Progress(4, 11, b"old")


@pytest.mark.parametrize(("next_seq", "epoch"), [(11, 4), (12, 4), (13, 4), (14, 5), (15, 5), (16, 7)])
def test_an_epoch_counts_only_when_all_of_it_arrived(next_seq, epoch):
    assert progress_at(next_seq, STORED, CHUNKS, b"new") == Progress(epoch, next_seq, b"new")


def test_nothing_waiting():
    assert progress_at(11, STORED, []) == Progress(4, 11)
    assert progress_at(1, None, []) == Progress(0, 1)


@pytest.mark.parametrize(("at", "chunks", "next_seq"), [(STORED, CHUNKS, 17), (STORED, [], 12), (None, [], 2)])
def test_more_than_was_ever_published_is_an_older_store(at, chunks, next_seq):
    with pytest.raises(SinkAhead) as caught:
        progress_at(next_seq, at, chunks)
    assert caught.value.hint


def test_less_than_was_published_is_refused():
    with pytest.raises(ProgressUnknown) as caught:
        progress_at(10, STORED, CHUNKS)
    assert caught.value.hint


def test_chunks_must_follow_each_other():
    with pytest.raises(AssertionError, match="starts at 14"):
        progress_at(11, STORED, [CHUNKS[0], CHUNKS[2]])


@pytest.mark.parametrize("next_seq", range(11, 17))
def test_unpublished_frames_start_at_the_sequence_number(next_seq):
    assert unpublished(CHUNKS, next_seq) == [b"%d" % seq for seq in range(next_seq, 16)]
