"""Fitting: whether a flow could open a state file, told without its lock and without writing to it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from streamflow.keys import KEY_GROUPS
from streamflow.state.claim import seen_in
from streamflow.state.ledger import Ledger
from streamflow.state.manifest import apply_manifest
from streamflow.state.opening import make_schema, reading, transaction
from streamflow.state.reader import opened
from streamflow.state.store import Manifest
from streamflow.state.witness import Seen, check_not_gone, check_witness, read_witness

_OUTLINE: Final = {
    "meta": "SELECT * FROM meta",
    "step": "SELECT * FROM step",
    "sink": "SELECT * FROM sink",
    "outbox": "SELECT * FROM outbox WHERE epoch <= (SELECT coalesce(max(epoch), 0) FROM epoch) GROUP BY sink",
    "state_delta": "SELECT * FROM state_delta GROUP BY step",
    "source": "SELECT * FROM source GROUP BY source",
    "event_time": "SELECT * FROM event_time",
    "seen": "SELECT * FROM seen GROUP BY source",
}
"""What the manifest check looks at: whether a name has rows, not how many."""
_FOREIGN_TEXT: Final = ("source", "event_time", "seen")
"""Tables whose texts come from brokers and may not be valid UTF-8."""
_ONE_ENTRY: Final = (
    "WITH RECURSIVE g(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM g WHERE n < ?) "
    "SELECT state.* FROM g JOIN state ON key_group = n AND step = ? LIMIT 1"
)


def check_fit(path: str | Path, manifest: Manifest) -> bool:
    """Makes the checks of an opening that concern the flow and the witness, on an outline of the file in memory.

    Returns:
        Whether there is a state file.

    Raises:
        StateError: What an opening would raise. Damage that only reading every page shows is not looked for.
    """
    file = Path(path)
    seen = read_witness(file.with_name(file.name + ".epoch"))
    if not file.is_file() or not file.stat().st_size:
        check_not_gone(file, seen)
        return False
    outline = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with reading(file), transaction(outline):
            make_schema(outline)
            held = _outline_of(file, outline)
            apply_manifest(outline, manifest, Ledger())
    finally:
        outline.close()
    if not manifest.accept_missing:
        check_witness(file, seen, held, accept_missing=False)
    return True


def _outline_of(file: Path, outline: sqlite3.Connection) -> Seen:
    """Copies the outline of a state file; returns what its witness must not be ahead of."""
    alone = not file.with_name(file.name + "-wal").exists()
    with opened(file, immutable=alone) as db:
        for table, query in _OUTLINE.items():
            db.text_factory = bytes if table in _FOREIGN_TEXT else str
            _insert(outline, table, db.execute(query).fetchall())
        db.text_factory = str
        for (step,) in db.execute("SELECT id FROM step").fetchall():
            _insert(outline, "state", db.execute(_ONE_ENTRY, (KEY_GROUPS - 1, step)).fetchall())
        return seen_in(db)


def _insert(outline: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    for row in rows:
        outline.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
