"""Pydantic models as JSON, by pydantic itself, which is never imported unless a model is there.

A model is written with the names it is read by, aliases, wherever it stands.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from streamflow.codecs.shapes import type_name
from streamflow.errors import DefinitionError

T = TypeVar("T")


def is_model(kind: Any) -> bool:
    """Whether a class is a pydantic model or a pydantic dataclass."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


def models_in(kind: Any) -> list[Any]:
    """The pydantic classes that a type consists of, its containers and unions apart."""
    if is_model(kind):
        return [kind]
    return [model for part in typing.get_args(kind) for model in models_in(part)]


class PydanticCodec(Generic[T]):
    """JSON of a pydantic model, or of a container or union of some.

    `decode` is pydantic's own method. `encode` writes each model as its own class says, also that of a subclass.
    """

    def __init__(self, kind: Any) -> None:
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticUserError

        self.name = "json"
        self.kind = kind
        try:
            adapter: TypeAdapter[T] = TypeAdapter(kind)
            decode: Callable[..., T] = adapter.validator.validate_json
            encode: Callable[..., bytes] = encode_json
            if any(map(dataclasses.is_dataclass, models_in(kind))):
                # msgspec would write them itself, without their aliases
                encode = partial(adapter.serializer.to_json, by_alias=True, warnings="error")
        except (PydanticUserError, TypeError, NameError) as error:
            reason = str(error).partition("\n")[0]
            raise DefinitionError(
                f"{type_name(kind)} cannot be read from JSON: {reason}",
                hint="Define the model completely, of pydantic types only, before it is given to a source or sink.",
            ) from None
        self.decode = cast("Callable[[bytes], T]", decode)
        self.encode = cast("Callable[[T], bytes]", encode)


def write_json(value: Any) -> Any:
    """What msgspec writes in JSON for a value that it does not know."""
    _check_known(value)
    return msgspec.Raw(type(value).__pydantic_serializer__.to_json(value, by_alias=True, warnings="error"))


def write_plain(value: Any) -> Any:
    """What msgspec writes in another form for a value that it does not know."""
    _check_known(value)
    serializer = type(value).__pydantic_serializer__
    return serializer.to_python(value, mode="json", by_alias=True, warnings="error")


def read_plain(kind: Any, plain: Any) -> Any:
    """Reads a model out of what stands in its place; anything else is refused by msgspec, since it is not of the type.

    By way of JSON, for a model may take from JSON what it does not take from Python.
    """
    return kind.__pydantic_validator__.validate_json(msgspec.json.encode(plain)) if is_model(kind) else plain


def _check_known(value: Any) -> None:
    if not is_model(type(value)):
        raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")


_json: Final = msgspec.json.Encoder(enc_hook=write_json)

encode_json: Final = _json.encode
"""JSON of any value."""

encode_json_lines: Final = _json.encode_lines
"""The JSON of many values, each followed by a newline, by one call: what `encode_json` makes of them, in less time."""
