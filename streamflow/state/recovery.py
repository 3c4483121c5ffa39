"""What an opening reads back: the checkpoint, and every state entry, each checked against its checksum."""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Final, TypeVar
from zlib import crc32

from streamflow.batch import Chunk, ClockOf, EventClock, Position, Progress, Taken
from streamflow.errors import CorruptStateError
from streamflow.state.content import Total, check_total
from streamflow.state.dead import read_dead
from streamflow.state.ledger import Held, Ledger
from streamflow.state.opening import RESTORE, UNREADABLE
from streamflow.state.pages import Page, are_texts, read_pages
from streamflow.state.rows import above_back, blob_crc, chunk_crc, delta_crc, fields_crc, row_seed, text_back
from streamflow.state.splitting import delta_entries
from streamflow.state.store import Checkpoint, Entry, Install

PENDING_BYTES_MAX: Final = 8 << 20
"""Of each sink's outbox an opening keeps so many bytes in memory; the rest is checked and stays at rest."""

T = TypeVar("T")


def read_checkpoint(connection: sqlite3.Connection, ledger: Ledger) -> Checkpoint:
    """Reads what recovery starts from, and brings the ledger up to it.

    Raises:
        CorruptStateError: A checksum or a sequence is wrong.
    """
    digest = _read_epoch(connection, ledger)
    progress = _read_progress(connection, ledger)
    pending = _read_pending(connection, ledger)
    ledger.adopt({sink: known.next_seq for sink, known in progress.items()})
    for step, size in connection.execute("SELECT step, sum(bytes) FROM state_delta GROUP BY 1"):
        ledger.debt[step] = size
    names = {step: name for name, step in ledger.steps.items()}
    return Checkpoint(
        epoch=ledger.epoch,
        number=ledger.number,
        now_ms=ledger.now_ms,
        generation=ledger.generation,
        deaths=ledger.deaths,
        incarnation=ledger.incarnation,
        taken=_read_taken(connection, ledger),
        progress=progress,
        pending=pending,
        digest=bytes(digest),
        clocks=_read_clocks(connection, ledger),
        dead=ledger.content.total("dead").rows,
        requeued=read_dead(connection, requeued=True),
        retyped=frozenset(names[step] for step in ledger.retyped),
    )


def _read_epoch(connection: sqlite3.Connection, ledger: Ledger) -> bytes:
    query = (
        "SELECT epoch, number, now_ms, at_ms, generation, records, entries, bytes, digest, crc "
        "FROM epoch ORDER BY epoch DESC LIMIT 1"
    )
    for *fields, crc in connection.execute(query):
        if crc != fields_crc(*fields):
            raise corrupt(f"the row of epoch {fields[0]}")
        ledger.epoch, ledger.number, ledger.now_ms = fields[:3]
        return bytes(fields[-1])
    return b""


def _read_progress(connection: sqlite3.Connection, ledger: Ledger) -> dict[str, Progress]:
    progress = {}
    for sink, epoch, next_seq, cursor, crc in connection.execute("SELECT sink, epoch, next_seq, cursor, crc FROM sink"):
        if crc != fields_crc(sink, epoch, next_seq, cursor):
            raise corrupt(f"the progress of sink {sink!r}")
        ledger.crcs["sink"][sink] = crc
        progress[sink] = Progress(epoch, next_seq, cursor)
    return progress


def _read_pending(connection: sqlite3.Connection, ledger: Ledger) -> dict[str, list[Chunk]]:
    pending: dict[str, list[Chunk]] = {}
    kept: dict[str, int] = {}
    for chunk, crc in _checked(connection.execute(f"{_CHUNKS} ORDER BY sink, first_seq")):
        sink = chunk.sink
        chunks = pending.setdefault(sink, [])
        if chunks and chunks[-1].end_seq != chunk.first_seq:
            raise corrupt(f"the outbox of sink {sink!r} has a gap before sequence {chunk.first_seq}: it")
        kept[sink] = kept.get(sink, 0) + chunk.size_bytes
        chunks.append(chunk if kept[sink] <= PENDING_BYTES_MAX else chunk.at_rest())
        ledger.add_chunk(sink, Held(chunk.first_seq, chunk.count, crc))
    return pending


_CHUNKS: Final = "SELECT sink, epoch, chunk, first_seq, count, payload, crc FROM outbox"


def read_chunks(connection: sqlite3.Connection, sink: str, first_seq: int, count: int) -> Iterator[Chunk]:
    """Reads chunks of a sink's outbox, in order.

    Raises:
        CorruptStateError: One does not match its checksum.
    """
    query = f"{_CHUNKS} WHERE sink = ? AND first_seq >= ? ORDER BY first_seq LIMIT ?"
    return (chunk for chunk, _ in _checked(connection.execute(query, (sink, first_seq, count))))


def _read_clocks(connection: sqlite3.Connection, ledger: Ledger) -> dict[ClockOf, EventClock]:
    clocks = {}
    query = (
        "SELECT CAST(source AS BLOB), CAST(partition AS BLOB), at_us, idle, closed_us, crc, "
        f"{are_texts('source', 'partition')} FROM event_time"
    )
    for *names, at_us, idle, closed_us, crc, texts in connection.execute(query):
        place = ClockOf(*map(text_back, names))
        if crc != fields_crc(*place, at_us, idle, closed_us) or not texts:
            raise corrupt(f"the event time of source {place.source!r}, partition {place.partition!r},")
        ledger.crcs["event_time"][place] = crc
        clocks[place] = EventClock(at_us, bool(idle), closed_us)
    return clocks


