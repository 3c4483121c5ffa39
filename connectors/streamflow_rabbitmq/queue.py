"""A queue as the flow holds it: settings of a source and of a sink, typed, without any I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

from streamflow.codecs import Codec, codec_for
from streamflow.connect.contracts import Guarantee, Level, Sink, SinkOptions, Source
from streamflow.errors import DefinitionError, SettingsError
from streamflow_rabbitmq.declare import QueueDeclaration
from streamflow_rabbitmq.ids import IdFrom, check_id_from
from streamflow_rabbitmq.settings import Limits, RabbitMQ, check_name

T = TypeVar("T")

Readers = Literal["exclusive", "single_active", "shared"]
SinkMode = Literal["confirm", "tx"]

SINKS: Final[dict[SinkMode, Guarantee]] = {
    "confirm": Guarantee(
        Level.EFFECTIVELY_ONCE,
        "every message is confirmed, and what is published twice after a crash has the same message_id: exactly-once "
        "for consumers that remember ids, as rabbit.queue(...) does as a source",
    ),
    "tx": Guarantee(
        Level.EFFECTIVELY_ONCE,
        "a transaction moves a marker on with its messages, so nothing is doubled when this process dies; RabbitMQ "
        "does not promise that its transactions are atomic when the broker dies, and then message_id tells doubles",
    ),
}
_IDS: Final = {
    "message_id": "the message_id that producers set",
    "digest": "a digest of its body: exact only if no two bodies are equal, for the second counts as the first",
}


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What `RabbitMQ.queue` was given; checked when made. See there for the arguments."""

    name: str
    id_from: IdFrom = "message_id"
    readers: Readers = "exclusive"
    mode: SinkMode = "confirm"
    declare: QueueDeclaration | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_name(self.name, "queue")
        check_id_from(self.id_from)
        check_mode(self.mode)
        if self.readers not in ("exclusive", "single_active", "shared"):
            raise SettingsError(
                f"readers={self.readers!r} is unknown", hint='Use "exclusive", "single_active" or "shared".'
            )
        if self.declare is not None and not isinstance(self.declare, QueueDeclaration):
            raise SettingsError("declare= of a queue is no QueueDeclaration", hint='Say QueueDeclaration("quorum").')
        if self.declare is not None and self.declare.single_active_consumer and self.readers == "exclusive":
            raise SettingsError(
                f"queue {self.name} is declared with a single active consumer, which refuses exclusive ones",
                hint='Say readers="single_active".',
            )

    def source_guarantee(self) -> Guarantee:
        """What a source on this queue gives, and why."""
        if self.id_from is None:
            return Guarantee(
                Level.AT_LEAST_ONCE,
                "messages have no id here (id_from=None): one whose acknowledgement was lost is taken again",
            )
        if self.readers == "shared":
            return Guarantee(
                Level.AT_LEAST_ONCE,
                "consumers compete: a message that this flow has committed may be given to another one when its "
                "acknowledgement is lost; and order is lost",
            )
        known = _IDS[self.id_from] if isinstance(self.id_from, str) else "what id_from= gives"
        order = "one reader, in order" if self.readers == "exclusive" else "one active reader at a time, in order"
        return Guarantee(
            Level.EXACTLY_ONCE,
            f"acknowledged after the commit; what comes again is known by {known}, of which the last million are "
            f"remembered; {order}",
        )


def check_mode(mode: str) -> None:
    """Refuses an unknown mode of a sink.

    Raises:
        SettingsError: It is none.
    """
    if mode not in SINKS:
        raise SettingsError(f"mode={mode!r} is unknown", hint='Use "confirm" or "tx".')


class RabbitQueue(Generic[T]):
    """One queue, as source, and as sink through the default exchange.

    GUARANTEE: see ``guarantee`` and ``sink_guarantee``. BOUND: the limits given to `RabbitMQ.queue`.
    """

    __slots__ = ("_codec", "rabbit", "settings")

    def __init__(self, rabbit: RabbitMQ, settings: QueueSettings, value: type[T] | Codec[T]) -> None:
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
        return self.settings.source_guarantee()

    @property
    def sink_guarantee(self) -> Guarantee:
        """What the sink gives."""
        return SINKS[self.settings.mode]

    @property
    def target(self) -> str:
        """Empty: a queue takes messages from any number of writers."""
        return ""

    def accepts(self, value: T, /) -> None:
        """Carries the type of what may be written, for type checkers; never called."""

    def describe(self) -> str:
        """Says what is read or written: ``rabbitmq queue orders``."""
        return f"rabbitmq queue {self.settings.name}"

    def __repr__(self) -> str:
        return f"<{self.describe()} at {self.rabbit}>"

    def source(self) -> Source:
        """Makes an unopened source."""
        from streamflow_rabbitmq.source import QueueSource

        return QueueSource(self.rabbit, self.settings, self.guarantee)

    def sink(self, options: SinkOptions) -> Sink:
        """Makes an unopened sink.

        Raises:
            DefinitionError: ``partition=`` or ``subject=`` is given.
        """
        from streamflow_rabbitmq.sink import Target

        if options.subject is not None:
            raise DefinitionError(
                f"{self.describe()} is one queue, and subject= would choose others",
                hint="Publish to an exchange: to(rabbit.exchange(...), subject=...).",
            )
        settings = self.settings
        target = Target("", settings.name, settings.declare, settings.limits)
        return make_sink(self.rabbit, target, self._codec, options, settings.mode)


def make_sink(rabbit: RabbitMQ, target: Any, codec: Codec[Any], options: SinkOptions, mode: SinkMode) -> Sink:
    """Makes an unopened sink of a mode.

    Raises:
        DefinitionError: ``partition=`` is given.
    """
    from streamflow_rabbitmq.confirming import ConfirmSink
    from streamflow_rabbitmq.transactional import TransactionSink

    if options.partition is not None:
        raise DefinitionError(
            f"rabbitmq {target} has no partitions", hint="Use to(rabbit.exchange(...), subject=...) to route."
        )
    kind = ConfirmSink if mode == "confirm" else TransactionSink
    return kind(rabbit, target, codec, options, SINKS[mode])
