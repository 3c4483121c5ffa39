"""The check of keys: all keys of one ``key_by`` are of one type, and can be restored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from streamflow.keys import Key, canonical, parse, shape, shape_name


class KeyCheck:
    """Holds all keys of one ``key_by`` to one type.

    Args:
        step: Name of the step, for messages.
        declared: The key type, where annotations tell it.
    """

    def __init__(self, step: str, declared: Any = None) -> None:
        self.step = step
        self.declared = declared
        self.kind: type | None = None
        self._shape: Any = None

    def check(self, key: Key) -> None:
        """Takes a key of the first key's type; loops call it only for keys whose class is not `kind`.

        Raises:
            TypeError: It is no key, or of another type than the keys before.
        """
        found = shape(key)
        if self._shape is None:
            self._must_come_back(key)
            self._shape = found
            # the class of a tuple or a datetime does not say that it may be a key: it is looked at each time
            self.kind = None if isinstance(found, tuple) or found is datetime else found
        elif found != self._shape:
            raise TypeError(
                f"key {key!r:.60} is {shape_name(found)}, the keys before were {shape_name(self._shape)}: "
                "all keys of one key_by have one type"
            )

    def _must_come_back(self, key: Key) -> None:
        """Refuses at once what could not be restored after a restart: an Enum whose class no annotation tells."""
        try:
            again = parse(canonical(key), self.declared)
        except ValueError as error:
            raise TypeError(f"key {key!r:.60} of {self.step!r} could not be restored: {error}") from None
        if again != key:
            raise TypeError(f"key {key!r:.60} of {self.step!r} would be restored as {again!r:.60}")