def _checked(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Chunk, int]]:
    for sink, epoch, index, first_seq, count, payload, crc in rows:
        chunk = Chunk(sink, epoch, index, first_seq, count, payload)
        if crc != chunk_crc(chunk):
            raise corrupt(f"the outbox of sink {sink!r}, sequence {first_seq}, epoch {epoch},")
        yield chunk, crc


def _read_taken(connection: sqlite3.Connection, ledger: Ledger) -> dict[str, Taken]:
    positions: dict[str, dict[str, Position]] = {}
    query = (
        "SELECT CAST(source AS BLOB), CAST(partition AS BLOB), position, CAST(identity AS BLOB), above, crc, "
        f"{are_texts('source', 'partition', 'identity', 'above')} FROM source"
    )
    for *names, at, stored_identity, above, crc, texts in connection.execute(query):
        source, partition = map(text_back, names)
        identity = text_back(stored_identity)
        if crc != fields_crc(source, partition, at, identity, above) or not texts:
            raise corrupt(f"the position of source {source!r}, partition {partition!r},")
        ledger.crcs["source"][source, partition] = crc
        positions.setdefault(source, {})[partition] = Position(at, identity, above_back(above))
    ids: dict[str, list[str]] = {}
    query = (
        f"SELECT CAST(source AS BLOB), epoch, count, CAST(ids AS BLOB), crc, {are_texts('source', 'ids')} FROM seen "
        "ORDER BY source, epoch"
    )
    for name, epoch, count, blob, crc, texts in connection.execute(query):
        source = text_back(name)
        found = json.loads(blob)
        if crc != blob_crc(epoch, blob, source) or count != len(found) or not texts:
            raise corrupt(f"the ids that source {source!r} took in epoch {epoch}")
        ids.setdefault(source, []).extend(found)
        ledger.seen.setdefault(source, deque()).append(Held(epoch, count, crc))
    return {source: Taken(positions.get(source, {}), ids.get(source, ())) for source in sorted({*positions, *ids})}


def load_entries(connection: sqlite3.Connection, ledger: Ledger, install: Install) -> None:
    """Hands every row, and then every unfolded delta in the order of the epochs, to ``install``.

    Raises:
        CorruptStateError: A row or delta does not match its checksum.
    """
    names = {step: name for name, step in ledger.steps.items()}
    ledger.row_bytes.clear()
    for page in _sensible(_read_pages(connection, ledger, names)):
        size = sum(map(len, page.entries.keys)) + sum(map(len, page.entries.values))  # type: ignore[arg-type]
        ledger.row_bytes[page.step] = ledger.row_bytes.get(page.step, 0) + size
        install(names[page.step], page.entries)
    for step, changes in _sensible(_read_deltas(connection, ledger, names)):
        install(names[step], changes)


def _sensible(read: Iterator[T]) -> Iterator[T]:
    """Tells rubbish in rows as what it is; what the consumer raises is its own affair."""
    try:
        yield from read
    except UNREADABLE as error:
        raise CorruptStateError(f"its state holds values that make no sense: {error!r:.200}", hint=RESTORE) from error


def _read_pages(connection: sqlite3.Connection, ledger: Ledger, names: Mapping[int, str]) -> Iterator[Page]:
    """Reads all rows, held against their checksums, and against what the file says it has."""
    total = Total()
    for page in read_pages(connection):
        check_page(page, names)
        total = total.plus(len(page.crcs), sum(page.crcs))
        yield page
    check_total("state", total, ledger.content)


def _read_deltas(
    connection: sqlite3.Connection, ledger: Ledger, names: Mapping[int, str]
) -> Iterator[tuple[int, Sequence[Entry]]]:
    """Reads all unfolded deltas in the order of the epochs: step, entries."""
    query = (
        f"SELECT epoch, step, count, bytes, CAST(payload AS BLOB), crc, {are_texts('payload')} FROM state_delta "
        "ORDER BY id"
    )
    total = Total()
    for epoch, step, count, size, payload, crc, texts in connection.execute(query):
        total = total.plus(1, crc)
        if crc != delta_crc(step, epoch, payload) or step not in names or not texts:
            raise corrupt(f"the changes of step {names.get(step, step)!r} in epoch {epoch}")
        entries = delta_entries(payload)
        if (len(entries), len(payload)) != (count, size):
            raise corrupt(f"the number of changes of step {names[step]!r} in epoch {epoch}")
        yield step, entries
    check_total("state_delta", total, ledger.content)


def check_page(page: Page, names: Mapping[int, str]) -> None:
    """Holds rows against their checksums, column by column, so that no Python code runs per row.

    Raises:
        CorruptStateError: One does not match.
    """
    entries = page.entries
    if page.step not in names:
        raise corrupt(f"a row of step {page.step}, which does not exist,")
    never = entries.expires_ms.count(None) == len(entries)
    seeds = repeat(page.place) if never else map(row_seed, repeat(page.place), entries.expires_ms)
    values: Sequence[Any] = entries.values
    found = list(map(crc32, values, map(crc32, entries.subs, map(crc32, entries.keys, seeds))))
    if found != list(page.crcs) or not page.texts:
        crcs = zip(entries, found, page.crcs, strict=True)
        bad = next((entry for entry, crc, stored in crcs if crc != stored), entries[0])
        table = names[page.step]
        raise corrupt(f"the state of step {table!r} for key {_shown(bad.key)}, sub-key {_shown(bad.sub)}")


def _shown(raw: bytes) -> str:
    return ascii(raw[:60].decode("utf-8", "replace"))


def corrupt(what: str) -> CorruptStateError:
    """The error for content that does not match its checksum."""
    return CorruptStateError(f"{what} fails its checksum", hint=RESTORE)
