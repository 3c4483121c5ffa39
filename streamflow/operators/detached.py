"""Detached calls as values and step functions: what waits in the state for its call, and what a call gave.

An input is stored as an element of list state, with what tells where it came from. Its call is made by
`streamflow.runtime.detached`, and what it gave comes in as a record, which takes the input out of the state again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from streamflow.batch import Headers, MicroBatch, SourceBatch, SourceInput
from streamflow.codecs import Codec
from streamflow.errors import StepError
from streamflow.keys import Key, canonical, parse
from streamflow.operators.context import Context, Output
from streamflow.operators.letters import as_bytes, spot_at
from streamflow.state.collections import ListState

ERROR_CHARS_MAX: Final = 2_000
"""So much is stored of why a call failed."""


class Spot(msgspec.Struct, frozen=True, array_like=True):
    """Where an input came from, as `streamflow.batch.DeadLetter` tells it; without a source nothing is known."""

    source: str = ""
    partition: str = ""
    position: int | None = None
    id: str = ""
    key: bytes | None = None
    headers: dict[str, str] | None = None
    payload: bytes = b""
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """An input in the state.

    Args:
        id: Identity of its call; unique, and the same after a crash.
        now_ms: Processing time at which it arrived.
        spot: Where it came from.
        value: The record.
    """

    id: str
    now_ms: int
    spot: Spot
    value: Any

    def place(self, payload: bytes, *, original: bool) -> tuple[str, SourceBatch]:
        """The source and the record that what follows from it is said to come from.

        Args:
            payload: Stands for the record where none is known.
            original: Whether it is the very record that came in; else one of that source, of an identity of its own.
        """
        spot = self.spot
        if not spot.source:
            return "", SourceBatch("", [payload], ids=[self.id])
        headers: list[Headers | None] = [spot.headers]
        positions, ids = ([spot.position], None) if original and spot.position is not None else (None, [self.id])
        if original and spot.position is None:
            ids = [spot.id]
        times = None if spot.timestamp_ms is None else [spot.timestamp_ms]
        return spot.source, SourceBatch(
            spot.partition, [spot.payload], positions, ids, headers=headers, keys=[spot.key], timestamps_ms=times
        )


@dataclass(frozen=True, slots=True)
class Arrived:
    """An input on its way into the state."""

    key: Key
    waiting: Waiting


@dataclass(frozen=True, slots=True)
class Begin:
    """An input that is in the state, under its key as the element ``number``: once committed its call may begin."""

    key: Key
    number: int
    waiting: Waiting


@dataclass(frozen=True, slots=True)
class Result:
    """What the call of an input gave.

    Args:
        key: The input's key.
        number: Its number in the state.
        waiting: The input; its value is left out.
        outputs: What takes its place.
        failure: Why there is none; empty if the call succeeded.
        error: The error itself, where it was not read back.
    """

    key: Key
    number: int
    waiting: Waiting
    outputs: list[Any]
    failure: str = ""
    error: Exception | None = field(default=None, compare=False)

    def __deepcopy__(self, memo: object) -> Result:
        return self  # made for one reader; a copied error would have lost its traceback


BEGIN: Final = Output("begin", Begin)


class _StoredInput(msgspec.Struct, array_like=True):
    id: str
    now_ms: int
    spot: Spot
    value: msgspec.Raw


class _StoredResult(msgspec.Struct, array_like=True):
    key: msgspec.Raw
    number: int
    id: str
    now_ms: int
    spot: Spot
    failure: str
    outputs: msgspec.Raw


class InputCodec:
    """JSON of an input in the state.

    Args:
        values: JSON of the step's records.
    """

    name = "json of a detached call's input"

    def __init__(self, values: Codec[Any]) -> None:
        self._values = values
        self._decode = msgspec.json.Decoder(_StoredInput).decode

    def encode(self, waiting: Waiting, /) -> bytes:
        value = msgspec.Raw(self._values.encode(waiting.value))
        return msgspec.json.encode(_StoredInput(waiting.id, waiting.now_ms, waiting.spot, value))

    def decode(self, data: bytes, /) -> Waiting:
        stored = self._decode(data)
        return Waiting(stored.id, stored.now_ms, stored.spot, self._values.decode(bytes(stored.value)))


class ResultCodec:
    """JSON of what a call gave, as the store keeps it for a replay.

    Args:
        outputs: JSON of a list of the step's outputs.
        key_type: Type of the keys where it is known.
    """

    name = "json of a detached call's result"

    def __init__(self, outputs: Codec[list[Any]], key_type: Any) -> None:
        self._outputs = outputs
        self._key_type = key_type
        self._decode = msgspec.json.Decoder(_StoredResult).decode

    def encode(self, result: Result, /) -> bytes:
        waiting = result.waiting
        key, outputs = msgspec.Raw(canonical(result.key)), msgspec.Raw(self._outputs.encode(result.outputs))
        stored = (key, result.number, waiting.id, waiting.now_ms, waiting.spot, result.failure, outputs)
        return msgspec.json.encode(_StoredResult(*stored))

    def decode(self, data: bytes, /) -> Result:
        stored = self._decode(data)
        waiting = Waiting(stored.id, stored.now_ms, stored.spot, None)
        key = parse(bytes(stored.key), self._key_type)
        return Result(key, stored.number, waiting, self._outputs.decode(bytes(stored.outputs)), stored.failure)


# -- the functions of the steps ------------------------------------------------------------------


def arrive(ctx: Context[Any, Any], value: Any) -> Arrived:
    """Takes note of where a record came from, while its number is in flight."""
    return Arrived("" if ctx.key is None else ctx.key, Waiting(ctx.id, ctx.now_ms, _spot(ctx), value))


def _spot(ctx: Context[Any, Any]) -> Spot:
    found = spot_at(ctx.batch, ctx.origin)
    if found is None:
        return Spot()
    records, source, at = found
    headers = None if records.headers is None else records.headers[at]
    return Spot(
        source,
        "" if records.partition == source else records.partition,
        None if records.positions is None else records.positions[at],
        "" if records.ids is None else records.ids[at],
        None if records.keys is None else records.keys[at],
        None if headers is None else dict(headers),
        as_bytes(records.payloads[at]),
        None if records.timestamps_ms is None else records.timestamps_ms[at],
    )


def key_of(item: Arrived | Result) -> Key:
    """The key by which an input and its result meet."""
    return item.key


def hold(ctx: Context[Any, ListState[Waiting]], item: Arrived | Result) -> Iterator[Result]:
    """Keeps an input until its result comes, once."""
    if isinstance(item, Arrived):
        number = ctx.state.add(item.waiting)
        ctx.emit(BEGIN, Begin(item.key, number, item.waiting))
    elif ctx.state.remove(item.number):
        yield item


def outcome(result: Result) -> list[Any]:
    """What a call gave, or raises what it raised."""
    if result.error is not None:
        raise result.error
    if result.failure:
        raise StepError(result.failure, step="")
    return result.outputs


def context_of(flow: str, step: str, begin: Begin, *, keyed: bool) -> Context[Any, Any]:
    """The context of a call: the number that the input came with is long gone."""
    context: Context[Any, Any] = Context(flow, step)
    source, records = begin.waiting.place(b"", original=False)
    context.batch = MicroBatch(0, begin.waiting.now_ms, (SourceInput(source, 0, records),))
    context.origin = (0,)
    context.key = begin.key if keyed else None
    return context
