"""What one commit writes: the statements of an epoch, of a note and of a spill, inside the caller's transaction."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from streamflow.batch import Chunk, Progress, Taken
from streamflow.errors import CheckpointError, CorruptStateError, Fenced
from streamflow.state.ledger import Ledger
from streamflow.state.rows import blob_crc, chunk_crc, delta_crc, fields_crc, text, write_rows
from streamflow.state.splitting import entry_count
from streamflow.state.store import Delta, Epoch

HISTORY_EPOCHS: Final = 1000
"""Epochs whose journal and pushed records are kept for `replay`, and that `checkpoints` can show."""
HISTORY_TRIM_EVERY: Final = 64
"""History is trimmed in batches of so many epochs."""
SEEN_IDS_MAX: Final = 1_000_000
"""Ids remembered per source, at least; whole epochs beyond that are forgotten, oldest first."""
DELTA_BYTES_MAX: Final = 128 << 10
"""Deltas of one table are joined to rows of up to this size; a larger single delta stays as it is. The fold takes a
row apart by one call, during which the loop waits for the interpreter: 1 ms."""

DELTAS_CHECKED_FIRST: Final = 8
DELTAS_CHECKED_EVERY: Final = 256
DELTA_CHECKED_ENTRIES_MAX: Final = 1000
"""A table's first deltas since the opening, and every so many small ones after them, are parsed before they are
committed: what a codec writes that is not JSON must not be found by the next recovery."""

_INT64: Final = range(-(1 << 63), 1 << 63)


def write_epoch(connection: sqlite3.Connection, ledger: Ledger, epoch: Epoch, at_ms: int) -> None:
    """Writes everything of an epoch, whose deltas were joined before.

    Raises:
        Fenced: Another process committed, or opened the store.
    """
    _claim(connection, ledger, epoch, at_ms)
    write_taken(connection, epoch.epoch, epoch.taken)
    _trim_seen(connection, ledger, epoch.taken)
    for table, payload in (("journal", epoch.journal), ("internal", epoch.pushed)):
        if payload:
            row = (epoch.epoch, payload, blob_crc(epoch.epoch, payload))
            connection.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", row)
    _write_deltas(connection, ledger, epoch.epoch, epoch.deltas)
    write_chunks(connection, ledger, epoch.chunks)
    write_progress(connection, epoch.progress)
    if epoch.epoch % HISTORY_TRIM_EVERY == 0:
        _trim_history(connection, epoch.epoch - HISTORY_EPOCHS)


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


def write_taken(connection: sqlite3.Connection, epoch: int, taken: Mapping[str, Taken]) -> None:
    """Writes positions and the ids of one epoch."""
    positions = []
    for source, took in taken.items():
        for partition, position in took.positions.items():
            assert position.at in _INT64, f"position {position.at} of source {source!r} needs more than 64 bits"
            crc = fields_crc(source, partition, position.at, position.identity)
            positions.append((text(source), text(partition), position.at, text(position.identity), crc))
    write_rows(
        connection,
        "INSERT OR REPLACE INTO source(source, partition, position, identity, crc)",
        "(CAST(? AS TEXT), CAST(? AS TEXT), ?, CAST(? AS TEXT), ?)",
        positions,
    )
    blobs = []
    for source, took in taken.items():
        if took.ids:
            # the standard library's JSON escapes lone surrogates where msgspec refuses them
            ids = json.dumps(list(took.ids), separators=(",", ":")).encode()
            blobs.append((text(source), epoch, len(took.ids), ids, blob_crc(epoch, ids)))
    write_rows(
        connection,
        "INSERT INTO seen(source, epoch, count, ids, crc)",
        "(CAST(? AS TEXT), ?, ?, CAST(? AS TEXT), ?)",
        blobs,
    )


def _trim_seen(connection: sqlite3.Connection, ledger: Ledger, taken: Mapping[str, Taken]) -> None:
    for source, took in taken.items():
        blobs = ledger.seen.get(source)
        if not took.ids or not blobs:
            continue
        total = len(took.ids) + sum(count for _, count in blobs)
        last = 0
        for epoch, count in blobs:
            if total - count < SEEN_IDS_MAX:
                break
            total, last = total - count, epoch
        if last:
            connection.execute("DELETE FROM seen WHERE source = CAST(? AS TEXT) AND epoch <= ?", (text(source), last))


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
            found = entry_count(delta.payload)
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


def _write_deltas(connection: sqlite3.Connection, ledger: Ledger, epoch: int, deltas: Sequence[Delta]) -> None:
    rows = []
    for delta in deltas:
        step = ledger.step(delta.table)
        crc = delta_crc(step, epoch, delta.payload)
        rows.append((epoch, step, *delta.groups, delta.count, len(delta.payload), delta.payload, crc))
    write_rows(
        connection,
        "INSERT INTO state_delta(epoch, step, first_group, last_group, count, bytes, payload, crc)",
        "(?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?)",
        rows,
    )
    for step in {row[1] for row in rows} & ledger.retyped.keys():
        connection.execute("UPDATE step SET value_type = ? WHERE id = ?", (ledger.retyped[step], step))


def write_chunks(connection: sqlite3.Connection, ledger: Ledger, chunks: Sequence[Chunk]) -> None:
    """Writes outbox chunks, each of which must begin where its sink's last one ended."""
    following = dict(ledger.next_seq)
    for chunk in chunks:
        expected = following.get(chunk.sink, 1)
        assert chunk.first_seq == expected, f"sink {chunk.sink}: chunk from {chunk.first_seq}, expected {expected}"
        assert chunk.epoch == ledger.epoch + 1, f"sink {chunk.sink}: chunk of epoch {chunk.epoch} in {ledger.epoch + 1}"
        following[chunk.sink] = chunk.first_seq + chunk.count
    rows = [(one.sink, one.first_seq, one.epoch, one.index, one.count, one.payload, chunk_crc(one)) for one in chunks]
    write_rows(
        connection,
        "INSERT INTO outbox(sink, first_seq, epoch, chunk, count, payload, crc)",
        "(?, ?, ?, ?, ?, ?, ?)",
        rows,
    )


