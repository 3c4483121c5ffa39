"""Settings: every named limit and pace of a running flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from streamflow.batch import FRAGMENT_ROWS_MAX
from streamflow.clock import Duration, duration_ms
from streamflow.errors import SettingsError

REOPEN_SECONDS: Final = 0.1
"""Wait before the first attempt to open a connector again."""
REOPEN_DOUBLINGS_MAX: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a flow paces its commits and bounds its memory.

    Args:
        commit_min: Shortest time between two commits; 0 commits as fast as the disk does.
        commit_max: Longest time a record may wait for its commit to begin.
        checkpoint_share: Most of the elapsed time that sealing and committing may cost under load (0 to 1).
        epoch_records_max: An epoch that has taken so many records ends as soon as the last commit is done.
        epoch_bytes_max: Outputs of one epoch above this are written ahead of the commit, and leave memory.
        chunk_bytes: Outputs are stored and published in pieces of about this size.
        outbox_bytes_max: A sink whose unpublished outputs pass this stops intake until it has caught up.
        outbox_memory_bytes_max: So many of a sink's unpublished outputs stay in memory; the rest is read back from the
            store when its turn comes.
        intake_records_max: Most records read ahead per source.
        intake_bytes_max: Most bytes read ahead per source.
        held_records_max: Most records held of sources that are read in the order of event time together.
        held_bytes_max: Most bytes held of them, where they give bytes.
        fold_debt_bytes_max: Committed changes that are not folded into rows stop intake when they pass this. A flow
            that changes more than can be folded would let its file, and the time of a start, grow for ever.
        message_bytes_max: Records above this size are refused before they are decoded.
        channel_fragments: Capacity of the channels between operators.
        fragment_rows_max: Most records in one micro-batch, and rows in one fragment of it.
        dead_letters_max: Most dead letters in the store; one more stops the flow.
        detached_max: Most inputs of a detached step whose calls are not done; then no more records are taken.
        reopen_max: Longest wait between two attempts to open a connector again, or to restart; the first is 100 ms, and
            each is twice as long as the one before.
        stop_timeout: How long a stop waits for sinks to publish what is committed; the rest waits in the store.
        blocked_after: A step that keeps the event loop for longer is named; 0 names none.
        restarts_max: After this many restarts without a commit between them the flow stops.
        timers_after_backlog: Processing-time timers wait, after each start, until every source has been read up to
            the end that it had when it was opened; else what is due fires at once.
        trace_context: Pass W3C trace context on from the headers of records to those of what is made of them.
        plain: Run the plain executor instead of generated loops, for debugging.
    """

    commit_min: Duration = "10ms"
    commit_max: Duration = "1s"
    checkpoint_share: float = 0.05
    epoch_records_max: int = 1_000_000
    epoch_bytes_max: int = 64 * 1024 * 1024
    chunk_bytes: int = 1024 * 1024
    outbox_bytes_max: int = 256 * 1024 * 1024
    outbox_memory_bytes_max: int = 32 * 1024 * 1024
    intake_records_max: int = 8192
    intake_bytes_max: int = 32 * 1024 * 1024
    held_records_max: int = 65_536
    held_bytes_max: int = 64 * 1024 * 1024
    fold_debt_bytes_max: int = 256 * 1024 * 1024
    message_bytes_max: int = 8 * 1024 * 1024
    channel_fragments: int = 2
    fragment_rows_max: int = FRAGMENT_ROWS_MAX
    dead_letters_max: int = 10_000
    detached_max: int = 10_000
    reopen_max: Duration = "5s"
    stop_timeout: Duration = "30s"
    blocked_after: Duration = "100ms"
    restarts_max: int = 10
    timers_after_backlog: bool = True
    trace_context: bool = True
    plain: bool = False

    def __post_init__(self) -> None:
        for name in ("commit_min", "commit_max", "reopen_max", "stop_timeout", "blocked_after"):
            duration_ms(getattr(self, name))
        if not duration_ms(self.reopen_max):
            raise SettingsError(f"reopen_max is {self.reopen_max}", hint="Give a duration above 0.")
        if not 0 < self.checkpoint_share <= 1:
            raise SettingsError(f"checkpoint_share is {self.checkpoint_share}", hint="Give a share above 0, up to 1.")
        for name in (
            "epoch_records_max",
            "epoch_bytes_max",
            "chunk_bytes",
            "outbox_bytes_max",
            "outbox_memory_bytes_max",
            "intake_records_max",
            "intake_bytes_max",
            "held_records_max",
            "held_bytes_max",
            "fold_debt_bytes_max",
            "message_bytes_max",
            "channel_fragments",
            "fragment_rows_max",
            "restarts_max",
            "dead_letters_max",
            "detached_max",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}", hint="Give a number above 0.")

    def reopen_seconds(self, attempt: int) -> float:
        """The wait before an attempt to open a connector again, or to restart.

        Args:
            attempt: How many there were before it, since it last was of use.
        """
        return min(math.ldexp(REOPEN_SECONDS, min(attempt, REOPEN_DOUBLINGS_MAX)), duration_ms(self.reopen_max) / 1000)
