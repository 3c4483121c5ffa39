"""State of windows: a table whose newest entries lie pane by pane, so that a record finds its own by its key alone.

Records of one time go into few panes, many in a row into the same. A loop that holds on to the pane at hand pays one
look-up by the key where an address (key, sub) would have to be made, hashed and compared.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from streamflow.state.keyed import MISSING, Table

V = TypeVar("V")

_PLAIN: Final = frozenset({int, float, str, bool})


class PaneTable(Table[V]):
    """A table of entries (key, sub) with a layer in front of the hot one: by sub, then by key.

    GUARANTEE: it differs from `Table` in what loops may write to: what stands in `pane` counts as if it were hot.
    A loop may hold on to a pane until the end of its fragment.

    Attributes:
        near: By key what a loop wants at hand until the end of the epoch; whoever changes a key's entries otherwise
            takes it out.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.panes: dict[Any, dict[Any, V]] = {}
        self.near: dict[Any, Any] = {}

    def pane(self, sub: Any) -> dict[Any, V]:
        """The newest entries of a sub-key, by key; whoever sets one gets it by `at_hand` or `fresh`."""
        found = self.panes.get(sub)
        if found is None:
            found = self.panes[sub] = {}
        return found

    def settle(self, upto: int | None = None) -> None:
        """Moves the newest entries to the hot layer; panes that loops hold stay theirs.

        Args:
            upto: Those of sub-keys up to here; None moves all.
        """
        hot = self.hot
        for sub, pane in self.panes.items():
            if pane and (upto is None or sub <= upto):
                hot.update({(key, sub): value for key, value in pane.items()})
                pane.clear()

    def _settle_one(self, address: Any) -> None:
        pane = self.panes.get(address[1])
        if pane:
            value: Any = pane.pop(address[0], MISSING)
            if value is not MISSING:
                self.hot[address] = value

    def miss(self, key: Any) -> V:
        self._settle_one(key)
        value: Any = self.hot.get(key, MISSING)
        return super().miss(key) if value is MISSING else value

    def _cold(self, key: Any) -> V:
        # what nobody can change needs no copy of what it was at the barrier
        value = self._sealed.get(key, self._absent)
        if value.__class__ in _PLAIN and not (self._deleted.size and key in self._deleted):
            return value
        return super()._cold(key)

    def peek(self, key: Any) -> V:
        pane = self.panes.get(key[1])
        if pane:
            value: Any = pane.get(key[0], MISSING)
            if value is not MISSING:
                return value  # type: ignore[no-any-return]
        return super().peek(key)

    def get(self, key: Any) -> V:
        self._settle_one(key)
        return super().get(key)

    def put(self, key: Any, value: V) -> None:
        self._settle_one(key)
        super().put(key, value)

    def delete(self, key: Any) -> None:
        self._settle_one(key)
        self.near.pop(key[0], None)
        super().delete(key)

    def fresh(self, key: Any, sub: Any) -> V:
        """Takes note of an entry that never was there, and gives its value; the caller sets it in its `pane`."""
        assert self._initial is not None, f"{self.name} has no initial value"
        subs = self.index.get(key)
        if subs is None:
            self.index[key] = {sub: None}
        else:
            subs[sub] = None
        return self._touched((key, sub), self._initial())

    def at_hand(self, key: Any, sub: Any) -> V:
        """The value of an entry that is there and not in its `pane`; the caller sets it there."""
        address = (key, sub)
        value: Any = self.hot.get(address, MISSING)
        return self._touched(address, self._cold(address)) if value is MISSING else value

    def _touched(self, address: Any, value: V) -> V:
        """Keeps an entry's place: an epoch's changes are in the order of their first, however panes are settled."""
        if self.undo is None:
            self.hot[address] = value
        return value

    def drop(self, key: Any, sub: Any) -> None:
        """`delete` for an entry that is there and settled."""
        address = (key, sub)
        self.hot.pop(address, None)
        gone = self._gone
        if address in self._sealed or (address in self._base and not (gone.size and address in gone)):
            self._deleted.add(address)
        subs = self.index[key]
        del subs[sub]
        if not subs:
            del self.index[key]
            if self.bound is not None:
                self.bound.known.discard(key)

    def settled(self, key: Any, sub: Any) -> V:
        """`peek` where nothing of a pane is newer than the hot layer."""
        address = (key, sub)
        value: Any = self.hot.get(address, MISSING)
        return Table.peek(self, address) if value is MISSING else value

    def begin(self) -> None:
        self.settle()
        super().begin()

    def roll_back(self) -> None:
        self.near.clear()
        super().roll_back()

    def seal(self) -> None:
        self.settle()
        self.panes.clear()
        self.near.clear()
        super().seal()

    def snapshot(self) -> dict[Any, Any]:
        self.settle()
        return super().snapshot()

    def __len__(self) -> int:
        self.settle()
        return super().__len__()