def write_progress(connection: sqlite3.Connection, progress: Mapping[str, Progress]) -> None:
    """Writes how far brokers are, and deletes the chunks that are published whole."""
    rows = [(sink, known.epoch, known.next_seq, known.cursor) for sink, known in progress.items()]
    write_rows(
        connection,
        "INSERT OR REPLACE INTO sink(sink, epoch, next_seq, cursor, crc)",
        "(?, ?, ?, ?, ?)",
        [(*fields, fields_crc(*fields)) for fields in rows],
    )
    for sink, known in progress.items():
        connection.execute(
            "DELETE FROM outbox WHERE sink = ? AND first_seq < ? AND first_seq + count <= ?",
            (sink, known.next_seq, known.next_seq),
        )


def _trim_history(connection: sqlite3.Connection, last: int) -> None:
    for table in ("epoch", "journal", "internal"):
        connection.execute(f"DELETE FROM {table} WHERE epoch <= ?", (last,))


def note_epoch(ledger: Ledger, epoch: Epoch) -> None:
    """Brings the ledger up to a committed epoch."""
    ledger.epoch, ledger.number, ledger.now_ms = epoch.epoch, epoch.number, epoch.now_ms
    ledger.spilled_bytes = 0
    ledger.measured = (epoch.epoch, 1000 * (time.perf_counter() - epoch.started)) if epoch.started else None
    for delta in epoch.deltas:
        step = ledger.step(delta.table)
        ledger.debt[step] = ledger.debt.get(step, 0) + len(delta.payload)
        ledger.retyped.pop(step, None)
    for source, took in epoch.taken.items():
        if took.ids:
            _note_seen(ledger.seen.setdefault(source, deque()), epoch.epoch, len(took.ids))
    note_chunks(ledger, epoch.chunks)
    ledger.adopt({sink: known.next_seq for sink, known in epoch.progress.items()})


def _note_seen(blobs: deque[tuple[int, int]], epoch: int, count: int) -> None:
    blobs.append((epoch, count))
    total = sum(held for _, held in blobs)
    while total - blobs[0][1] >= SEEN_IDS_MAX:
        total -= blobs.popleft()[1]


def note_chunks(ledger: Ledger, chunks: Sequence[Chunk]) -> None:
    """Brings the ledger up to chunks that were written."""
    for chunk in chunks:
        ledger.next_seq[chunk.sink] = chunk.first_seq + chunk.count
