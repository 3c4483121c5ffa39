"""Dead letters: what is kept of a record that a policy puts aside."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, Final

import msgspec

from streamflow.batch import END, DeadLetter, Fragment, MicroBatch, Origin, SourceBatch

TRACEBACK_CHARS_MAX: Final = 8_000
ERROR_CHARS_MAX: Final = 2_000

_HOME: Final = str(Path(__file__).parents[1])

Spot = tuple[SourceBatch, str, int] | None
"""The batch that a row came with, its source, and the place in it; None for what no record caused."""


def spot_of(part: Fragment, row: int) -> Spot:
    """Where a row of a fragment came from."""
    known = part.origins is not None and 0 <= row < len(part.origins)
    return spot_at(part.batch, part.origins[row] if known and part.origins is not None else (row,))


def spot_at(batch: MicroBatch, origin: Origin) -> Spot:
    """Where what has this origin in a number came from."""
    found = batch.locate(origin[0]) if 0 <= origin[0] < END else None
    if found is None:
        return None
    (source, _, records), at = found
    # what was pushed stands under the internal source, its partition says whose stream it joined
    name = records.partition if source.startswith("@") else source
    return records, name, at


def place_of(part: Fragment, row: int) -> str:
    """Where a row of a fragment came from, for people; the number where nothing else is known."""
    spot = spot_of(part, row) if part.origins is not None else None
    if spot is None:
        return f"number {part.batch.number}"
    records, source, at = spot
    partition = f", partition {records.partition!r}" if records.partition not in ("", source) else ""
    if records.positions is not None:
        return f"source {source!r}{partition}, the record before position {records.positions[at]}"
    return f"source {source!r}{partition}, message {(records.ids or ())[at]}"


def letter_of(kind: str, name: str, place: str, error: BaseException, spot: Spot) -> DeadLetter:
    """Makes a dead letter.

    Args:
        kind: What refused the record: ``step``, ``source`` or ``sink``.
        name: Which of them.
        place: Where the record came from, in words.
        error: Why.
        spot: The record as its source gave it; None for what no record caused.
    """
    said = f"{type(error).__name__}: {error} ({place})"[:ERROR_CHARS_MAX]
    trace = _users_trace(error)
    if spot is None:
        return DeadLetter(kind, name, said, trace)
    records, source, at = spot
    payload = records.payloads[at]
    return DeadLetter(
        kind,
        name,
        said,
        trace,
        source,
        "" if records.partition == source else records.partition,
        None if records.positions is None else records.positions[at],
        "" if records.ids is None else records.ids[at],
        None if records.keys is None else records.keys[at],
        None if records.headers is None else records.headers[at],
        as_bytes(payload),
        None if records.timestamps_ms is None else records.timestamps_ms[at],
    )


def as_bytes(payload: Any) -> bytes:
    """A record's bytes; its JSON where the source has no codec, so that it can be read and put in again."""
    if payload is None:
        return b""
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    try:
        return msgspec.json.encode(payload)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return repr(payload).encode("utf-8", "backslashreplace")


def _users_trace(error: BaseException) -> str:
    """The traceback without the frames of this library, its end if it is long."""
    found = traceback.TracebackException.from_exception(error, limit=-32, compact=True)
    found.stack = traceback.StackSummary.from_list(
        [frame for frame in found.stack if not frame.filename.startswith((_HOME, "<streamflow"))]
    )
    return "".join(found.format(chain=False))[-TRACEBACK_CHARS_MAX:]
