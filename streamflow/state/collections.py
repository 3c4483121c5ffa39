"""Map and list state: views on the entries (key, sub) of one key, so that one changed element costs one entry."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final, Generic, TypeVar

from streamflow.errors import StateFull
from streamflow.keys import Key, canonical
from streamflow.state.keyed import Table

K = TypeVar("K")
V = TypeVar("V")

_SCALARS: Final = frozenset((str, int, float, bool, bytes, type(None)))


def _closed_table(table: Table[V]) -> Table[V]:
    """A table of nobody's: what a call that is over still writes goes there."""
    return Table(table.name, table.codec, subs=True)


def _read(table: Table[V], key: Key, sub: object) -> V:
    """Reads an element; one that nobody can change in place is not touched, so it is not written again."""
    value = table.peek((key, sub))
    return value if value.__class__ in _SCALARS else table.get((key, sub))


def _check_room(table: Table[Any], key: Key) -> None:
    """Refuses an item more than ``max_items`` allows."""
    assert table.items_max is not None
    if len(table.index.get(key, ())) >= table.items_max:
        raise StateFull(
            f"the state of step {table.name!r} for key {key!r:.60} holds {table.items_max:,} items, "
            "as many as max_items= allows",
            step=table.name,
            hint="Raise max_items=, drop old items first, or leave such records out with on_error=sf.skip.",
        )


class MapState(MutableMapping[K, V], Generic[K, V]):
    """A mapping kept per key; each item is a state entry of its own.

    GUARANTEE: iteration is in the order of the sub-keys' canonical JSON, before and after a restart. Valid only
    during the step call that got it. Sub-keys are of the types that keys may have, all of one type.
    """

    __slots__ = ("_key", "_table")

    def __init__(self, table: Table[V], key: Key) -> None:
        self._table = table
        self._key = key

    def close(self) -> None:
        """Parts the view from the state, at the end of a call that may not know that it has ended."""
        self._table = _closed_table(self._table)

    def __getitem__(self, sub: K) -> V:
        if sub not in self:
            raise KeyError(sub)
        return _read(self._table, self._key, self._checked(sub))

    def __setitem__(self, sub: K, value: V) -> None:
        if self._table.items_max is not None and sub not in self:
            _check_room(self._table, self._key)
        self._table.put((self._key, self._checked(sub)), value)

    def __delitem__(self, sub: K) -> None:
        if sub not in self:
            raise KeyError(sub)
        self._table.delete((self._key, self._checked(sub)))

    def clear(self) -> None:
        for sub in list(self._table.index.get(self._key, ())):
            self._table.delete((self._key, sub))

    def _checked(self, sub: K) -> K:
        # 1, True and 1.0 are one key in memory and three on disk
        check = self._table.sub_check
        if sub.__class__ is not check.kind:
            check.check(sub)
        return sub

    def __contains__(self, sub: object) -> bool:
        return sub in self._table.index.get(self._key, ())

    def __iter__(self) -> Iterator[K]:
        return iter(sorted(self._table.index.get(self._key, ()), key=canonical))

    def __len__(self) -> int:
        return len(self._table.index.get(self._key, ()))

    def __repr__(self) -> str:
        return f"MapState({dict(self.items())!r})"


class ListState(Generic[V]):
    """A list kept per key that grows at its end; each element is a state entry of its own.

    GUARANTEE: appending, dropping or removing one element writes one entry. Valid only during the step call that got
    it.
    """

    __slots__ = ("_key", "_table")

    def __init__(self, table: Table[V], key: Key) -> None:
        self._table = table
        self._key = key

    def close(self) -> None:
        """Parts the view from the state, at the end of a call that may not know that it has ended."""
        self._table = _closed_table(self._table)

    def append(self, value: V) -> None:
        """Adds an element at the end."""
        self.add(value)

    def add(self, value: V) -> int:
        """Adds an element at the end; returns the number by which it can be removed."""
        if self._table.items_max is not None:
            _check_room(self._table, self._key)
        ordinals = self._table.index.get(self._key)
        last = next(reversed(ordinals)) if ordinals else -1
        self._table.put((self._key, last + 1), value)
        return int(last + 1)

    def remove(self, number: int) -> bool:
        """Removes the element to which `add` gave this number; False if it is gone already."""
        if number not in self._table.index.get(self._key, ()):
            return False
        self._table.delete((self._key, number))
        return True

    def drop(self, count: int = 1) -> None:
        """Removes ``count`` elements at the front, or all there are."""
        for ordinal in self._ordinals()[: max(0, count)]:
            self._table.delete((self._key, ordinal))

    def clear(self) -> None:
        """Removes all elements."""
        self.drop(len(self))

    def _ordinals(self) -> list[Any]:
        return list(self._table.index.get(self._key, ()))

    def __getitem__(self, index: int) -> V:
        return _read(self._table, self._key, self._ordinals()[index])

    def __iter__(self) -> Iterator[V]:
        return iter([_read(self._table, self._key, ordinal) for ordinal in self._ordinals()])

    def __len__(self) -> int:
        return len(self._table.index.get(self._key, ()))

    def __repr__(self) -> str:
        return f"ListState({list(self)!r})"
