"""How a sink's last transaction ended, and how a producer notes that at the coordinator for whoever comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_COMMITTED: Final = frozenset({"PrepareCommit", "CompleteCommit"})
_ABORTED: Final = frozenset({"PrepareAbort", "CompleteAbort", "PrepareEpochFence"})
_OPEN: Final = "Ongoing"
_NOTES: Final[dict[bool | None, int]] = {None: 0, True: 1, False: 2}
_NOTE_PLACES: Final = 10


def with_note(timeout_ms: int, outcome: bool | None) -> int:
    """A timeout of a producer that notes, in its last digit, how the transaction before it ended."""
    return max(1, timeout_ms // _NOTE_PLACES) * _NOTE_PLACES + _NOTES[outcome]


@dataclass(frozen=True, slots=True)
class Last:
    """What the coordinator knows of a name's last transaction.

    A producer that begins makes the coordinator forget how the last transaction ended. So one that may have to repair
    what was left of it notes that at the coordinator, in the one value that a producer may choose and the coordinator
    keeps and tells: its timeout.

    Args:
        state: The coordinator's word for it; empty where there was none.
        timeout_ms: Of the producer, made by `with_note`.
        producer: Its id and epoch.
    """

    state: str = ""
    timeout_ms: int = 0
    producer: tuple[int, int] = (-1, -1)

    @property
    def note(self) -> bool | None:
        """Whether the transaction before this producer ended by a commit; None if it did not note it."""
        digit = self.timeout_ms % _NOTE_PLACES
        return next((outcome for outcome, place in _NOTES.items() if place == digit), None)

    @property
    def is_open_repair(self) -> bool:
        """Whether it is open, has nothing of its own, and is to commit what was left of the one before it."""
        return self.state == _OPEN and self.note is True

    @property
    def is_lost_repair(self) -> bool:
        """Whether it was to commit what was left of the one before it, and the broker has given it up."""
        return self.state in _ABORTED and self.note is True

    @property
    def outcome(self) -> bool | None:
        """Whether what may be left undecided was committed; None where nobody knows."""
        if self.state in _COMMITTED:
            return True
        # a producer that begins aborts what is open
        return False if self.state in _ABORTED or self.state == _OPEN else self.note
