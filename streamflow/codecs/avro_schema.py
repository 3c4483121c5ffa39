"""The Avro schema of a Python type: dataclasses, Structs and TypedDicts as records, with their defaults."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import inspect

from streamflow.codecs.shapes import type_name
from streamflow.errors import DefinitionError

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN: Final[dict[type, Any]] = {
    inspect.NoneType: "null",
    inspect.BoolType: "boolean",
    inspect.IntType: "long",
    inspect.FloatType: "double",
    inspect.StrType: "string",
    inspect.BytesType: "bytes",
    inspect.DateTimeType: {"type": "long", "logicalType": "timestamp-micros"},
    inspect.DateType: {"type": "int", "logicalType": "date"},
    inspect.TimeType: {"type": "long", "logicalType": "time-micros"},
    inspect.UUIDType: {"type": "string", "logicalType": "uuid"},
}
_OF_VALUE: Final = {type(None): "null", bool: "boolean", int: "long", float: "double", str: "string", bytes: "bytes"}
_ABSENT: Final = object()


def schema_of(kind: Any, namespace: str = "") -> Any:
    """Returns the schema of a type, as JSON.

    A field's default is the schema's too where Avro can write it, so that a reader may add the field.

    Raises:
        DefinitionError: The type says too little, or Avro has nothing like it.
    """
    try:
        info = inspect.type_info(kind)
    except TypeError as error:
        raise DefinitionError(
            f"{type_name(kind)} has no Avro schema: {error}", hint="Pass one: sf.avro(..., schema=...)."
        ) from None
    return _Writer(kind, namespace).schema(info)


class _Writer:
    """Writes the schema of one type; each class once, by name after that."""

    def __init__(self, kind: Any, namespace: str) -> None:
        self._kind = kind
        self._namespace = namespace
        self._classes: dict[str, type] = {}
        self._records: set[str] = set()

    def schema(self, info: inspect.Type) -> Any:
        plain = _PLAIN.get(type(info))
        if plain is not None:
            return plain
        match info:
            case inspect.Metadata():
                return self.schema(info.type)
            case inspect.UnionType():
                return self._union(info.types)
            case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.VarTupleType():
                return {"type": "array", "items": self.schema(info.item_type)}
            case inspect.DictType():
                if not isinstance(info.key_type, inspect.StrType):
                    raise self._refused("has a dict whose keys are not str")
                return {"type": "map", "values": self.schema(info.value_type)}
            case inspect.EnumType():
                return self._enum(info.cls)
            case inspect.LiteralType():
                return self._literal(info.values)
            case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
                return self._record(info)
            case _:
                form = type(info).__name__.removesuffix("Type").lower()
                raise self._refused(f"holds a {form}, which Avro has no type for")

    def _union(self, types: Sequence[inspect.Type]) -> list[Any]:
        branches = [self.schema(part) for part in types]
        forms = [branch if isinstance(branch, str) else branch["type"] for branch in branches]
        if len(set(map(str, forms))) < len(forms) or sum(self._is_record(branch) for branch in branches) > 1:
            raise self._refused("has a union whose branches Avro cannot tell apart")
        return sorted(branches, key=lambda branch: branch != "null")

    def _is_record(self, branch: Any) -> bool:
        return branch in self._records if isinstance(branch, str) else branch["type"] == "record"

    def _enum(self, cls: Any) -> Any:
        values = [member.value for member in cls]
        if not all(isinstance(value, str) and _NAME.fullmatch(value) for value in values):
            return self._literal(values)
        if self._seen(cls):
            return cls.__name__
        return {"type": "enum", "name": cls.__name__, **self._space(), "symbols": values}

    def _literal(self, values: Sequence[Any]) -> Any:
        kinds = {type(value) for value in values}
        if len(kinds) != 1 or not kinds <= {str, int}:
            raise self._refused("has choices that are not all str or all int")
        return _OF_VALUE[kinds.pop()]

    def _record(self, info: Any) -> Any:
        cls = info.cls
        if getattr(info, "array_like", False):
            raise self._refused(f"holds {cls.__name__}, which is written as an array")
        if self._seen(cls):
            return cls.__name__
        space = self._space()
        self._records.add(cls.__name__)
        fields = [self._field(cls, field) for field in info.fields]
        tag = getattr(info, "tag", None)
        if tag is not None:
            fields.insert(0, {"name": info.tag_field, "type": _OF_VALUE[type(tag)], "default": tag})
        return {"type": "record", "name": cls.__name__, **space, "fields": fields}

    def _field(self, cls: type, field: inspect.Field) -> dict[str, Any]:
        if not _NAME.fullmatch(field.encode_name):
            raise self._refused(f"has a field {field.encode_name!r}, which is no name in Avro")
        if isinstance(cls, type) and issubclass(cls, dict) and not field.required:
            raise self._refused(f"has a key {field.encode_name!r} that may be missing")
        schema = self.schema(field.type)
        default = _default(field)
        written = {"name": field.encode_name, "type": schema}
        if default is _ABSENT:
            return written
        if isinstance(schema, list):
            first = [branch for branch in schema if _holds(branch, default)]
            schema = first[:1] + [branch for branch in schema if branch not in first[:1]]
            written["type"] = schema
        if _holds(schema[0] if isinstance(schema, list) else schema, default):
            written["default"] = default
        return written

    def _seen(self, cls: type) -> bool:
        """Whether a class was written already."""
        seen = cls.__name__ in self._classes
        if self._classes.setdefault(cls.__name__, cls) is not cls:
            raise self._refused(f"holds two classes called {cls.__name__}")
        return seen

    def _space(self) -> dict[str, str]:
        """The namespace, which stands on the outermost type and holds for all within."""
        return {"namespace": self._namespace} if self._namespace and len(self._classes) == 1 else {}

    def _refused(self, why: str) -> DefinitionError:
        return DefinitionError(
            f"{type_name(self._kind)} has no Avro schema: it {why}",
            hint="Pass a schema of your own: sf.avro(..., schema=...), or use other types.",
        )


def _default(field: inspect.Field) -> Any:
    """A field's default as JSON; absent where there is none or Avro cannot write it."""
    if field.default_factory in (list, set, tuple, frozenset):
        return []
    if field.default_factory is dict:
        return {}
    if field.default is msgspec.NODEFAULT or field.default_factory is not msgspec.NODEFAULT:
        return _ABSENT
    if isinstance(field.default, bytes):
        return field.default.decode("latin-1")
    try:
        return msgspec.to_builtins(field.default)
    except (TypeError, ValueError):
        return _ABSENT


def _holds(schema: Any, value: Any) -> bool:
    """Whether a default may stand in a field of a schema."""
    if isinstance(schema, str):
        return schema == _OF_VALUE.get(type(value)) or (schema == "bytes" and isinstance(value, str))
    if schema["type"] == "enum":
        return bool(value in schema["symbols"])
    form = schema["type"]
    return bool((form == "array" and value == []) or (form == "map" and value == {}))
