"""Which codec a type gets that names none."""

from __future__ import annotations

from typing import TypeVar, cast

from streamflow.codecs.contract import Codec
from streamflow.codecs.models import PydanticCodec, models_in
from streamflow.codecs.plain import BytesCodec, StrCodec
from streamflow.codecs.shapes import type_name
from streamflow.codecs.typed import JsonCodec
from streamflow.errors import DefinitionError

T = TypeVar("T")


def codec_for(kind: type[T] | Codec[T]) -> Codec[T]:
    """Returns the codec for a type: str and bytes as they are, all else as typed JSON; a codec passes through.

    Raises:
        DefinitionError: The type cannot be read from JSON.
    """
    if kind is str:
        return cast("Codec[T]", StrCodec())
    if kind is bytes:
        return cast("Codec[T]", BytesCodec())
    if not isinstance(kind, type) and isinstance(kind, Codec):
        return kind
    if models_in(kind):
        return PydanticCodec[T](kind)
    if isinstance(kind, type) and hasattr(kind, "DESCRIPTOR") and hasattr(kind, "FromString"):
        raise DefinitionError(
            f"{type_name(kind)} is a protobuf message, which has no JSON of its own",
            hint=f"Write value=sf.protobuf({type_name(kind)}); in state keep a dataclass or a dict.",
        )
    return JsonCodec[T](kind)
