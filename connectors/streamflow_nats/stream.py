"""A JetStream stream as the flow holds it: settings of a source and a sink, typed, without any I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from streamflow.codecs import Codec, codec_for
from streamflow.connect.contracts import Guarantee, Level, Sink, SinkOptions, Source
from streamflow.errors import DefinitionError, SettingsError
from streamflow_nats.settings import Limits, Mode, Nats, Start
from streamflow_nats.subjects import check_name, check_pattern, is_literal

T = TypeVar("T")

_SOURCE: Final = Guarantee(
    Level.EXACTLY_ONCE,
    "the stream is read again from the position in the checkpoint; work-queue and interest streams are acknowledged "
    "after it, and what comes again is known by its id",
)
_SINKS: Final[dict[Mode, Guarantee]] = {
    "chain": Guarantee(
        Level.EXACTLY_ONCE,
        "every message names the stream sequence it must follow, so it can land once only, and only while nobody else "
        "writes; needs sync_interval: always on the server to hold after a power loss",
    ),
    "batch": Guarantee(
        Level.EXACTLY_ONCE,
        "each atomic batch moves a marker on, which only the newest instance can; needs sync_interval: always on the "
        "server to hold after a power loss",
    ),
    "msgid": Guarantee(
        Level.AT_LEAST_ONCE,
        "the server forgets message ids after the stream's duplicate window: what is published again later is doubled",
    ),
}


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What `Nats.stream` was given; checked when made. See there for the arguments."""

    name: str
    subject: str = ""
    start: Start = "earliest"
    mode: Mode = "chain"
    durable: str = ""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_name(self.name, "stream")
        if self.subject:
            check_pattern(self.subject)
        if self.durable:
            check_name(self.durable, "consumer")
        if self.start not in ("earliest", "latest"):
            raise SettingsError(f"start={self.start!r} is unknown", hint='Use "earliest" or "latest".')
        if self.mode not in _SINKS:
            raise SettingsError(f"mode={self.mode!r} is unknown", hint='Use "chain", "batch" or "msgid".')


class NatsStream(Generic[T]):
    """One JetStream stream, as source and as sink.

    GUARANTEE: see ``guarantee`` and ``sink_guarantee``. BOUND: the limits given to `Nats.stream`.
    """

    __slots__ = ("_codec", "nats", "settings")

    def __init__(self, nats: Nats, settings: StreamSettings, value: type[T] | Codec[T]) -> None:
        self.nats = nats
        self.settings = settings
        self._codec = codec_for(value)

    @property
    def name(self) -> str:
        """What it is called in a flow that does not name it."""
        return self.settings.name

    @property
    def codec(self) -> Codec[T]:
        """Decodes payloads."""
        return self._codec

    @property
    def guarantee(self) -> Guarantee:
        """What the source gives."""
        return _SOURCE

    @property
    def sink_guarantee(self) -> Guarantee:
        """What the sink gives."""
        return _SINKS[self.settings.mode]

    @property
    def target(self) -> str:
        """The stream and its server in chain mode, which bears one writer only; else empty."""
        return f"{self.nats}/{self.settings.name}" if self.settings.mode == "chain" else ""

    def accepts(self, value: T, /) -> None:
        """Carries the type of what may be written, for type checkers; never called."""

    def describe(self) -> str:
        """Says what is read or written: ``nats stream PAY (payments.>)``."""
        subject = f" ({self.settings.subject})" if self.settings.subject else ""
        return f"nats stream {self.settings.name}{subject}"

    def __repr__(self) -> str:
        return f"<{self.describe()} at {self.nats}>"

    def source(self) -> Source:
        """Makes an unopened source."""
        from streamflow_nats.source import NatsSource

        return NatsSource(self.nats, self.settings, self.guarantee)

    def sink(self, options: SinkOptions) -> Sink:
        """Makes an unopened sink.

        Raises:
            DefinitionError: ``partition=`` is given, or the subject has wildcards and no ``subject=`` is given.
        """
        from streamflow_nats.atomic import AtomicSink
        from streamflow_nats.chain import ChainSink
        from streamflow_nats.msgid import MessageIdSink

        if options.partition is not None:
            raise DefinitionError(
                f"{self.describe()} has no partitions", hint="Use to(..., subject=...) to choose a subject."
            )
        if options.subject is None and self.settings.subject and not is_literal(self.settings.subject):
            raise DefinitionError(
                f"{self.describe()} names more than one subject to publish on",
                hint="Use nats.stream(..., subject=) without wildcards, or to(..., subject=lambda record: ...).",
            )
        kinds: dict[Mode, Any] = {"chain": ChainSink, "batch": AtomicSink, "msgid": MessageIdSink}
        sink: Sink = kinds[self.settings.mode](self.nats, self.settings, self.codec, options, self.sink_guarantee)
        return sink
