"""Instrument: how the engine tells what it does; observers plug in from above, nothing is imported here."""

from __future__ import annotations


class Instrument:
    """Receives what happens in a shard. Every method does nothing; override those you want.

    GUARANTEE: called on the event loop, never per record; an instrument must not raise and must not block.
    """

    def started(self, epoch: int, generation: int) -> None:
        """A shard is processing, from this checkpoint on."""

    def number(self, number: int, records: int) -> None:
        """Intake formed a micro-batch."""

    def watermark(self, sources: str, at_us: int) -> None:
        """The watermark of a source, or of several that a step goes by (names joined by ``+``), has moved at intake."""

    def step_watermark(self, step: str, at_us: int) -> None:
        """Event time has moved at a step that goes by it: what lies before has been acted on."""

    def late(self, step: str, records: int) -> None:
        """So many records of a number were late for a window step; they are in its stream ``late``."""

    def released_early(self, sources: str, records: int) -> None:
        """Records of sources that are read in the order of event time (names joined by ``+``) did not wait for it.

        They were held for ``hold_max``, or there was no room; others may follow that belong in front of them.
        """

    def skipped(self, step: str, place: str, error: Exception) -> None:
        """A step with policy ``skip`` raised; the record at ``place`` was counted and left out."""

    def dead_letter(self, kind: str, name: str, error: str) -> None:
        """A step, source or sink with policy ``dead_letter`` refused a record; its commit will keep it."""

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        """An epoch is durable."""

    def published(self, sink: str, epoch: int, next_seq: int) -> None:
        """A sink's broker confirmed everything up to here."""

    def connector_failed(self, kind: str, name: str, error: Exception, retry_in_seconds: float) -> None:
        """A source or sink failed and will be reopened."""

    def restarting(self, error: Exception, retry_in_seconds: float) -> None:
        """The shard goes back to its checkpoint."""

    def blocked(self, step: str, line: str, seconds: float) -> None:
        """A step kept the event loop from everybody else for so long, so far; ``line`` says what it was at."""

    def stalled(self, reason: str) -> None:
        """Intake stopped taking records, for example because a sink's outbox is full."""
