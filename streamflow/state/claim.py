"""Claiming a store: what an opening verifies, and the transaction that makes this instance the newest one."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from streamflow.clock import Clock, SystemClock
from streamflow.keys import HASH_NAME
from streamflow.points import Point, no_point
from streamflow.state.content import check_content, count, read_content, write_content
from streamflow.state.ledger import Ledger
from streamflow.state.manifest import apply_manifest
from streamflow.state.opening import check_integrity, is_new, make_schema, snapshot, value_of
from streamflow.state.place import FilePlace, MakePlace, Place
from streamflow.state.rows import write_rows
from streamflow.state.store import Manifest
from streamflow.state.views import make_views
from streamflow.state.wal import write_back
from streamflow.state.witness import Seen, check_not_gone, check_witness


def _new_incarnation() -> str:
    return secrets.token_hex(6)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What a store is given besides its path.

    Args:
        clock: Tells when an epoch was committed.
        force_place: Take a network file system all the same.
        point: Called at the crash points of the store.
        new_incarnation: Makes the id of a new store: letters and digits.
        place: Makes the place where the store lies.
    """

    clock: Clock = field(default_factory=SystemClock)
    force_place: bool = False
    point: Point = no_point
    new_incarnation: Callable[[], str] = _new_incarnation
    place: MakePlace = FilePlace


def verify(connection: sqlite3.Connection, path: Path, place: Place, *, accept_missing: bool) -> None:
    """Checks a file before anything is written to it, and makes it durable.

    An instance in this process that was let go may be in the middle of a commit, which a cancellation does not cut
    off: so what is compared is read at one moment, and the witness, which follows a commit, before it.

    Raises:
        StateError: It is another program's, of a newer format, damaged, or older than its witness.
    """
    seen = place.witness.read()
    with snapshot(connection):
        new = is_new(connection, path)
    if new:
        check_not_gone(path, seen)
    place.make_durable(connection)
    if new:
        return
    with snapshot(connection):
        clean = value_of(connection, "SELECT value FROM meta WHERE key = 'clean'")
        check_integrity(connection, path, thorough=clean != 1)
        if not check_witness(path, seen, seen_in(connection), accept_missing=accept_missing):
            place.witness.forget()
        check_content(connection, read_content(connection))
    write_back(connection, path)


def seen_in(connection: sqlite3.Connection) -> Seen:
    """What the witness of this file must not be ahead of."""
    incarnation = value_of(connection, "SELECT value FROM meta WHERE key = 'incarnation'")
    epoch = value_of(connection, "SELECT coalesce(max(epoch), 0) FROM epoch")
    return Seen(incarnation, epoch, read_content(connection).notes)


def claim(
    connection: sqlite3.Connection, path: Path, manifest: Manifest, ledger: Ledger, options: StoreOptions
) -> None:
    """The opening transaction: a new generation, the flow as it is now, nothing spilled, the views.

    Raises:
        IncompatibleStateError: The flow does not fit; nothing is changed then.
    """
    assert connection.in_transaction, "a store is claimed in one transaction"
    new = is_new(connection, path)
    if new:
        make_schema(connection)
        facts = {
            "flow": manifest.flow,
            "incarnation": options.new_incarnation(),
            "generation": 0,
            "hash": HASH_NAME,
            "fingerprint": manifest.fingerprint,
            "clean": 0,
            "created_ms": options.clock.now_ms(),
            "content": "",
        }
        write_rows(connection, "INSERT INTO meta(key, value)", "(?, ?)", list(facts.items()))
    else:
        ledger.content = read_content(connection)
    ledger.deaths = _deaths(connection)
    connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
    connection.execute("UPDATE meta SET value = ? WHERE key = 'clean'", (-ledger.deaths,))
    connection.execute("DELETE FROM outbox WHERE epoch > (SELECT coalesce(max(epoch), 0) FROM epoch)")
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    ledger.generation, ledger.incarnation = meta["generation"], meta["incarnation"]
    apply_manifest(connection, manifest, ledger)
    make_views(connection, ledger.steps, {name: shape.kind for name, shape in manifest.tables.items()})
    # these tables were held against the content before; `apply_manifest` has counted the rows of `state` it deleted
    totals = {**ledger.content.totals, **count(connection)}
    # what a changed flow dropped or renamed must not come back unnoticed either
    notes = ledger.content.notes + int(not new and totals != ledger.content.totals)
    ledger.content = replace(ledger.content, notes=notes, generation=ledger.generation, totals=totals)
    write_content(connection, ledger.content)


def _deaths(connection: sqlite3.Connection) -> int:
    """How many lives in a row have ended without a commit and without a close; `clean` is 1, or so much below 0."""
    meta = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('clean', 'generation')"))
    (newest,) = connection.execute("SELECT (SELECT generation FROM epoch ORDER BY epoch DESC LIMIT 1)").fetchone()
    if meta["clean"] == 1 or meta["generation"] in (0, newest):
        return 0
    return 1 - int(meta["clean"])
