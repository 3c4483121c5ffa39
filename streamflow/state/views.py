"""Readable views: one per stateful step, showing the last committed epoch in plain SQL.

A view lays the deltas that are not folded yet over the rows. It needs nothing but SQLite's own JSON functions (no
operator newer than 3.34), so the sqlite3 shell and datasette can open it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from typing import Final

PLAIN: Final = "value"
"""Kind of a table that has no sub-keys."""

ENTRIES: Final = """\
WITH changed(id, entry, newest) AS (
  SELECT json_extract(e.value, '$[0]', '$[1]'), e.value, max((d.id << 32) + e.key)
  FROM state_delta AS d, json_each(d.payload) AS e WHERE d.step = {step} GROUP BY 1
), entries(k, s, v, x) AS (
  SELECT key, sub, value, expires_ms FROM state
  WHERE step = {step} AND '[' || key || ',' || sub || ']' NOT IN (SELECT id FROM changed)
  UNION ALL
  SELECT substr(k, 2, length(k) - 2), substr(s, 2, length(s) - 2), substr(v, 2, length(v) - 2), x FROM (
    SELECT json_remove(entry, '$[3]', '$[2]', '$[1]') AS k, json_remove(entry, '$[3]', '$[2]', '$[0]') AS s,
      json_remove(entry, '$[3]', '$[1]', '$[0]') AS v, json_extract(entry, '$[3]') AS x
    FROM changed WHERE json_array_length(entry) > 2
  )
)
"""
"""Names the entries of one table: key, sub, value as JSON and expiry, with unfolded deltas laid over the rows."""

_VIEW: Final = (
    "CREATE VIEW {name} AS\n" + ENTRIES + "SELECT {key} AS key{sub}, v AS value, x AS expires_ms FROM entries"
)

# a text without escapes is cut out, one with harmless escapes decoded; what SQL cannot hold (NUL, lone surrogates,
# integers over 64 bits) stays as JSON
_PLAIN_VALUE: Final = (
    "CASE WHEN substr({c}, 1, 1) = '\"' THEN CASE WHEN instr({c}, '\\') = 0 THEN substr({c}, 2, length({c}) - 2) "
    "WHEN instr({c}, '\\u') = 0 THEN json_extract({c}, '$') ELSE {c} END "
    "WHEN CAST(CAST({c} AS INTEGER) AS TEXT) = {c} THEN CAST({c} AS INTEGER) ELSE {c} END"
)


def make_views(connection: sqlite3.Connection, steps: Mapping[str, int], kinds: Mapping[str, str]) -> None:
    """Makes the file's views the ones of these tables, inside the caller's transaction.

    Args:
        connection: The connection.
        steps: Table name -> id.
        kinds: Table name -> kind of state.
    """
    taken = {row[0].lower() for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    names = view_names(steps, taken)
    wanted = {names[table]: _view(names[table], step, kinds[table]) for table, step in steps.items()}
    stored = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))
    for name in stored.keys() - wanted.keys() | {name for name in wanted if stored.get(name) != wanted[name]}:
        connection.execute(f"DROP VIEW IF EXISTS {quoted(name)}")
        stored.pop(name, None)
    for name in sorted(wanted.keys() - stored.keys()):
        connection.execute(wanted[name])


def are_ours(connection: sqlite3.Connection) -> bool:
    """Whether the file's views are exactly those that `make_views` makes for its tables."""
    steps = connection.execute("SELECT name, id, kind FROM step").fetchall()
    taken = {row[0].lower() for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    names = view_names([name for name, _, _ in steps], taken)
    wanted = {(names[name], _view(names[name], step, kind)) for name, step, kind in steps}
    return wanted == set(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))


_TABLE_FUNCTIONS: Final = frozenset(
    {"bytecode", "carray", "completion", "dbstat", "generate_series", "json_each", "json_tree", "jsonb_each"}
    | {"jsonb_tree", "tables_used"}
)
"""Tables that SQLite may have without anybody making them: a view of such a name cannot be dropped again."""


def _is_sqlites(name: str) -> bool:
    return name.lower().startswith(("sqlite_", "pragma_")) or name.lower() in _TABLE_FUNCTIONS


def view_names(tables: Collection[str], taken: Collection[str]) -> dict[str, str]:
    """Returns each table's view: its own name, with ``_`` behind it while that name is taken.

    SQLite's names do not tell upper from lower case; one that is SQLite's own gets ``_`` in front.
    """
    used = set(taken)
    names = {}
    for table in sorted(tables):
        name = f"_{table}" if _is_sqlites(table) else table
        while name.lower() in used:
            name += "_"
        used.add(name.lower())
        names[table] = name
    return names


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _view(name: str, step: int, kind: str) -> str:
    sub = "" if kind == PLAIN else f", {_PLAIN_VALUE.format(c='s')} AS sub"
    return _VIEW.format(name=quoted(name), step=step, key=_PLAIN_VALUE.format(c="k"), sub=sub)
