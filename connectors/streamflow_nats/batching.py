"""Batching: whether a run of messages is worth atomic batches, learned from how long either way took."""

from __future__ import annotations

from typing import Final

from streamflow_nats.publisher import BATCH_MESSAGES_MAX

FEW: Final = 8
"""So few messages always go one by one: what they take is the way to the server and back."""
TRIED: Final = 256
"""So many messages of the first long run go one by one, to learn what they take: 0.1 s where each is synced."""
_WEIGHT: Final = 0.25
_FORGET: Final = 0.99


class Batching:
    """Chooses how the next run of a stream that takes atomic batches is published.

    For a batch the server makes a store of its own: some 10 ms (nats-server 2.15.1), however few messages it holds, and
    one fsync; and a batch is sent only when the one before it has landed. Messages of their own take next to nothing,
    but an fsync each where the server has ``sync_interval: always``, which it tells nobody. So both are timed.
    """

    def __init__(self) -> None:
        self._tried = False
        self._message_seconds = 0.0
        self._batch_seconds = 0.03  # what a busy server takes; found out soon if it takes less

    def piece(self, messages: int) -> int:
        """How many of so many messages to publish before choosing again."""
        return messages if self._tried else min(messages, TRIED)

    def worth(self, messages: int) -> bool:
        """Whether batches are expected to land sooner than the messages one by one."""
        if messages <= FEW or not self._tried:
            return False
        return messages * self._message_seconds > _batches(messages) * self._batch_seconds

    def took(self, messages: int, seconds: float, *, batched: bool) -> None:
        """Learns from a run that landed. The other way may have been slow for a moment only: it is slowly forgotten."""
        if batched:
            self._batch_seconds += _WEIGHT * (seconds / _batches(messages) - self._batch_seconds)
            self._message_seconds *= _FORGET
        elif messages > FEW:
            each = seconds / messages
            # a busy loop only ever adds to it: what took less is believed at once
            known = self._tried and each > self._message_seconds
            self._message_seconds += (_WEIGHT if known else 1.0) * (each - self._message_seconds)
            self._batch_seconds *= _FORGET
            self._tried = True


def _batches(messages: int) -> int:
    return -(-messages // BATCH_MESSAGES_MAX)
