"""An exchange as the flow holds it: settings of a sink, typed, without any I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from streamflow.codecs import Codec, codec_for
from streamflow.connect.contracts import Guarantee, Sink, SinkOptions
from streamflow.errors import SettingsError
from streamflow_rabbitmq.declare import ExchangeDeclaration
from streamflow_rabbitmq.queue import SINKS, SinkMode, check_mode, make_sink
from streamflow_rabbitmq.settings import Limits, RabbitMQ, check_name

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """What `RabbitMQ.exchange` was given; checked when made. See there for the arguments."""

    name: str
    routing_key: str = ""
    mode: SinkMode = "confirm"
    declare: ExchangeDeclaration | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_name(self.name, "exchange")
        check_name(self.routing_key, "routing key", empty=True)
        check_mode(self.mode)
        if self.declare is not None and not isinstance(self.declare, ExchangeDeclaration):
            raise SettingsError(
                "declare= of an exchange is no ExchangeDeclaration", hint='Say ExchangeDeclaration("topic").'
            )


class RabbitExchange(Generic[T]):
    """One exchange, as sink.

    GUARANTEE: see ``sink_guarantee``. BOUND: the limits given to `RabbitMQ.exchange`.
    """

    __slots__ = ("_codec", "rabbit", "settings")

    def __init__(self, rabbit: RabbitMQ, settings: ExchangeSettings, value: type[T] | Codec[T]) -> None:
        self.rabbit = rabbit
        self.settings = settings
        self._codec = codec_for(value)

    @property
    def name(self) -> str:
        """What it is called in a flow that does not name it."""
        return self.settings.name

    @property
    def sink_guarantee(self) -> Guarantee:
        """What the sink gives."""
        return SINKS[self.settings.mode]

    @property
    def target(self) -> str:
        """Empty: an exchange takes messages from any number of writers."""
        return ""

    def accepts(self, value: T, /) -> None:
        """Carries the type of what may be written, for type checkers; never called."""

    def describe(self) -> str:
        """Says what is written to: ``rabbitmq exchange alerts (eu.*)``."""
        key = f" ({self.settings.routing_key})" if self.settings.routing_key else ""
        return f"rabbitmq exchange {self.settings.name}{key}"

    def __repr__(self) -> str:
        return f"<{self.describe()} at {self.rabbit}>"

    def sink(self, options: SinkOptions) -> Sink:
        """Makes an unopened sink.

        Raises:
            DefinitionError: ``partition=`` is given.
        """
        from streamflow_rabbitmq.sink import Target

        settings = self.settings
        target = Target(settings.name, settings.routing_key, settings.declare, settings.limits)
        return make_sink(self.rabbit, target, self._codec, options, settings.mode)
