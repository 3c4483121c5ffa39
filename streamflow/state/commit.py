"""What one commit writes: the statements of an epoch, of a note and of a spill, inside the caller's transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from streamflow.batch import Chunk, ClockOf, EventClock, Progress, Taken
from streamflow.errors import CheckpointError, CorruptStateError, Fenced
from streamflow.state.content import count_steps
from streamflow.state.dead import delete_dead, write_dead
from streamflow.state.ledger import Held, Ledger
from streamflow.state.rows import above_text, blob_crc, chunk_crc, delta_crc, fields_crc, text, write_rows
from streamflow.state.splitting import delta_fields
from streamflow.state.store import Delta, Epoch
from streamflow.state.tally import Tally

HISTORY_EPOCHS: Final = 1000
"""Epochs whose journal and pushed records are kept for `replay`, and that `checkpoints` can show."""
HISTORY_TRIM_EVERY: Final = 64
"""History is trimmed in batches of so many epochs."""
DELTA_BYTES_MAX: Final = 128 << 10
"""Deltas of one table are joined to rows of up to this size; a larger single delta stays as it is. The fold takes a
row apart by one call, during which the loop waits for the interpreter: 1 ms."""

DELTAS_CHECKED_FIRST: Final = 8
DELTAS_CHECKED_EVERY: Final = 256
DELTA_CHECKED_ENTRIES_MAX: Final = 1000
"""A table's first deltas since the opening, and every so many small ones after them, are parsed before they are
committed: what a codec writes that is not JSON must not be found by the next recovery."""

STATEMENT_BYTES_MAX: Final = 1 << 20
"""Outputs of more bytes go in by several statements: each copies what it is given, while the loop waits for the
interpreter; 20 MiB at once took 12 ms."""

_INT64: Final = range(-(1 << 63), 1 << 63)

Row = tuple[Any, ...]


def write_epoch(connection: sqlite3.Connection, tally: Tally, epoch: Epoch, at_ms: int) -> None:
    """Writes everything of an epoch, whose deltas were joined before.

    Raises:
        Fenced: Another process committed, or opened the store.
    """
    _claim(connection, tally.ledger, epoch, at_ms)
    write_taken(connection, tally, epoch.epoch, epoch.taken)
    write_clocks(connection, tally, epoch.clocks)
    for table, payload in (("journal", epoch.journal), ("internal", epoch.pushed)):
        if payload:
            row = (epoch.epoch, payload, blob_crc(epoch.epoch, payload))
            connection.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", row)
    write_dead(connection, tally, epoch.epoch, at_ms, epoch.dead)
    delete_dead(connection, tally, epoch.revived)
    _write_deltas(connection, tally, epoch.epoch, epoch.deltas)
    write_chunks(connection, tally, epoch.chunks)
    write_progress(connection, tally, epoch.progress)
    if epoch.epoch % HISTORY_TRIM_EVERY == 0:
        _trim_history(connection, epoch.epoch - HISTORY_EPOCHS)
    tally.write(connection, epoch=epoch.epoch)


def _claim(connection: sqlite3.Connection, ledger: Ledger, epoch: Epoch, at_ms: int) -> None:
    """Compare-and-set: adds the epoch's row iff it follows the last one and nobody opened the store since."""
    assert epoch.number >= ledger.number, f"number went back: {epoch.number} after {ledger.number}"
    assert epoch.now_ms >= ledger.now_ms, f"processing time went back: {epoch.now_ms} after {ledger.now_ms}"
    size = sum(len(delta.payload) for delta in epoch.deltas) + sum(len(chunk.payload) for chunk in epoch.chunks)
    size += ledger.spilled_bytes
    duration = 1000 * (time.perf_counter() - epoch.started) if epoch.started else 0.0
    entries = sum(delta.count for delta in epoch.deltas)
    fields = (epoch.epoch, epoch.number, epoch.now_ms, at_ms, ledger.generation, epoch.records, entries, size)
    digest = epoch.digest()
    cursor = connection.execute(
        "INSERT INTO epoch SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? "
        "WHERE (SELECT coalesce(max(epoch), 0) FROM epoch) = ? "
        "AND (SELECT value FROM meta WHERE key = 'generation') = ?",
        (
            *(*fields, digest, fields_crc(*fields, digest), duration),
            *(epoch.epoch - 1, ledger.generation),
        ),
    )
    if cursor.rowcount != 1:
        raise fenced(f"epoch {epoch.epoch} of generation {ledger.generation} is not the next one any more")
    write_duration(connection, ledger)


def write_duration(connection: sqlite3.Connection, ledger: Ledger) -> None:
    """Corrects the last epoch's duration by its COMMIT, which could not know its own."""
    if ledger.measured is not None:
        done, milliseconds = ledger.measured
        connection.execute("UPDATE epoch SET duration_ms = ? WHERE epoch = ?", (milliseconds, done))


