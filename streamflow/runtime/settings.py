"""Settings: every named limit and pace of a running flow."""

from __future__ import annotations

from dataclasses import dataclass

from streamflow.batch import FRAGMENT_ROWS_MAX
from streamflow.clock import Duration, duration_ms
from streamflow.errors import SettingsError


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
        message_bytes_max: Records above this size are refused before they are decoded.
        channel_fragments: Capacity of the channels between operators.
        fragment_rows_max: Most records in one micro-batch, and rows in one fragment of it.
        dead_letters_max: Most dead letters in the store; one more stops the flow.
        detached_max: Most inputs of a detached step whose calls are not done; then no more records are taken.
        stop_timeout: How long a stop waits for sinks to publish what is committed; the rest waits in the store.
        blocked_after: A step that keeps the event loop for longer is named; 0 names none.
        restarts_max: After this many restarts without a commit between them the flow stops.
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
    message_bytes_max: int = 8 * 1024 * 1024
    channel_fragments: int = 2
    fragment_rows_max: int = FRAGMENT_ROWS_MAX
    dead_letters_max: int = 10_000
    detached_max: int = 10_000
    stop_timeout: Duration = "30s"
    blocked_after: Duration = "100ms"
    restarts_max: int = 10
    trace_context: bool = True
    plain: bool = False

    def __post_init__(self) -> None:
        for name in ("commit_min", "commit_max", "stop_timeout", "blocked_after"):
            duration_ms(getattr(self, name))
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
            "message_bytes_max",
            "channel_fragments",
            "fragment_rows_max",
            "restarts_max",
            "dead_letters_max",
            "detached_max",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}", hint="Give a number above 0.")
