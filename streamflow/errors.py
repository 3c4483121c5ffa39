"""Every error that streamflow raises on purpose, as one tree.

    StreamflowError
    ├── DefinitionError            the flow as written cannot run
    ├── SettingsError              a setting, path or address is wrong
    │   └── MissingExtraError      an optional dependency is not installed
    ├── ConnectorError             a broker or file said no
    │   ├── Unavailable            it may work again later: retried with back-off
    │   ├── NotFound               a stream, topic, queue or file does not exist
    │   ├── CircuitOpen            a resource is left alone after failures
    │   ├── RecordRejected         the broker refuses one record for good
    │   └── Refusal                the world went back or ahead: going on could lose or double records
    │       ├── RetentionGap       records after the stored position are gone
    │       ├── PositionAhead      the stored position lies behind the broker's end
    │       ├── SourceReplaced     the stream or file is not the one that was read before
    │       ├── SinkAhead          the broker holds more than this store ever published
    │       ├── ForeignWriter      somebody else writes where this sink must be alone
    │       ├── ProgressUnknown    the broker cannot tell what arrived
    │       └── Fenced             a newer instance of this sink or store has taken over
    ├── StateError                 the state file
    │   ├── StateLockedError       another process holds it
    │   ├── IncompatibleStateError the flow changed and the state did not
    │   ├── CorruptStateError      its content fails a check
    │   └── EpochWentBack          it is older than its witness says
    ├── CheckpointError            an epoch could not be committed
    ├── StepError                  user code raised, with the exact place
    │   ├── DecodeError            a record's bytes could not be decoded
    │   ├── EncodeError            a value cannot be encoded
    │   │   └── FoundLate          in state or for a sink, found after the call that made it
    │   ├── StepTimeout            a call of an async step took longer than it may
    │   └── StateFull              a step holds as many keys or items as it may
    └── DeterminismError           the same input gave another result

Each error carries ``hint``, the way out in one sentence, and ``exit_code``, what the command line returns.
"""

from __future__ import annotations


class StreamflowError(Exception):
    """Base of all errors of this library.

    Args:
        message: What failed and where, in one sentence.
        hint: What to do about it, in one sentence; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(hint)

    def __str__(self) -> str:
        return self.message


class DefinitionError(StreamflowError):
    """The flow as it is written cannot run, or cannot keep the guarantee asked for."""

    exit_code = 3


class SettingsError(StreamflowError):
    """A setting, a path or an address is wrong."""

    exit_code = 3


class MissingExtraError(SettingsError):
    """An optional dependency is not installed; the message names the extra."""


class ConnectorError(StreamflowError):
    """A broker or a file refused what was asked of it."""

    exit_code = 4


class Unavailable(ConnectorError):
    """The other side cannot be reached or answered with a passing fault: the engine retries with back-off."""


class NotFound(ConnectorError):
    """The stream, topic, queue or file does not exist."""


class CircuitOpen(ConnectorError):
    """A resource has failed several times in a row and is left alone for a while."""


class RecordRejected(ConnectorError):
    """The broker refuses one record for good.

    Args:
        seq: The record's sequence number in its sink.
        message: Why it was refused.
        hint: The way out.
    """

    def __init__(self, seq: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.seq = seq


class Refusal(ConnectorError):
    """Going on could lose or double records, so the flow stops and says what it found."""

    exit_code = 5


class RetentionGap(Refusal):
    """Records after the stored position were deleted before they were read."""


class PositionAhead(Refusal):
    """The stored position lies beyond the end of the source."""


class SourceReplaced(Refusal):
    """The source was deleted and made again under the same name."""


class SinkAhead(Refusal):
    """The sink holds records of this flow that the store never published: the store is an older copy."""


class ForeignWriter(Refusal):
    """Another writer's records stand where this sink's own were expected."""


class ProgressUnknown(Refusal):
    """What the sink holds cannot be told, and guessing could lose or double records."""


class Fenced(Refusal):
    """A newer instance has taken over; this one must not write any more."""


class StateError(StreamflowError):
    """The state file cannot be used."""

    exit_code = 5


class StateLockedError(StateError):
    """Another process holds the state file."""


class IncompatibleStateError(StateError):
    """The flow's steps, keys or types no longer fit what the state file holds."""


class CorruptStateError(StateError):
    """The state file's content fails a check."""


class EpochWentBack(StateError):
    """The state file is older than its witness says, or the witness is missing."""


class CheckpointError(StreamflowError):
    """An epoch could not be committed; nothing of it was published."""

    exit_code = 5


class StepError(StreamflowError):
    """User code raised; the message names step, source, partition, position and key.

    Args:
        message: What failed and where.
        step: Name of the step.
        hint: The way out.
    """

    exit_code = 1

    def __init__(self, message: str, *, step: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.step = step


class StepTimeout(StepError, TimeoutError):
    """A call of an async step took longer than its ``timeout`` or ``deadline``."""


class DecodeError(StepError):
    """A record's bytes could not be decoded."""


class EncodeError(StepError):
    """A value cannot be encoded, or does not survive encoding and decoding."""


class FoundLate(EncodeError):
    """State or an output that cannot be encoded, found after the call: a careful life looks for its record."""


class StateFull(StepError):
    """A step holds as many keys as its ``max_keys``, or one key as many items as their ``max_items``, allows."""


class DeterminismError(StreamflowError):
    """The same input gave another result."""
