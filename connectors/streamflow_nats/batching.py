"""Batching: whether a run of messages is worth atomic batches, learned from what either way takes on this server."""

from __future__ import annotations

from typing import Final

from streamflow_nats.publisher import BATCH_MESSAGES_MAX, SEND_RECORDS_MAX

FEW: Final = 8
"""So few messages always go one by one: what they take is the way to the server and back."""
TRIED: Final = SEND_RECORDS_MAX // 2
"""So many messages of the first run that is longer go one by one, in one write, to learn what storing one takes."""
SYNCED_SECONDS: Final = 60e-6
"""A server that syncs each message takes longer than this for one; one that does not, a tenth of it."""
_WEIGHT: Final = 0.25
_FORGET: Final = 0.99


class Batching:
    """Chooses how the next run of a stream that takes atomic batches is published.

    For a batch the server makes a store of its own: some 10 ms (nats-server 2.15.1), however few messages it holds, and
    one fsync; and a batch is sent only when the one before it has landed. Messages of their own take next to nothing,
    but an fsync each where the server has ``sync_interval: always``, which it tells nobody. What one message takes is
    seen in the times at which the server stored some that came together: by the clock of this process, messages beside
    a busy loop seem to take ten times as long as they do.
    """

    def __init__(self) -> None:
        self.tried = False
        self._message_seconds = 0.0
        self._batch_seconds = 0.03  # what a busy server takes; found out soon if it takes less

    def piece(self, messages: int) -> int:
        """How many of so many messages to publish before choosing again."""
        return messages if self.tried else min(messages, TRIED)

    def choose(self, messages: int) -> bool:
        """Whether batches are expected to land sooner than the messages one by one."""
        if messages <= FEW or self._message_seconds < SYNCED_SECONDS:
            return False
        worth = messages * self._message_seconds > _batches(messages) * self._batch_seconds
        if not worth:
            self._batch_seconds *= _FORGET  # they may have been slow for a moment only
        return worth

    def stored(self, messages: int, seconds: float | None) -> None:
        """Learns how long the server took to store messages that came together; None if it cannot tell."""
        self.tried = True
        self._message_seconds = 0.0 if seconds is None else seconds / messages

    def took(self, messages: int, seconds: float) -> None:
        """Learns from a run that landed in batches."""
        self._batch_seconds += _WEIGHT * (seconds / _batches(messages) - self._batch_seconds)


def _batches(messages: int) -> int:
    return -(-messages // BATCH_MESSAGES_MAX)
