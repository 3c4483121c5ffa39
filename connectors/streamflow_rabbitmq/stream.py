"""A stream or super stream as the flow holds it: settings of a source and a sink, typed, without any I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

from streamflow.codecs import Codec, codec_for
from streamflow.connect.contracts import Guarantee, Level, Sink, SinkOptions, Source
from streamflow.errors import DefinitionError, SettingsError
from streamflow_rabbitmq.settings import Limits, RabbitMQ, check_name

T = TypeVar("T")
Start = Literal["earliest", "latest"]

_SOURCE: Final = Guarantee(
    Level.EXACTLY_ONCE,
    "the stream is read again from the offset in the checkpoint; its first and last offset and its first chunk say "
    "whether it is still the same",
)
_SINK: Final = Guarantee(
    Level.EXACTLY_ONCE,
    "the stream remembers the last number published under this sink's name and drops what comes again, without limit "
    "of time; a lock keeps older instances out. If the flow fails over on a copy of its store while the old process "
    "has committed other results, the stream keeps whichever came first",
)
_SUPER_SINK: Final = Guarantee(
    Level.EXACTLY_ONCE,
    "each partition remembers the last number published under this sink's name and drops what comes again, without "
    "limit of time; a lock keeps older instances out. If the flow fails over on a copy of its store while the old "
    "process has committed other results, each partition keeps whichever came first",
)


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What `RabbitMQ.stream` and `RabbitMQ.super_stream` were given; checked when made. See there for the arguments."""

    name: str
    partitioned: bool = False
    start: Start = "earliest"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_name(self.name, "stream")
        if self.start not in ("earliest", "latest"):
            raise SettingsError(f"start={self.start!r} is unknown", hint='Use "earliest" or "latest".')

    def describe(self) -> str:
        """Says what is read or written: ``rabbitmq stream PAY``."""
        return f"rabbitmq {'super stream' if self.partitioned else 'stream'} {self.name}"


class RabbitStream(Generic[T]):
    """One stream, or a super stream, as source and as sink.

    GUARANTEE: see ``guarantee`` and ``sink_guarantee``. BOUND: the limits given to `RabbitMQ.stream`.
    """

    __slots__ = ("_codec", "rabbit", "settings")

    writes_keys: ClassVar[bool] = True
    """A keyed stream's key goes into the message."""

    def __init__(self, rabbit: RabbitMQ, settings: StreamSettings, value: type[T] | Codec[T]) -> None:
        self.rabbit = rabbit
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
        return _SUPER_SINK if self.settings.partitioned else _SINK

    @property
    def target(self) -> str:
        """Empty: others may write to the same stream."""
        return ""

    def accepts(self, value: T, /) -> None:
        """Carries the type of what may be written, for type checkers; never called."""

    def describe(self) -> str:
        """Says what is read or written: ``rabbitmq stream PAY``."""
        return self.settings.describe()

    def __repr__(self) -> str:
        return f"<{self.describe()} at {self.rabbit}>"

    def source(self) -> Source:
        """Makes an unopened source."""
        from streamflow_rabbitmq.streams.source import StreamSource

        return StreamSource(self.rabbit, self.settings, self.guarantee)

    def sink(self, options: SinkOptions) -> Sink:
        """Makes an unopened sink.

        Raises:
            DefinitionError: ``subject=`` is given, or ``partition=`` for what has no partitions.
        """
        from streamflow_rabbitmq.streams.sink import StreamSink
        from streamflow_rabbitmq.streams.super_sink import SuperStreamSink

        self._check(options)
        kind = SuperStreamSink if self.settings.partitioned else StreamSink
        return kind(self.rabbit, self.settings, self.codec, options, self.sink_guarantee)

    def row_encoder(self, options: SinkOptions) -> Callable[[Any], bytes] | None:
        """A function from value to frame, where that needs nothing but the value: no key, no headers, no partition."""
        from streamflow_rabbitmq.streams.frames import plain_encoder

        self._check(options)
        if self.settings.partitioned or options.key is not None or options.headers is not None:
            return None
        return plain_encoder(self.codec)

    def _check(self, options: SinkOptions) -> None:
        if options.subject is not None:
            raise DefinitionError(
                f"{self.describe()} has no routing keys", hint="Use key= of to(...), or partition= on a super stream."
            )
        if options.partition is not None and not self.settings.partitioned:
            raise DefinitionError(
                f"{self.describe()} has no partitions", hint="Use rabbit.super_stream(...), or leave partition= out."
            )
