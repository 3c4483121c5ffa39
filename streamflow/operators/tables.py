"""Tables: what a table step does with one record of its changelog, and how other steps look it up.

A table keeps the last value of each key. Steps that look it up run in the same loop as the step that fills it, so a
record finds the table as of its own place in the one order of all records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from streamflow.graph import Step
from streamflow.keys import Key, canonical
from streamflow.operators.values import FROZEN, own
from streamflow.state.key_check import KeyCheck
from streamflow.state.keyed import MISSING, Table

K = TypeVar("K")
V = TypeVar("V")

Find = Callable[[Key | None, int], Any]
"""Gives the value of a key at a processing time, to be kept by whoever asks; `MISSING` if there is none."""


class TableHandle(Generic[K, V]):
    """A table as users hold it; steps name it by this, and get to its entries when they run.

    Args:
        id: Id of the step that fills it.
    """

    def __init__(self, id: str) -> None:
        self._id = id

    @property
    def id(self) -> str:
        """Id of the step that fills it."""
        return self._id


class Change(msgspec.Struct, Generic[V], frozen=True):
    """What happened to one key of a table.

    Args:
        before: The value until now; None if there was none.
        after: The value from now on; None if it was removed.
    """

    before: V | None
    after: V | None


class Changelog:
    """One table step at run time.

    GUARANTEE: the table holds the last value of each key; None removes the key. A key whose ttl is over is absent.

    Args:
        step: The step.
        table: Its entries.
    """

    def __init__(self, step: Step, table: Table[Any]) -> None:
        self.table = table
        self._check = KeyCheck(step.name, step.options["key_type"])
        self._order: list[Key] | None = None

    # -- what loops call --------------------------------------------------------------------------

    def take(self, key: Key, value: Any, now_ms: int) -> tuple[Any, Any] | None:
        """Applies one record; gives the values before and after, None where a key that is absent was removed."""
        if key.__class__ is not self._check.kind:
            self._check.check(key)
        table = self.table
        before = self._peek(key, now_ms)
        if value is None:
            if before is MISSING:
                return None
            self._order = None
            table.delete(key)
            return before, None
        if before is MISSING:
            before = self._order = None
        if table.ttl_ms is not None:
            table.renew(key, now_ms)
        table.put(key, own(value))
        return before, value

    def told(self, values: tuple[Any, Any]) -> Change[Any]:
        """What `take` gave, as it leaves the step."""
        return Change(*map(own, values))

    def attempt(self, key: Key, value: Any, now_ms: int) -> tuple[Any, Any] | None:
        """`take` under a policy other than stop: restores the state if it raises."""
        self.table.begin()
        try:
            values = self.take(key, value, now_ms)
            self.table.verify()
        except BaseException:
            self._order = None
            self.table.roll_back()
            raise
        self.table.keep()
        return values

    def find(self, key: Key, now_ms: int) -> Any:
        """The value of a key, to be kept by whoever asks; `MISSING` if there is none. A key of None has none."""
        if key is None:
            return MISSING
        if key.__class__ is not self._check.kind:
            self._check.check(key)
        table = self.table
        if table.ttl_ms is not None and table.expired(key, now_ms):
            return MISSING
        found = table.hot.get(key, MISSING)
        if found is MISSING:
            found = table.peek(key)
        return found if found.__class__ in FROZEN or found is MISSING else own(found)

    def pairs(self, step: Step, record: Any, now_ms: int) -> Iterator[tuple[Any, Any]]:
        """The record with each value of the table that a broadcast step wants for it, in the order of the keys."""
        none = True
        for key in self._keys():
            found = self._peek(key, now_ms)
            if found is not MISSING and (step.function is None or step.function(record, found)):
                none = False
                yield record, own(found)
        if none and step.options["how"] == "left":
            yield record, None

    # -- helpers ----------------------------------------------------------------------------------

    def _peek(self, key: Key, now_ms: int) -> Any:
        if self.table.ttl_ms is not None and self.table.expired(key, now_ms):
            return MISSING
        return self.table.peek(key)

    def _keys(self) -> list[Key]:
        """All keys in order: sorted again when one came or went."""
        if self._order is None:
            self._order = sorted(self.table.snapshot(), key=canonical)
        return self._order
