"""Decoding: from a source's payloads to records, run by run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamflow.batch import Ahead, SourceBatch
from streamflow.codecs import Codec
from streamflow.connect.contracts import takes_nulls
from streamflow.errors import DefinitionError, StreamflowError
from streamflow.graph import Step
from streamflow.operators.context import Message
from streamflow.runtime.cut import Envelope
from streamflow.runtime.refusals import undecodable

LeaveOut = Callable[[SourceBatch, int, str, StreamflowError, Exception], None]
"""Leaves a record out, where the source's policy says so; else raises."""


@dataclass(slots=True)
class Ready:
    """Records that were taken: with their values, or with none where decoding failed and policy skips.

    ``times`` are their event times, ``marks`` the watermark of their partition just before each. ``known`` ones were
    taken before, ahead of others, and have no values either; ``above`` is what is left of those, further behind.
    """

    records: SourceBatch
    values: list[Any]
    times: list[int] | None = None
    marks: list[int] | None = None
    known: bool = False
    above: tuple[Ahead, ...] = ()


def as_read(step: Step, value: Any, envelope: Envelope | None) -> Any:
    """A value that enters from inside, as its source gives values: with what came with it, where the source does so."""
    if not step.options["message"]:
        return value
    known = envelope or Envelope()
    return Message(value, known.key, known.headers or {}, known.position, known.timestamp_ms)


def as_pushed(step: Step, record: Any, id: str) -> tuple[Any, Envelope | None]:
    """`as_read` undone: the value of a record that is handed in, which the codec encodes, and what comes with it.

    Raises:
        DefinitionError: The source gives messages, and the record is none.
    """
    if not step.options["message"]:
        return record, None
    if not isinstance(record, Message):
        raise DefinitionError(
            f"source {step.name!r} gives messages, and {record!r:.60} is none",
            hint="Push sf.Message(value), with key=, headers= and timestamp_ms= where steps look at them.",
        )
    headers = dict(record.headers) or None
    return record.value, Envelope(id=id, key=record.key, headers=headers, timestamp_ms=record.timestamp_ms)


class Decoding:
    """Decodes the records of one source.

    GUARANTEE: every record of a batch is in one run, in order.

    Args:
        step: The source's step in the graph.
        message_bytes_max: Larger ones are refused before they are decoded.
        leave_out: What is done with one that is refused.
    """

    def __init__(self, step: Step, message_bytes_max: int, leave_out: LeaveOut) -> None:
        self._step = step
        self._codec: Codec[Any] | None = step.options["spec"].codec
        self._message_bytes_max = message_bytes_max
        self._leave_out = leave_out
        self._nulls = takes_nulls(step.options["spec"])

    def decode(self, batch: SourceBatch) -> list[Ready]:
        codec = self._codec
        payloads = batch.payloads
        if not payloads:
            return [Ready(batch, [])]
        if codec is None:
            return [Ready(batch, self._messages(batch, payloads if isinstance(payloads, list) else list(payloads)))]
        try:
            if max(map(len, filter(None, payloads) if self._nulls else payloads), default=0) > self._message_bytes_max:
                raise ValueError("too large")
            if self._nulls:
                values = [None if payload is None else codec.decode(payload) for payload in payloads]
            else:
                values = list(map(codec.decode, payloads))
        except Exception:
            return self._decode_singly(batch, codec)
        return [Ready(batch, self._messages(batch, values))]

    def _decode_singly(self, batch: SourceBatch, codec: Codec[Any]) -> list[Ready]:
        """Finds the records that cannot be decoded; each becomes a run of its own without a value."""
        found: list[Ready] = []
        start = 0
        values: list[Any] = []

        def end_run(stop: int) -> None:
            if values:
                good = batch.cut(start, stop)
                found.append(Ready(good, self._messages(good, list(values))))
                values.clear()

        limit = self._message_bytes_max
        for at, payload in enumerate(batch.payloads):
            try:
                if payload is not None and len(payload) > limit:
                    raise ValueError(f"it is larger than message_bytes_max = {limit} bytes")
                if payload is None and not self._nulls:
                    raise ValueError("it has no value (a tombstone)")
                values.append(None if payload is None else codec.decode(payload))
            except Exception as error:
                refused = undecodable(self._step.name, batch, at, error)
                self._leave_out(batch, at, "undecodable", refused, error)
                end_run(at)
                found.append(Ready(batch.cut(at, at + 1), []))
                start = at + 1
        end_run(len(batch))
        return found

    def _messages(self, batch: SourceBatch, values: list[Any]) -> list[Any]:
        if not self._step.options["message"]:
            return values
        none = [None] * len(values)
        return [
            Message(value, key, headers or {}, position, timestamp)
            for value, key, headers, position, timestamp in zip(
                values,
                batch.keys or none,
                batch.headers or none,
                batch.positions or none,
                batch.timestamps_ms or none,
                strict=True,
            )
        ]
