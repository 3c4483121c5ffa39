"""Recovery of a sink: from the sequence number that a broker reports to the progress that is stored."""

from __future__ import annotations

from collections.abc import Sequence

from streamflow.batch import Chunk, Progress, unpack_frames
from streamflow.errors import ProgressUnknown, SinkAhead


def progress_at(next_seq: int, at: Progress | None, chunks: Sequence[Chunk], cursor: bytes = b"") -> Progress:
    """Returns the progress of a sink whose broker expects ``next_seq`` next.

    Args:
        next_seq: The first sequence number that the broker does not hold.
        at: The progress known so far; None for a sink that never published.
        chunks: The committed chunks behind it, in order, without a gap.
        cursor: The broker's own mark at ``next_seq``.

    Raises:
        SinkAhead: The broker holds more than all of ``chunks``.
        ProgressUnknown: The broker holds less than ``at``: it lost what was published.
    """
    known = at or Progress(0, 1)
    end = _end(known, chunks)
    if next_seq > end:
        raise SinkAhead(
            f"the sink expects record {next_seq} next, but this store published only up to {end - 1}",
            hint="This store is an older copy. Use the newest one, or reset the sink with --accept-head.",
        )
    if next_seq < known.next_seq:
        raise ProgressUnknown(
            f"the sink holds records up to {next_seq - 1}, but {known.next_seq - 1} were published",
            hint="The target lost records. Restore it, or reset the sink with --accept-head.",
        )
    return Progress(_whole_epoch(next_seq, known, chunks), next_seq, cursor)


def unpublished(chunks: Sequence[Chunk], next_seq: int) -> list[bytes]:
    """Returns the frames of ``chunks`` from sequence number ``next_seq`` on, in order."""
    frames: list[bytes] = []
    for chunk in chunks:
        if chunk.end_seq > next_seq:
            assert chunk.payload, f"chunk {chunk.first_seq} of sink {chunk.sink} is at rest"
            frames += unpack_frames(chunk.payload)[max(0, next_seq - chunk.first_seq) :]
    return frames


def _end(known: Progress, chunks: Sequence[Chunk]) -> int:
    """The sequence number behind all chunks."""
    end = chunks[0].first_seq if chunks else known.next_seq
    assert end <= known.next_seq, f"chunks start at {end}, behind {known.next_seq}"
    for chunk in chunks:
        assert chunk.first_seq == end, f"chunk {chunk.epoch}.{chunk.index} starts at {chunk.first_seq}, not {end}"
        end += chunk.count
    return max(end, known.next_seq)


def _whole_epoch(next_seq: int, known: Progress, chunks: Sequence[Chunk]) -> int:
    """The last epoch all of whose chunks lie below ``next_seq``."""
    whole = known.epoch
    for index, chunk in enumerate(chunks, 1):
        if chunk.first_seq + chunk.count > next_seq:
            break
        if index == len(chunks) or chunks[index].epoch != chunk.epoch:
            whole = max(whole, chunk.epoch)
    return whole
