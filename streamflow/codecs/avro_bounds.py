"""Bounds of Avro data: what a few bytes may grow into, told from the schema, and for recursive schemas from the data.

An element that takes no bytes makes an array of millions out of five; a schema that names its types twice in each of
the next ones makes a record without bytes as large; a list that is linked through a million records ends a reader
that calls itself. Schemas of the first two kinds are refused, data of the third is looked through before it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SCHEMA_BYTES_MAX: Final = 1024 * 1024
SCHEMA_DEPTH_MAX: Final = 128
"""Levels that the text of a schema may have."""
RECORD_VALUES_MAX: Final = 100_000
"""Values that a record has at least, its inner records counted wherever they stand."""
DATA_DEPTH_MAX: Final = 100
"""Levels that data may have, by a recursive schema."""

_FIXED_BYTES: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}


def check_depth(schema: Any, depth: int = 0) -> None:
    """Refuses a schema whose text is nested too deep.

    Raises:
        ValueError: It is.
    """
    if depth > SCHEMA_DEPTH_MAX:
        raise ValueError(f"the schema has more than {SCHEMA_DEPTH_MAX} levels")
    for part in schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ():
        check_depth(part, depth + 1)


class Bounds:
    """What a parsed schema says about the size of its data.

    Args:
        schema: A schema as fastavro parses it.
        named: Its named types.

    Raises:
        ValueError: Data of the schema may be of any size, whatever the number of its bytes.
    """

    def __init__(self, schema: Any, named: Mapping[str, Any]) -> None:
        self.recursive = False
        self._schema = schema
        self._named = named
        self._values: dict[str, int] = {}
        self._empty: dict[str, bool] = {}
        self._open: set[str] = set()
        self._count(schema)

    def check(self, data: bytes) -> None:
        """Looks through data of a recursive schema; quick for all others.

        Raises:
            ValueError: It is nested too deep, cut off or damaged.
        """
        if self.recursive:
            _Look(data, self._named).skip(self._schema, 0)

    def _count(self, schema: Any) -> int:
        """Values that data of the schema has at least; arrays and maps, which say their own length, count once."""
        if isinstance(schema, list):
            return 1 + max(map(self._count, schema), default=0)
        if isinstance(schema, str):
            return self._count_named(schema)
        kind = schema["type"]
        if kind == "array":
            if self._may_be_empty(schema["items"]):
                raise ValueError("its arrays have elements that take no bytes, so few bytes would hold any number")
            self._count(schema["items"])
            return 1
        if kind == "map":
            self._count(schema["values"])
            return 1
        if kind in ("record", "error"):
            return self._count_named(schema["name"])
        return self._count(kind) if isinstance(kind, list | dict) else 1

    def _count_named(self, name: str) -> int:
        schema = self._named.get(name)
        if schema is None or schema["type"] not in ("record", "error"):
            return 1
        if name in self._open:
            self.recursive = True
            return 1
        if name not in self._values:
            self._open.add(name)
            count = 1 + sum(self._count(field["type"]) for field in schema["fields"])
            self._open.discard(name)
            if count > RECORD_VALUES_MAX:
                raise ValueError(f"each {name} has more than {RECORD_VALUES_MAX} values")
            self._values[name] = count
        return self._values[name]

    def _may_be_empty(self, schema: Any) -> bool:
        """Whether a value may take no bytes at all."""
        if isinstance(schema, str):
            if schema in self._named:
                return self._may_be_empty_named(schema)
            return schema == "null"
        if isinstance(schema, list):
            return False
        kind = schema["type"]
        if kind in ("record", "error", "fixed"):
            return self._may_be_empty_named(schema["name"])
        return (
            self._may_be_empty(kind) if isinstance(kind, str | dict) and kind not in ("array", "map", "enum") else False
        )

    def _may_be_empty_named(self, name: str) -> bool:
        schema = self._named[name]
        if schema["type"] == "fixed":
            return bool(schema["size"] == 0)
        if schema["type"] == "enum":
            return False
        if name not in self._empty:
            # a record that holds itself is never read to its end
            self._empty[name] = False
            self._empty[name] = all(self._may_be_empty(field["type"]) for field in schema["fields"])
        return self._empty[name]


class _Look:
    """Goes through data without making anything of it."""

    def __init__(self, data: bytes, named: Mapping[str, Any]) -> None:
        self._data = data
        self._named = named
        self._at = 0

    def skip(self, schema: Any, depth: int) -> None:
        if depth > DATA_DEPTH_MAX:
            raise ValueError(f"it is nested more than {DATA_DEPTH_MAX} levels deep")
        if isinstance(schema, str):
            if schema not in self._named:
                self._skip_plain(schema)
                return
            schema = self._named[schema]
        if isinstance(schema, list):
            index = self._long()
            if not 0 <= index < len(schema):
                raise ValueError(f"its union has no branch {index}")
            self.skip(schema[index], depth + 1)
            return
        self._skip_complex(schema, depth)

    def _skip_complex(self, schema: Mapping[str, Any], depth: int) -> None:
        match schema["type"]:
            case "record" | "error":
                for field in schema["fields"]:
                    self.skip(field["type"], depth + 1)
            case "array":
                self._skip_blocks((schema["items"],), depth)
            case "map":
                self._skip_blocks(("string", schema["values"]), depth)
            case "fixed":
                self._pass(schema["size"])
            case "enum":
                self._long()
            case kind:
                self.skip(kind, depth + 1)

    def _skip_blocks(self, parts: tuple[Any, ...], depth: int) -> None:
        while (count := self._long()) != 0:
            if count < 0:
                self._long()  # the block's size in bytes, which nobody needs to believe
            for _ in range(abs(count)):
                for part in parts:
                    self.skip(part, depth + 1)

    def _skip_plain(self, kind: str) -> None:
        if kind in _FIXED_BYTES:
            self._pass(_FIXED_BYTES[kind])
        elif kind in ("string", "bytes"):
            self._pass(self._long())
        else:
            self._long()

    def _pass(self, size: int) -> None:
        self._at += size
        if size < 0 or self._at > len(self._data):
            raise ValueError("it is cut off")

    def _long(self) -> int:
        value = shift = 0
        for at in range(self._at, min(self._at + 10, len(self._data))):
            byte = self._data[at]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                self._at = at + 1
                return (value >> 1) ^ -(value & 1)
        raise ValueError("it is cut off, or has a number that does not end")
