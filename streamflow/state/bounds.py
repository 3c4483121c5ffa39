"""Bounds of keyed state: how many keys a step may hold."""

from __future__ import annotations

from streamflow.errors import StateFull
from streamflow.keys import Key


class KeyBound:
    """Counts the keys of one table and refuses those above a limit.

    GUARANTEE: whether a key is refused depends on the keys that are there alone, so it is the same after a restart.
    A table that holds more, since the limit was lowered, keeps what it has.
    BOUND: one reference per key.

    Args:
        step: Name of the step.
        keys_max: Most keys.
    """

    def __init__(self, step: str, keys_max: int) -> None:
        self.known: set[Key] = set()
        self._step = step
        self._keys_max = keys_max

    @property
    def full(self) -> bool:
        """Whether no key more would be taken."""
        return len(self.known) >= self._keys_max

    def admit(self, key: Key) -> None:
        """Takes a key.

        Raises:
            StateFull: It would be one too many.
        """
        if key in self.known:
            return
        if self.full:
            raise StateFull(
                f"step {self._step!r} holds {len(self.known):,} keys, as many as max_keys= allows, "
                f"and {key!r:.60} would be one more",
                step=self._step,
                hint="Raise max_keys=, let keys expire, or leave records of further keys out with on_error=sf.skip.",
            )
        self.known.add(key)
