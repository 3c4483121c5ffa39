"""Images: the state of one key as it was before a call that takes its time, while calls of other keys go on."""

from __future__ import annotations

from typing import Any

from streamflow.keys import Key
from streamflow.state.keyed import MISSING, Table
from streamflow.state.timers import Timers


class KeyImage:
    """What a step holds for one key, encoded.

    GUARANTEE: `restore` brings back exactly that, once; other keys are not touched. A call of a plain step keeps its
    image in the table itself, where only one call can be under way.

    Args:
        table: The step's table.
        timers: Its timers, if it has some.
        key: The key.
    """

    def __init__(self, table: Table[Any], timers: Timers | None, key: Key) -> None:
        self._table = table
        self._timers = timers
        self._key = key
        self._entries = {at: table.codec.encode(table.peek(at)) for at in addresses(table, key)}
        self._expires = table.expires.get(key)
        self._due: dict[str, int] = {}
        if timers is not None:
            due = {name: timers.table.peek((key, name)) for name in sorted(timers.names)}
            self._due = {name: due_ms for name, due_ms in due.items() if due_ms is not MISSING}

    def restore(self) -> None:
        """Puts everything back."""
        table, key = self._table, self._key
        for at in addresses(table, key):
            table.delete(at)
        for at, encoded in self._entries.items():
            if table.bound is not None:
                table.bound.known.add(key)  # it was there before, so it is not one more
            table.put(at, table.codec.decode(encoded))
        if self._expires is not None:
            table.set_expiry(key, self._expires)
        if self._timers is not None:
            for name in sorted(self._timers.names):
                if name in self._due:
                    self._timers.set(key, name, self._due[name])
                else:
                    self._timers.cancel(key, name)


def addresses(table: Table[Any], key: Key) -> list[Any]:
    """Where the entries of a key are that exist now."""
    if table.subs:
        return [(key, sub) for sub in table.index.get(key, ())]
    return [] if table.peek(key) is MISSING else [key]


def verify(table: Table[Any], key: Key) -> None:
    """Encodes what a key has now.

    Raises:
        EncodeError: It cannot be stored, so the call that made it must not stand.
    """
    for at in addresses(table, key):
        table.address(at)
        table.encoded(at, table.peek(at))