def check_generation(connection: sqlite3.Connection, ledger: Ledger) -> None:
    """Refuses to write for an instance that was replaced.

    Raises:
        Fenced: Another process opened the store since.
    """
    ((generation, epoch),) = connection.execute(
        "SELECT (SELECT value FROM meta WHERE key = 'generation'), (SELECT coalesce(max(epoch), 0) FROM epoch)"
    )
    if (generation, epoch) != (ledger.generation, ledger.epoch):
        raise fenced(f"the store is at generation {generation}, epoch {epoch}, this instance at {ledger.generation}")


def fenced(message: str) -> Fenced:
    """The error for an instance that a newer one has replaced."""
    return Fenced(message, hint="Another process has taken over this state file; let that one run.")


def write_taken(connection: sqlite3.Connection, tally: Tally, epoch: int, taken: Mapping[str, Taken]) -> None:
    """Writes positions and the ids of one epoch, and forgets the oldest ids."""
    positions = []
    for source, took in taken.items():
        for partition, position in took.positions.items():
            assert position.at in _INT64, f"position {position.at} of source {source!r} needs more than 64 bits"
            above = above_text(position.above)
            crc = fields_crc(source, partition, position.at, position.identity, above)
            positions.append((text(source), text(partition), position.at, text(position.identity), above, crc))
            tally.replace("source", (source, partition), crc)
    write_rows(
        connection,
        "INSERT OR REPLACE INTO source(source, partition, position, identity, above, crc)",
        "(CAST(? AS TEXT), CAST(? AS TEXT), ?, CAST(? AS TEXT), ?, ?)",
        positions,
    )
    blobs = []
    forgotten = []
    for source, took in taken.items():
        if took.ids:
            # the standard library's JSON escapes lone surrogates where msgspec refuses them
            ids = json.dumps(list(took.ids), separators=(",", ":")).encode()
            crc = blob_crc(epoch, ids, source)
            blobs.append((text(source), epoch, len(took.ids), ids, crc))
            if last := tally.add_seen(source, Held(epoch, len(took.ids), crc)):
                forgotten.append((text(source), last))
    write_rows(
        connection,
        "INSERT INTO seen(source, epoch, count, ids, crc)",
        "(CAST(? AS TEXT), ?, ?, CAST(? AS TEXT), ?)",
        blobs,
    )
    for which in forgotten:
        connection.execute("DELETE FROM seen WHERE source = CAST(? AS TEXT) AND epoch <= ?", which)


def write_clocks(connection: sqlite3.Connection, tally: Tally, clocks: Mapping[ClockOf, EventClock]) -> None:
    """Writes how far event time is."""
    rows = []
    for (source, partition), (at_us, idle, closed_us) in clocks.items():
        crc = fields_crc(source, partition, at_us, int(idle), closed_us)
        rows.append((text(source), text(partition), at_us, int(idle), closed_us, crc))
        tally.replace("event_time", (source, partition), crc)
    write_rows(
        connection,
        "INSERT OR REPLACE INTO event_time(source, partition, at_us, idle, closed_us, crc)",
        "(CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?)",
        rows,
    )


def check_deltas(ledger: Ledger, deltas: Sequence[Delta]) -> None:
    """Parses some of the deltas as the engine made them: small slices, or the thread would hold the GIL for long.

    Raises:
        CheckpointError: One is no JSON.
    """
    for delta in deltas:
        step = ledger.step(delta.table)
        seen = ledger.checked.get(step, 0)
        ledger.checked[step] = seen + 1
        if seen >= DELTAS_CHECKED_FIRST and (seen % DELTAS_CHECKED_EVERY or delta.count > DELTA_CHECKED_ENTRIES_MAX):
            continue
        try:
            found = len(delta_fields(delta.payload))
        except CorruptStateError as error:
            raise CheckpointError(
                f"the state of step {delta.table!r} is not encoded as JSON: {error}",
                hint="Give the step a state type or codec whose values are JSON.",
            ) from error
        assert found == delta.count, f"{delta.table}: a delta of {found} entries says {delta.count}"


def joined(deltas: Sequence[Delta]) -> Iterator[Delta]:
    """Joins neighbouring deltas of one table: the engine encodes in small slices, the file wants few rows."""
    run: list[Delta] = []
    size = 0
    for delta in deltas:
        assert delta.payload[:1] == b"[" and delta.payload[-1:] == b"]", f"{delta.table}: the delta is no JSON array"
        if not delta.count:
            continue
        if run and (delta.table != run[0].table or size + len(delta.payload) > DELTA_BYTES_MAX):
            yield _join(run)
            run, size = [], 0
        run.append(delta)
        size += len(delta.payload)
    if run:
        yield _join(run)


def _join(run: Sequence[Delta]) -> Delta:
    if len(run) == 1:
        return run[0]
    groups = (min(delta.groups[0] for delta in run), max(delta.groups[1] for delta in run))
    payload = b"[" + b",".join([delta.payload[1:-1] for delta in run]) + b"]"
    return Delta(run[0].table, groups, sum(delta.count for delta in run), payload)


