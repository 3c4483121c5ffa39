"""The manifest check: whether the flow as it is now fits what its state file was made with."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import Final

from streamflow.batch import ClockOf, EventClock, Position, Taken
from streamflow.errors import IncompatibleStateError
from streamflow.keys import HASH_NAME, KEY_GROUPS
from streamflow.state.commit import write_clocks, write_taken
from streamflow.state.ledger import Ledger
from streamflow.state.rows import above_back, blob_crc, text, text_back
from streamflow.state.store import Manifest, TableShape
from streamflow.state.tally import Tally

TIMERS: Final = "@timers"
EVENT_TIMERS: Final = "@event-timers"
"""A step's timers are a table of their own: the step's name with this behind it."""


def apply_manifest(connection: sqlite3.Connection, manifest: Manifest, ledger: Ledger) -> None:
    """Compares, carries out ``renamed`` and ``drop`` where something stored is affected, and registers what is new.

    ``drop`` is a permission, not an order: what the flow still has, unchanged, is kept.

    Raises:
        IncompatibleStateError: State would be lost or misread; names the step and the fix.
    """
    assert connection.in_transaction, "the manifest is applied in the opening transaction"
    _check_flow(connection, manifest)
    _check_tables(connection, manifest, ledger)
    _check_sources(connection, manifest)
    _check_sinks(connection, manifest)


def _check_flow(connection: sqlite3.Connection, manifest: Manifest) -> None:
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    if meta["flow"] != manifest.flow:
        raise IncompatibleStateError(
            f"the state file belongs to flow {meta['flow']!r}, not to {manifest.flow!r}",
            hint="Give each flow a state file of its own, or keep the flow's name.",
        )
    if meta["hash"] != HASH_NAME:
        raise IncompatibleStateError(
            f"the state file spreads keys by {meta['hash']}, this version by {HASH_NAME}",
            hint="Use the version of streamflow that wrote it.",
        )
    connection.execute("UPDATE meta SET value = ? WHERE key = 'fingerprint'", (manifest.fingerprint,))


def step_of(table: str) -> str:
    """The name of the step that a table belongs to."""
    return table.removesuffix(TIMERS).removesuffix(EVENT_TIMERS)


def _may_drop(manifest: Manifest, table: str) -> bool:
    return table in manifest.drop or step_of(table) in manifest.drop


def _check_tables(connection: sqlite3.Connection, manifest: Manifest, ledger: Ledger) -> None:
    query = "SELECT name, id, kind, value_type, key_type FROM step"
    stored = {name: (step, TableShape(*shape)) for name, step, *shape in connection.execute(query)}
    for old, (step, shape) in list(stored.items()):
        new = manifest.renamed.get(step_of(old), step_of(old)) + old[len(step_of(old)) :]
        if old in manifest.tables or new == old or new not in manifest.tables:
            continue
        _check_free(connection, ledger, stored, new)
        connection.execute("UPDATE step SET name = ? WHERE id = ?", (new, step))
        stored[new] = (step, shape)
        del stored[old]
    for table, (step, shape) in stored.items():
        wanted = manifest.tables.get(table)
        if wanted is None:
            if not _may_drop(manifest, table) and _has_entries(connection, step):
                raise _removed("stateful step", step_of(table), "its state")
            _delete_step(connection, ledger, step)
        elif _fits(connection, manifest, table, (step, shape)):
            _keep_step(connection, ledger, table, step, (shape, wanted))
        else:
            _delete_step(connection, ledger, step)
    for table in sorted(manifest.tables.keys() - ledger.steps.keys()):
        wanted = manifest.tables[table]
        ledger.steps[table] = _add_step(connection, table, wanted)


def _check_free(
    connection: sqlite3.Connection, ledger: Ledger, stored: dict[str, tuple[int, TableShape]], table: str
) -> None:
    """A renamed step takes the place of a new one only while that one has no state of its own."""
    if table not in stored:
        return
    name = step_of(table)
    if _has_entries(connection, stored[table][0]):
        raise IncompatibleStateError(
            f"step {name!r} has state of its own already, nothing can be renamed to it",
            hint=f'Take it out of renamed=, or drop the old one: Flow(..., drop=["{name}"]).',
        )
    _delete_step(connection, ledger, stored.pop(table)[0])


def _fits(connection: sqlite3.Connection, manifest: Manifest, table: str, held: tuple[int, TableShape]) -> bool:
    """Whether stored entries can be read by the step as it is now; False if they are to be dropped."""
    (step, shape), wanted, name = held, manifest.tables[table], step_of(table)
    changes = [
        ("kind of state", shape.kind, wanted.kind, False),
        ("type of state", shape.value, wanted.value, wanted.migrates),
        ("type of the keys", shape.key, wanted.key, not (shape.key and wanted.key)),
    ]
    for what, old, new, fine in changes:
        if old == new or fine or not _has_entries(connection, step):
            continue
        if _may_drop(manifest, table):
            return False
        migrate = f"migrate=..., which turns old values into new ones, to step {name!r}, or give up its state: "
        hint = f"Add {migrate}" if what == "type of state" else "Put it back, or give up the step's state: "
        raise IncompatibleStateError(
            f"the {what} of step {name!r} changed: it was {old}, now it is {new}",
            hint=f'{hint}Flow(..., drop=["{name}"]).',
        )
    return True


def _keep_step(
    connection: sqlite3.Connection, ledger: Ledger, table: str, step: int, shapes: tuple[TableShape, TableShape]
) -> None:
    old, new = shapes
    ledger.steps[table] = step
    value = new.value
    if old.value != new.value and _has_entries(connection, step):
        # until the migrated values are committed the file must say that it holds old ones
        ledger.retyped[step] = new.value
        value = old.value
    connection.execute(
        "UPDATE step SET kind = ?, value_type = ?, key_type = ? WHERE id = ?",
        (new.kind, value, new.key or old.key, step),
    )


def _add_step(connection: sqlite3.Connection, table: str, shape: TableShape) -> int:
    cursor = connection.execute(
        "INSERT INTO step(name, kind, value_type, key_type) VALUES (?, ?, ?, ?)",
        (table, shape.kind, shape.value, shape.key),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _has_entries(connection: sqlite3.Connection, step: int) -> bool:
    groups = "WITH RECURSIVE g(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM g WHERE n < ?)"
    ((found,),) = connection.execute(
        f"{groups} SELECT EXISTS (SELECT 1 FROM state_delta WHERE step = ?) "
        "OR EXISTS (SELECT 1 FROM g JOIN state ON key_group = n AND step = ?)",
        (KEY_GROUPS - 1, step, step),
    )
    return bool(found)


def _delete_step(connection: sqlite3.Connection, ledger: Ledger, step: int) -> None:
    total = ledger.content.total("state")
    for group in range(KEY_GROUPS):
        query = "SELECT count(*), coalesce(sum(crc), 0) FROM state WHERE key_group = ? AND step = ?"
        ((rows, crcs),) = connection.execute(query, (group, step))
        total = total.plus(-rows, -crcs)
        connection.execute("DELETE FROM state WHERE key_group = ? AND step = ?", (group, step))
    ledger.content = replace(ledger.content, totals={**ledger.content.totals, "state": total})
    connection.execute("DELETE FROM state_delta WHERE step = ?", (step,))
    connection.execute("DELETE FROM step WHERE id = ?", (step,))


def _check_sources(connection: sqlite3.Connection, manifest: Manifest) -> None:
    query = "SELECT CAST(source AS BLOB) FROM source UNION SELECT CAST(source AS BLOB) FROM seen"
    stored = {text_back(row[0]) for row in connection.execute(query)}
    for old in sorted(stored - set(manifest.sources)):
        new = manifest.renamed.get(old)
        if new is not None and new in manifest.sources and new not in stored:
            _rename_source(connection, old, new)
        elif old in manifest.drop:
            for table in ("source", "seen"):
                connection.execute(f"DELETE FROM {table} WHERE source = CAST(? AS TEXT)", (text(old),))
        else:
            raise _removed("source", old, "its positions")
    _keep_clocks(connection, manifest)


def _keep_clocks(connection: sqlite3.Connection, manifest: Manifest) -> None:
    """Renames the sources in what is stored of event time, and forgets those that are gone."""
    query = "SELECT CAST(source AS BLOB), CAST(partition AS BLOB), at_us, idle, closed_us FROM event_time"
    clocks = {ClockOf(text_back(row[0]), text_back(row[1])): EventClock(*row[2:]) for row in connection.execute(query)}
    kept: dict[ClockOf, EventClock] = {}
    for place, clock in clocks.items():
        names = place.source.split("+")
        names = [manifest.renamed.get(name, name) if name not in manifest.sources else name for name in names]
        if set(names) <= set(manifest.sources):
            kept[ClockOf("+".join(names), place.partition)] = clock
    if kept != clocks:
        connection.execute("DELETE FROM event_time")
        # checksums cover the source's name
        write_clocks(connection, Tally(Ledger()), kept)


def _rename_source(connection: sqlite3.Connection, old: str, new: str) -> None:
    query = (
        "SELECT CAST(partition AS BLOB), position, CAST(identity AS BLOB), above FROM source "
        "WHERE source = CAST(? AS TEXT)"
    )
    positions = {
        text_back(partition): Position(at, text_back(identity), above_back(above))
        for partition, at, identity, above in connection.execute(query, (text(old),))
    }
    connection.execute("DELETE FROM source WHERE source = CAST(? AS TEXT)", (text(old),))
    # checksums cover the source's name
    write_taken(connection, Tally(Ledger()), 0, {new: Taken(positions)})
    blobs = connection.execute("SELECT epoch, CAST(ids AS BLOB) FROM seen WHERE source = CAST(? AS TEXT)", (text(old),))
    for epoch, ids in blobs.fetchall():
        update = "UPDATE seen SET source = CAST(? AS TEXT), crc = ? WHERE source = CAST(? AS TEXT) AND epoch = ?"
        connection.execute(update, (text(new), blob_crc(epoch, ids, new), text(old), epoch))


def _check_sinks(connection: sqlite3.Connection, manifest: Manifest) -> None:
    """A sink that has published everything may go, and starts anew under another name."""
    pending = {row[0] for row in connection.execute("SELECT DISTINCT sink FROM outbox")}
    stored = pending | {row[0] for row in connection.execute("SELECT sink FROM sink")}
    for old in sorted(stored - set(manifest.sinks)):
        if old in pending and old not in manifest.drop:
            raise IncompatibleStateError(
                f"sink {old!r} is gone, and outputs for it are not published yet",
                hint="Run the old flow once more and stop it when all is published, or give them up: "
                f'Flow(..., drop=["{old}"]).',
            )
        if old in manifest.drop or old in manifest.renamed:
            connection.execute("DELETE FROM outbox WHERE sink = ?", (old,))
            connection.execute("DELETE FROM sink WHERE sink = ?", (old,))


def _removed(what: str, name: str, loss: str) -> IncompatibleStateError:
    return IncompatibleStateError(
        f"{what} {name!r} is in the state file but not in the flow",
        hint=f'Give {loss} up: Flow(..., drop=["{name}"]); or say what it is called now: '
        f'Flow(..., renamed={{"{name}": "new"}}).',
    )
