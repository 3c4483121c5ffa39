"""Codec: the contract of whatever turns values into bytes, and of what must be made ready before it can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Codec(Protocol[T]):
    """Turns values into bytes and back. Both directions raise ValueError (or a subclass) for what they refuse."""

    @property
    def name(self) -> str: ...

    def encode(self, value: T, /) -> bytes: ...

    def decode(self, data: bytes, /) -> T: ...


@runtime_checkable
class Prepared(Protocol):
    """A codec that must look something up first; the engine awaits it where it can wait, so `decode` never does.

    Both raise `Unavailable` for what may work again later. What a record asks for and does not exist is no error
    here: `decode` refuses that record.
    """

    @property
    def unprepared(self) -> Codec[Any]:
        """The codec of the same values that needs nothing, for tests without a network."""
        ...

    async def prepare_decoding(self, payloads: Sequence[bytes | None]) -> None:
        """Looks up what these payloads need; called for every batch that was read, so quick when nothing is new.

        A record without a payload has None.
        """
        ...

    async def prepare_encoding(self, name: str) -> None:
        """Looks up what encoding needs, for the topic or stream of that name; called before the first record."""
        ...


def unprepared(codec: Codec[T]) -> Codec[T]:
    """The codec itself, or for one that looks things up the one behind it."""
    return codec.unprepared if isinstance(codec, Prepared) else codec


async def prepare_encoding(specs: Iterable[Any]) -> None:
    """Lets the codecs of sink specs look up what encoding needs, which cannot wait once rows arrive."""
    for spec in specs:
        codec = getattr(spec, "codec", None)
        if isinstance(codec, Prepared):
            await codec.prepare_encoding(spec.name)
