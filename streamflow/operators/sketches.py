"""Approximate aggregators on Apache DataSketches: bounded memory however many values; the extra ``sketches``.

A sketch is kept as an object and stored as base64 text in JSON. Quantiles use the t-digest: KLL and REQ sketches toss
coins, so a replay would not give the same state again.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import msgspec

from streamflow.errors import MissingExtraError
from streamflow.operators.aggregator import Aggregator
from streamflow.operators.identity import identity

T = TypeVar("T")


class Sketch:
    """A sketch that can be stored; equal to another one that is stored in the same way."""

    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held

    def serialized(self) -> bytes:
        """The sketch as bytes."""
        raise NotImplementedError

    @classmethod
    def restored(cls, data: bytes) -> Sketch:
        """The sketch that was stored."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and type(other) is type(self) and other.serialized() == self.serialized()

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: object) -> Sketch:
        return self.restored(self.serialized())


class Distinct(Sketch):
    """A HyperLogLog sketch."""

    __slots__ = ()

    def serialized(self) -> bytes:
        return bytes(self.held.serialize_updatable())

    @classmethod
    def restored(cls, data: bytes) -> Sketch:
        return cls(_library().hll_sketch.deserialize(data))


class Quantiles(Sketch):
    """A t-digest."""

    __slots__ = ()

    def serialized(self) -> bytes:
        return bytes(self.held.serialize())

    @classmethod
    def restored(cls, data: bytes) -> Sketch:
        return cls(_library().tdigest_double.deserialize(data))


def _library() -> Any:
    try:
        return importlib.import_module("datasketches")
    except ImportError:
        raise MissingExtraError(
            "sketches need the package datasketches", hint="Install streamflow-asyncio[sketches]."
        ) from None


class SketchCodec:
    """Typed JSON in which sketches are base64 text."""

    name = "json"

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self._encoder = msgspec.json.Encoder(enc_hook=_written)
        self._decoder = msgspec.json.Decoder(kind, dec_hook=_read)

    def encode(self, value: Any, /) -> bytes:
        return self._encoder.encode(value)

    def decode(self, data: bytes, /) -> Any:
        return self._decoder.decode(data)


def _written(value: Any) -> Any:
    if isinstance(value, Sketch):
        return base64.b64encode(value.serialized()).decode()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _read(kind: Any, text: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Sketch) and isinstance(text, str):
        return kind.restored(base64.b64decode(text))
    raise TypeError(f"{kind!r} cannot be read from JSON")


def approx_distinct(of: Callable[[T], Hashable], *, precision: int = 12) -> Aggregator[T, Distinct, int]:
    """The number of different values that ``of`` gives, by HyperLogLog.

    Args:
        of: Gives a value, as for `distinct`.
        precision: 4 to 21: 2^precision registers, a relative error of about 0.8 / sqrt(2^precision) (1.3 % at 12).
    """
    library = _library()

    def add(seen: Distinct, record: T) -> Distinct:
        seen.held.update(identity(of(record)))
        return seen

    def merge(a: Distinct, b: Distinct) -> Distinct:
        union = library.hll_union(precision)
        union.update(a.held)
        union.update(b.held)
        a.held = union.get_result(library.tgt_hll_type.HLL_8)
        return a

    def init() -> Distinct:
        return Distinct(library.hll_sketch(precision, library.tgt_hll_type.HLL_8))

    init()  # a wrong precision is told now
    return Aggregator(init, add, merge, lambda a: round(a.held.get_estimate()), Distinct, SketchCodec(Distinct))


def quantiles(
    of: Callable[[T], float], ranks: Sequence[float] = (0.5, 0.95, 0.99), *, compression: int = 200
) -> Aggregator[T, Quantiles, list[float]]:
    """Quantiles of what ``of`` gives, by a t-digest: most exact at both ends.

    Args:
        of: Gives a record's number.
        ranks: Which, each from 0 to 1.
        compression: About how many clusters are kept; the more, the more exact.
    """
    library = _library()
    wanted = list(ranks)

    def add(seen: Quantiles, record: T) -> Quantiles:
        seen.held.update(of(record))
        return seen

    def merge(a: Quantiles, b: Quantiles) -> Quantiles:
        # merging flushes the other one's buffer, which would change it
        a.held.merge(library.tdigest_double.deserialize(b.serialized()))
        return a

    def result(a: Quantiles) -> list[float]:
        return [] if a.held.is_empty() else [a.held.get_quantile(rank) for rank in wanted]

    return Aggregator(
        lambda: Quantiles(library.tdigest_double(compression)), add, merge, result, Quantiles, SketchCodec(Quantiles)
    )
