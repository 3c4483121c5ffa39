"""Refusals: what is said of a source's record that cannot be used, with its place and a way out."""

from __future__ import annotations

from streamflow.batch import SourceBatch
from streamflow.errors import DecodeError


def undecodable(source: str, batch: SourceBatch, at: int, error: Exception) -> DecodeError:
    """The error for a record that cannot be decoded."""
    payload = batch.payloads[at]
    if payload is None:
        shown = ""
        hint = "Give the source nulls=True to get None for it, or leave such records out with on_error=sf.skip."
    else:
        shown = f" (bytes {bytes(payload[:40])!r})"
        hint = "Fix the producer, give the source another value=, or leave such records out with on_error=sf.skip."
    return DecodeError(
        f"source {source!r} cannot decode the record {_spot(batch, at)}: {error}{shown}", step=source, hint=hint
    )


def without_time(source: str, batch: SourceBatch, at: int, error: Exception) -> DecodeError:
    """The error for a record whose event time cannot be used."""
    return DecodeError(
        f"source {source!r} cannot tell the event time of the record {_spot(batch, at)}: {error}",
        step=source,
        hint="Fix time= or the producer, allow more with future_max=, or leave such records out with on_error=sf.skip.",
    )


def _spot(batch: SourceBatch, at: int) -> str:
    where = f"partition {batch.partition!r}, " if batch.partition else ""
    return where + (
        f"before position {batch.positions[at]}" if batch.positions is not None else f"{(batch.ids or ())[at]}"
    )
