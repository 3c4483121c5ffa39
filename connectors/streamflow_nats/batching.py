"""Batching: whether a run of messages is worth an atomic batch, learned from how long either took."""

from __future__ import annotations

from typing import Final

from streamflow_nats.publisher import SEND_RECORDS_MAX

FEW: Final = 8
"""So few messages always go one by one: what they take is the way to the server and back."""
_WEIGHT: Final = 0.25
_FORGET: Final = 0.98


class Batching:
    """Chooses how the next run of a stream that takes atomic batches is published.

    For a batch the server makes a store of its own: some 10 ms (nats-server 2.15.1), however few messages it holds, and
    one fsync. Messages of their own take next to nothing, but an fsync each where the server has ``sync_interval:
    always``, which it tells nobody. So both are timed. BOUND: runs above `SEND_RECORDS_MAX` are always batches.
    """

    def __init__(self) -> None:
        # first guesses that try messages one by one once; a wrong one costs one run
        self._message_seconds = 0.000_05
        self._batch_seconds = 0.01

    def worth(self, messages: int) -> bool:
        """Whether a batch is expected to land sooner than the messages one by one."""
        if messages <= FEW:
            return False
        return messages > SEND_RECORDS_MAX or messages * self._message_seconds > self._batch_seconds

    def took(self, messages: int, seconds: float, *, batched: bool) -> None:
        """Learns from a run that landed."""
        if not batched:
            if messages > FEW:
                self._message_seconds += _WEIGHT * (seconds / messages - self._message_seconds)
        elif messages <= SEND_RECORDS_MAX:
            self._batch_seconds += _WEIGHT * (seconds - self._batch_seconds)
            # one by one it may have been slow for a moment only: after a while it is tried again
            self._message_seconds *= _FORGET
