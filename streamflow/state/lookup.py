"""Looking up one key in the file, the newest delta that is not folded yet, else the row; or the first keys of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from streamflow.keys import PLAIN_SUB, key_group
from streamflow.state.splitting import delta_entries
from streamflow.state.views import ENTRIES

# `instr` passes over deltas without the key at memory speed; what it finds json_each looks at closely, since the
# text may also stand inside some value. The newest delta that has the key ends the search.
_UNFOLDED: Final = """
SELECT (SELECT CAST(e.value AS BLOB) FROM json_each(d.payload) AS e
        WHERE json_extract(e.value, '$[0]', '$[1]') = CAST(:address AS TEXT) ORDER BY e.key DESC LIMIT 1) AS entry
FROM state_delta AS d WHERE d.step = :step AND instr(d.payload, CAST(:start AS TEXT)) AND entry IS NOT NULL
ORDER BY d.id DESC LIMIT 1"""
_FOLDED: Final = """
SELECT CAST('[' || key || ',' || sub || ',' || value || ',' || coalesce(expires_ms, 'null') || ']' AS BLOB)
FROM state WHERE key_group = :group AND step = :step AND key = CAST(:key AS TEXT) AND sub = CAST(:sub AS TEXT)"""
_QUERY: Final = f"SELECT coalesce(({_UNFOLDED}), ({_FOLDED}))"

_LISTING: Final = (
    ENTRIES.format(step=":step")
    + "SELECT CAST(k AS BLOB), CAST(v AS BLOB) FROM entries WHERE s = :sub AND coalesce(x > :now, 1)\n"
    "ORDER BY k LIMIT :most"
)


def lookup(step: int, key: bytes) -> tuple[str, dict[str, Any]]:
    """The query for one plain value: one statement, so one snapshot and one thread switch."""
    start = b"[" + key + b"," + PLAIN_SUB
    parameters = {
        "step": step,
        "start": start,
        "address": start + b"]",
        "group": key_group(key),
        "key": key,
        "sub": PLAIN_SUB,
    }
    return _QUERY, parameters


def found(rows: Sequence[Sequence[Any]], now_ms: int) -> bytes | None:
    """The value in the answer to `lookup`; None if it is absent, deleted or expired at ``now_ms``."""
    ((entry,),) = rows
    if entry is None:
        return None
    (read,) = delta_entries(b"[" + entry + b"]")
    expired = read.expires_ms is not None and read.expires_ms <= now_ms
    return None if expired else read.value


def listing(step: int, now_ms: int, most: int) -> tuple[str, dict[str, Any]]:
    """The query for the first plain values of a table: key and value as JSON, in the order of the keys' text."""
    return _LISTING, {"step": step, "sub": PLAIN_SUB.decode(), "now": now_ms, "most": most}