def _write_deltas(connection: sqlite3.Connection, tally: Tally, epoch: int, deltas: Sequence[Delta]) -> None:
    ledger = tally.ledger
    rows = []
    for delta in deltas:
        step = ledger.step(delta.table)
        crc = delta_crc(step, epoch, delta.payload)
        rows.append((epoch, step, *delta.groups, delta.count, len(delta.payload), delta.payload, crc))
        tally.add("state_delta", 1, crc)
    write_rows(
        connection,
        "INSERT INTO state_delta(epoch, step, first_group, last_group, count, bytes, payload, crc)",
        "(?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?)",
        rows,
    )
    retyped = {row[1] for row in rows} & ledger.retyped.keys()
    for step in retyped:
        connection.execute("UPDATE step SET value_type = ? WHERE id = ?", (ledger.retyped[step], step))
    if retyped:
        tally.put("step", count_steps(connection))


def write_chunks(connection: sqlite3.Connection, tally: Tally, chunks: Sequence[Chunk]) -> None:
    """Writes outbox chunks, each of which must begin where its sink's last one ended."""
    ledger = tally.ledger
    following = dict(ledger.next_seq)
    for chunk in chunks:
        expected = following.get(chunk.sink, 1)
        assert chunk.first_seq == expected, f"sink {chunk.sink}: chunk from {chunk.first_seq}, expected {expected}"
        assert chunk.epoch == ledger.epoch + 1, f"sink {chunk.sink}: chunk of epoch {chunk.epoch} in {ledger.epoch + 1}"
        following[chunk.sink] = chunk.first_seq + chunk.count
    rows = [(one.sink, one.first_seq, one.epoch, one.index, one.count, one.payload, chunk_crc(one)) for one in chunks]
    for part in _in_pieces(rows, [len(one.payload) for one in chunks]):
        write_rows(
            connection,
            "INSERT INTO outbox(sink, first_seq, epoch, chunk, count, payload, crc)",
            "(?, ?, ?, ?, ?, ?, ?)",
            part,
        )
    for sink, first_seq, _, _, count, _, crc in rows:
        tally.add_chunk(sink, Held(first_seq, count, crc))


def _in_pieces(rows: Sequence[Row], sizes_bytes: Sequence[int]) -> Iterator[list[Row]]:
    """Spreads rows over statements of a bounded size."""
    piece: list[Row] = []
    piece_bytes = 0
    for row, size_bytes in zip(rows, sizes_bytes, strict=True):
        if piece and piece_bytes + size_bytes > STATEMENT_BYTES_MAX:
            yield piece
            piece, piece_bytes = [], 0
        piece.append(row)
        piece_bytes += size_bytes
    if piece:
        yield piece


def replace_chunk(connection: sqlite3.Connection, tally: Tally, chunk: Chunk) -> None:
    """Writes other bytes for a chunk that is in the outbox."""
    (before,) = (held for held in tally.ledger.pending[chunk.sink] if held.at == chunk.first_seq)
    crc = chunk_crc(chunk)
    cursor = connection.execute(
        "UPDATE outbox SET payload = ?, crc = ? WHERE sink = ? AND first_seq = ? AND count = ?",
        (chunk.payload, crc, chunk.sink, chunk.first_seq, chunk.count),
    )
    assert cursor.rowcount == 1, f"sink {chunk.sink}: no chunk from {chunk.first_seq} in the outbox"
    tally.add("outbox", 0, crc - before.crc)


def write_progress(connection: sqlite3.Connection, tally: Tally, progress: Mapping[str, Progress]) -> None:
    """Writes how far brokers are, and deletes the chunks that are published whole."""
    rows = []
    for sink, known in progress.items():
        fields = (sink, known.epoch, known.next_seq, known.cursor)
        rows.append((*fields, fields_crc(*fields)))
        tally.replace("sink", sink, rows[-1][-1])
    write_rows(
        connection,
        "INSERT OR REPLACE INTO sink(sink, epoch, next_seq, cursor, crc)",
        "(?, ?, ?, ?, ?)",
        rows,
    )
    for sink, known in progress.items():
        published = tally.drop_published(sink, known.next_seq)
        cursor = connection.execute(
            "DELETE FROM outbox WHERE sink = ? AND first_seq < ? AND first_seq + count <= ?",
            (sink, known.next_seq, known.next_seq),
        )
        assert cursor.rowcount == published, f"sink {sink}: {cursor.rowcount} chunks deleted, {published} known"


def _trim_history(connection: sqlite3.Connection, last: int) -> None:
    for table in ("epoch", "journal", "internal"):
        connection.execute(f"DELETE FROM {table} WHERE epoch <= ?", (last,))


def note_epoch(ledger: Ledger, tally: Tally, epoch: Epoch) -> None:
    """Brings the ledger up to a committed epoch."""
    tally.apply()
    ledger.epoch, ledger.number, ledger.now_ms = epoch.epoch, epoch.number, epoch.now_ms
    ledger.spilled_bytes = 0
    ledger.measured = (epoch.epoch, 1000 * (time.perf_counter() - epoch.started)) if epoch.started else None
    for delta in epoch.deltas:
        step = ledger.step(delta.table)
        ledger.debt[step] = ledger.debt.get(step, 0) + len(delta.payload)
        ledger.retyped.pop(step, None)
    ledger.adopt({sink: known.next_seq for sink, known in epoch.progress.items()})
