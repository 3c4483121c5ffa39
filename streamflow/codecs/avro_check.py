"""What Avro's library would write otherwise than it is: looked for before a value is written.

It writes 1.5 as 1 where an integer is declared, anything as a truth value or as null, and a naive datetime by the
machine's own time zone. All else that does not fit it refuses by itself, also what fits no branch of a union.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], None]
"""Raises ValueError for a value that would be written otherwise."""


def checker(schema: Any, named: Mapping[str, Any]) -> Check | None:
    """Makes the check of a parsed schema; None where there is nothing to look for."""
    return _Maker(named).check(schema)


class _Maker:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[str, Check | None] = {}

    def check(self, schema: Any, *, union: bool = False) -> Check | None:
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            if schema in self._named:
                return self._named_check(schema)
            return None if union else _LEAVES.get(schema)
        kind, logical = schema["type"], schema.get("logicalType", "")
        if kind == "array":
            return _each(self.check(schema["items"]), list)
        if kind == "map":
            return _each(self.check(schema["values"]), dict)
        if kind in ("record", "error"):
            return self._named_check(schema["name"])
        if logical.startswith("timestamp-"):
            return _check_aware
        if logical:
            return _check_time if kind in ("int", "long") else None
        return self.check(kind, union=union) if isinstance(kind, str | dict | list) else None

    def _named_check(self, name: str) -> Check | None:
        schema = self._named[name]
        if schema["type"] not in ("record", "error"):
            return None
        if name not in self._made:
            # a record that holds itself is looked up when a value does
            self._made[name] = lambda value: self._again(name, value)
            self._made[name] = self._record(schema)
        return self._made[name]

    def _again(self, name: str, value: Any) -> None:
        check = self._made[name]
        if check is not None:
            check(value)

    def _record(self, schema: Any) -> Check | None:
        parts = [(field["name"], self.check(field["type"])) for field in schema["fields"]]
        checked = [(name, check) for name, check in parts if check is not None]
        if not checked:
            return None

        def check_record(value: Any) -> None:
            for name, check in checked:
                if name in value:
                    check(value[name])

        return check_record

    def _union(self, branches: list[Any]) -> Check | None:
        """The library finds the branch; what is left to look at are times, and what a record or a list holds."""
        leaves: list[Check] = []
        holders: dict[type, list[Check | None]] = {dict: [], list: []}
        for branch in branches:
            check, holder = self.check(branch, union=True), self._holder(branch)
            if holder is not None:
                holders[holder].append(check)
            elif check is not None:
                leaves.append(check)
        # which of several records a dict is, the library alone knows
        inner = {kind: checks[0] for kind, checks in holders.items() if len(checks) == 1 and checks[0] is not None}
        if not leaves and not inner:
            return None

        def check_union(value: Any) -> None:
            check = inner.get(type(value))
            for each in (check,) if check is not None else leaves:
                each(value)

        return check_union

    def _holder(self, branch: Any) -> type | None:
        """The Python type of a branch that holds other values."""
        kind = self._named.get(branch, branch) if isinstance(branch, str) else branch
        form = kind["type"] if isinstance(kind, Mapping) else ""
        return list if form == "array" else dict if form in ("record", "error", "map") else None


def _each(check: Check | None, kind: type) -> Check | None:
    if check is None:
        return None

    def check_each(value: Any) -> None:
        for part in value.values() if kind is dict else value:
            check(part)

    return check_each


def _check_integer(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is no integer")


def _check_int(value: Any) -> None:
    _check_integer(value)
    if not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{value} does not fit into 32 bits")


def _check_boolean(value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is no bool")


def _check_aware(value: Any) -> None:
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        raise ValueError(f"{value} has no time zone; use aware datetimes")
    if isinstance(value, float):
        raise ValueError(f"{value!r} is no integer")


def _check_time(value: Any) -> None:
    if isinstance(value, datetime.time) and value.tzinfo is not None:
        raise ValueError(f"{value} has a time zone, which Avro does not keep")
    if isinstance(value, float):
        raise ValueError(f"{value!r} is no integer")


def _check_null(value: Any) -> None:
    if value is not None:
        raise ValueError(f"{value!r:.40} is not None")


_LEAVES: Mapping[str, Check] = {
    "int": _check_int,
    "long": _check_integer,
    "boolean": _check_boolean,
    "null": _check_null,
}
