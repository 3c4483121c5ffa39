"""Kafka topics as the flow holds them: settings of a source and a sink, typed, without any I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from streamflow.codecs import Codec, codec_for
from streamflow.connect.contracts import Guarantee, Level, Sink, SinkOptions, Source
from streamflow.errors import DefinitionError, MissingExtraError, SettingsError
from streamflow_kafka.settings import Kafka, Options, Start

T = TypeVar("T")

_SOURCE: Final = Guarantee(
    Level.EXACTLY_ONCE,
    "every partition is read again from the position in the checkpoint, committed records only; the offsets that the "
    "group is told are never read back",
)
_SINK: Final = Guarantee(
    Level.EXACTLY_ONCE,
    "records and a marker of the last epoch become visible in one transaction, which only the newest instance can "
    "commit; for consumers that read committed records",
)
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


def check_topic(name: str) -> None:
    """Refuses what is no topic's name.

    Raises:
        SettingsError: It is not.
    """
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise SettingsError(
            f"{name!r} is no legal topic name",
            hint="A topic's name has up to 249 letters, digits, dots, underscores and hyphens.",
        )


def need_client() -> None:
    """Refuses to go on without aiokafka; importing it here takes time only once.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import aiokafka
    except ImportError:
        raise MissingExtraError(
            "streamflow_kafka needs aiokafka, which is not installed",
            hint='Install the extra: pip install "streamflow-asyncio[kafka]".',
        ) from None
    del aiokafka


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What `Kafka.topic` or `Kafka.topics` was given; checked when made. See there for the arguments."""

    names: tuple[str, ...]
    pattern: str = ""
    start: Start = "earliest"
    nulls: bool = False
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        for name in self.names:
            check_topic(name)
        if bool(self.names) == bool(self.pattern):
            raise SettingsError(
                "kafka.topics takes either names or a pattern", hint='Use topics("a", "b") or topics(pattern="a-.*").'
            )
        if len(set(self.names)) < len(self.names):
            raise SettingsError("a topic is named twice", hint="Name each topic once.")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise SettingsError(
                f"pattern={self.pattern!r} is no regular expression: {error}", hint='For example: "orders-.*".'
            ) from None
        if self.start not in ("earliest", "latest"):
            raise SettingsError(f"start={self.start!r} is unknown", hint='Use "earliest" or "latest".')


class KafkaTopics(Generic[T]):
    """Several topics as one source; a partition of it is called ``<topic>:<number>``.

    GUARANTEE: see ``guarantee``. BOUND: the options given to `Kafka.topics`.
    """

    __slots__ = ("_codec", "kafka", "settings")

    def __init__(self, kafka: Kafka, settings: TopicSettings, value: type[T] | Codec[T]) -> None:
        self.kafka = kafka
        self.settings = settings
        self._codec = codec_for(value)

    @property
    def name(self) -> str:
        """What it is called in a flow that does not name it."""
        return "+".join(self.settings.names) or self.settings.pattern

    @property
    def codec(self) -> Codec[T]:
        """Decodes values; a null is never given to it."""
        return self._codec

    @property
    def nulls(self) -> bool:
        """Whether records without a value are values None."""
        return self.settings.nulls

    @property
    def guarantee(self) -> Guarantee:
        """What the source gives."""
        return _SOURCE

    def describe(self) -> str:
        """Says what is read or written: ``kafka topic orders``."""
        names = self.settings.names
        if not names:
            return f"kafka topics like {self.settings.pattern}"
        return f"kafka {'topics' if len(names) > 1 else 'topic'} {', '.join(names)}"

    def __repr__(self) -> str:
        return f"<{self.describe()} at {self.kafka}>"

    def source(self) -> Source:
        """Makes an unopened source.

        Raises:
            MissingExtraError: aiokafka is not installed.
        """
        need_client()
        from streamflow_kafka.source import KafkaSource

        return KafkaSource(self.kafka, self.settings, self.guarantee)


class KafkaTopic(KafkaTopics[T]):
    """One topic, as source and as sink.

    GUARANTEE: see ``guarantee`` and ``sink_guarantee``. BOUND: the options given to `Kafka.topic`.
    """

    __slots__ = ()

    @property
    def sink_guarantee(self) -> Guarantee:
        """What the sink gives."""
        return _SINK

    @property
    def target(self) -> str:
        """Empty: a topic bears any number of writers."""
        return ""

    def accepts(self, value: T, /) -> None:
        """Carries the type of what may be written, for type checkers; never called."""

    def sink(self, options: SinkOptions) -> Sink:
        """Makes an unopened sink.

        Raises:
            DefinitionError: ``subject=`` is given.
            MissingExtraError: aiokafka is not installed.
        """
        need_client()
        from streamflow_kafka.sink import KafkaSink

        if options.subject is not None:
            raise DefinitionError(
                f"{self.describe()} has no subjects", hint="Use to(..., key=...) or to(..., partition=...)."
            )
        return KafkaSink(self.kafka, self.settings, self.codec, options, self.sink_guarantee)
