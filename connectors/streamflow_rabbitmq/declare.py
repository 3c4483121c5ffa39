"""Queues, exchanges, bindings: looked at, never changed; made only where the flow's author says what they shall be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from streamflow.errors import ConnectorError, SettingsError
from streamflow_rabbitmq.link import Link, explain

Argument = str | int | bool
"""Value of an argument with which a queue or an exchange is declared."""

Bindings = Mapping[str, Sequence[str]]
"""What is bound to what is declared: by name of the other end the routing keys; ``[""]`` where those do not matter."""

_EXCHANGES: Final = ("direct", "fanout", "topic", "headers")


@dataclass(frozen=True, slots=True)
class QueueDeclaration:
    """What a queue shall be, where the flow may make it; always durable.

    Args:
        kind: ``classic`` or ``quorum``.
        single_active_consumer: One of its consumers at a time gets messages.
        arguments: More arguments: ``{"x-max-length": 1000}``.
        bindings: By exchange the routing keys whose messages shall come into the queue: ``{"orders": ["eu.*"]}``.
    """

    kind: Literal["classic", "quorum"] = "quorum"
    single_active_consumer: bool = False
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    bindings: Bindings = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ("classic", "quorum"):
            raise SettingsError(f"kind={self.kind!r} is unknown", hint='Use "classic" or "quorum".')
        _check_bindings(self.bindings)

    def table(self) -> dict[str, Argument]:
        """The arguments as they are declared."""
        own: dict[str, Argument] = {"x-queue-type": self.kind}
        if self.single_active_consumer:
            own["x-single-active-consumer"] = True
        return {**own, **self.arguments}


@dataclass(frozen=True, slots=True)
class ExchangeDeclaration:
    """What an exchange shall be, where the flow may make it; always durable.

    Args:
        kind: ``direct``, ``fanout``, ``topic`` or ``headers``.
        arguments: More arguments: ``{"alternate-exchange": "rest"}``.
        bindings: By queue the routing keys whose messages shall go there: ``{"europe": ["eu.*"]}``.
    """

    kind: Literal["direct", "fanout", "topic", "headers"] = "topic"
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    bindings: Bindings = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in _EXCHANGES:
            raise SettingsError(f"kind={self.kind!r} is unknown", hint=f"Use one of {', '.join(_EXCHANGES)}.")
        _check_bindings(self.bindings)


def _check_bindings(bindings: Bindings) -> None:
    for name, keys in bindings.items():
        if isinstance(keys, str) or not keys:
            raise SettingsError(
                f"bindings={{{name!r}: {keys!r}}} is no list of routing keys", hint='Say bindings={"name": ["key"]}.'
            )


async def queue_there(link: Link, name: str, declaration: QueueDeclaration | None) -> Mapping[str, str]:
    """Checks that a queue is there, or makes it, and its bindings, as it was declared.

    Returns:
        What was seen of it, for people.

    Raises:
        NotFound: There is none.
        ConnectorError: It is another one than declared, or the broker refuses it.
    """
    from streamflow_rabbitmq.client import aiormq

    try:
        async with link.questions(f"queue {name}") as channel:
            if declaration is None:
                found = await link.ask(channel.queue_declare(name, passive=True))
            else:
                found = await link.ask(channel.queue_declare(name, durable=True, arguments={**declaration.table()}))
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        raise _other(f"queue {name}", link, error) from None
    except aiormq.exceptions.ChannelLockedResource as error:
        raise ConnectorError(
            f"queue {name} at {link.rabbit} belongs to another connection alone: {explain(error)}",
            hint="It is an exclusive queue; name one that others may use.",
        ) from None
    for exchange, keys in declaration.bindings.items() if declaration is not None else ():
        await _bound(link, f"exchange {exchange}", name, exchange, keys)
    return {"messages": str(found.message_count), "consumers": str(found.consumer_count)}


async def exchange_there(link: Link, name: str, declaration: ExchangeDeclaration | None) -> None:
    """Checks that an exchange is there, or makes it, and its bindings, as it was declared.

    Raises:
        NotFound: There is none.
        ConnectorError: It is another one than declared, or the broker refuses it.
    """
    from streamflow_rabbitmq.client import aiormq

    try:
        async with link.questions(f"exchange {name}") as channel:
            if declaration is None:
                await link.ask(channel.exchange_declare(name, passive=True))
            else:
                kind, arguments = declaration.kind, {**declaration.arguments}
                call = channel.exchange_declare(name, exchange_type=kind, durable=True, arguments=arguments)
                await link.ask(call)
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        raise _other(f"exchange {name}", link, error) from None
    for queue, keys in declaration.bindings.items() if declaration is not None else ():
        await _bound(link, f"queue {queue}", queue, name, keys)


async def _bound(link: Link, other_end: str, queue: str, exchange: str, keys: Iterable[str]) -> None:
    """Makes bindings that are missing; those that are there stay as they are, and others too.

    Raises:
        NotFound: The other end is not there.
    """
    async with link.questions(other_end) as channel:
        for key in keys:
            await link.ask(channel.queue_bind(queue, exchange, routing_key=key))


def _other(what: str, link: Link, error: Exception) -> ConnectorError:
    return ConnectorError(
        f"{what} at {link.rabbit} is not what declare= says: {explain(error)}",
        hint="Correct declare=, or leave it out to take what is there; nothing was changed.",
    )
