"""What a type tells of its values: its structure in words, and whether anybody can change them."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec


def type_name(kind: Any) -> str:
    """A type's name for people."""
    return kind.__qualname__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def fingerprint(kind: Any) -> str:
    """Describes a type by its structure, so that a changed field or field type is noticed.

    Dataclasses, Structs, TypedDicts and pydantic models are spelled out with their fields, nested ones once, a model's
    under the names they are written by; all else by name.
    """
    return _describe(kind, ())


def _describe(kind: Any, outer: tuple[Any, ...]) -> str:
    origin = typing.get_origin(kind)
    if origin is not None:
        inner = ", ".join(_describe(part, outer) for part in typing.get_args(kind))
        # X | Y and Union[X, Y] are one type, and one class only since Python 3.14
        name = "Union" if origin in (typing.Union, types.UnionType) else type_name(origin)
        return f"{name}[{inner}]"
    fields = _fields(kind)
    if fields is None or kind in outer:
        return type_name(kind)
    inner = ", ".join(f"{name}: {_describe(part, (*outer, kind))}" for name, part in fields.items())
    return f"{kind.__name__}({inner})"


def _fields(kind: Any) -> Mapping[str, Any] | None:
    if not isinstance(kind, type):
        return None
    if hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_fields"):
        return {info.serialization_alias or name: info.annotation for name, info in kind.model_fields.items()}
    if issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        try:
            return typing.get_type_hints(kind)
        except NameError:
            return dict(getattr(kind, "__annotations__", {}))
    return None


def immutable(kind: Any) -> bool:
    """Whether every value of exactly this type is deeply immutable, decided from the type alone.

    A frozen dataclass, Struct or pydantic model counts when each of its fields' types does; a bare tuple does not,
    since what it holds is not known.
    """
    return _immutable(kind, ())


_SCALARS = (str, int, float, bool, bytes, complex, type(None))


def _immutable(kind: Any, outer: tuple[Any, ...]) -> bool:
    import datetime
    import decimal
    import enum
    import uuid

    if kind in outer:
        return True
    if kind in _SCALARS or kind in (uuid.UUID, decimal.Decimal, datetime.date, datetime.datetime, datetime.time):
        return True
    if kind is datetime.timedelta or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return True
    origin = typing.get_origin(kind)
    if origin in (tuple, frozenset, typing.Union, types.UnionType):
        return all(part is Ellipsis or _immutable(part, outer) for part in typing.get_args(kind))
    frozen = isinstance(kind, type) and (
        _is_frozen_model(kind)
        or (dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]
        or (issubclass(kind, msgspec.Struct) and kind.__struct_config__.frozen)
    )
    fields = _fields(kind) if frozen else None
    return fields is not None and all(_immutable(part, (*outer, kind)) for part in fields.values())


def _is_frozen_model(kind: Any) -> bool:
    """Whether a class is a pydantic model whose instances hold nothing but fields that cannot be assigned."""
    config = getattr(kind, "model_config", None)
    if not isinstance(config, dict) or not hasattr(kind, "__pydantic_validator__"):
        return False
    hidden = config.get("extra") == "allow" or bool(getattr(kind, "__private_attributes__", None))
    return bool(config.get("frozen")) and not hidden
