"""The dead letters of a running shard: kept until the commit that leaves their records out."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from streamflow.batch import DeadLetter
from streamflow.errors import StepError


class DeadLetters:
    """Gathers letters per place of origin; a barrier that passes the place says which epoch they belong to.

    GUARANTEE: a letter is in the epoch that the record would have been in at that place.
    BOUND: ``most`` letters, with those in the store: one more is an error, which stops the flow.

    Args:
        most: Most of them.
        told: Called for each with what refused it, kind and name, and the error.
    """

    def __init__(self, most: int, told: Callable[[str, str, str], None]) -> None:
        self.stored = 0
        self.written: Callable[[], None] = lambda: None
        self._most = most
        self._told = told
        self._open: dict[Hashable, list[DeadLetter]] = {}
        self._sealed: dict[int, list[DeadLetter]] = {}

    def add(self, place: Hashable, letter: DeadLetter) -> None:
        """Takes a letter; raises as `admit`."""
        self.admit(letter)
        self._open.setdefault(place, []).append(letter)

    def admit(self, letter: DeadLetter) -> None:
        """Counts a letter.

        Raises:
            StepError: There is no room.
        """
        if self.stored >= self._most:
            raise StepError(
                f"{letter.kind} {letter.name!r} has one more dead letter than dead_letters_max = {self._most:,} "
                f"({letter.error:.200})",
                step=letter.name,
                hint="Look at them: streamflow dead TARGET list; then requeue or drop them, or raise the limit.",
            )
        self.stored += 1
        self._told(letter.kind, letter.name, letter.error)

    def seal(self, place: Hashable, epoch: int) -> None:
        """A barrier passes a place."""
        if letters := self._open.pop(place, None):
            self._sealed.setdefault(epoch, []).extend(letters)

    def take(self, epoch: int) -> list[DeadLetter]:
        """The letters of an epoch whose barrier has passed everywhere."""
        return self._sealed.pop(epoch, [])

    def revived(self, count: int) -> None:
        """So many have left the store."""
        self.stored -= count
