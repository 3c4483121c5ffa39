"""What makes a message the same one when it comes again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from streamflow.errors import ConnectorError, SettingsError

ID_LETTERS_MAX: Final = 96
"""Longer ids are remembered by a hash of 128 bits."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it is shown to ``id_from``.

    Args:
        body: The bytes.
        headers: Its headers as texts.
        routing_key: With which it was published.
        exchange: To which it was published; empty for the default exchange.
        message_id: The producer's id; empty if there is none.
        correlation_id: The producer's correlation id; empty if there is none.
    """

    body: bytes
    headers: Mapping[str, str]
    routing_key: str = ""
    exchange: str = ""
    message_id: str = ""
    correlation_id: str = ""


IdFrom = Literal["message_id", "digest"] | Callable[[Delivery], str] | None


def check_id_from(id_from: object) -> None:
    """Refuses what is no way to an id.

    Raises:
        SettingsError: It is none.
    """
    if id_from is not None and id_from not in ("message_id", "digest") and not callable(id_from):
        raise SettingsError(
            f"id_from={id_from!r} is unknown", hint='Use "message_id", "digest", a function of the delivery, or None.'
        )


def digest(body: bytes) -> str:
    """Stands for a body."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def called(id_from: Callable[[Delivery], str], delivery: Delivery, queue: str) -> str:
    """Asks the user's function.

    Raises:
        ConnectorError: It raises, or gives no text.
    """
    try:
        given: Any = id_from(delivery)
    except Exception as error:
        raise ConnectorError(
            f"id_from= of queue {queue} raised {type(error).__name__}: {error}, for a message with routing key "
            f"{delivery.routing_key!r} that begins {delivery.body[:40]!r}",
            hint="Let it return a text for every message; the message stays in the queue.",
        ) from error
    if not isinstance(given, str) or not given:
        raise no_id(queue, delivery, f"id_from= gave {given!r}")
    return given


def no_id(queue: str, delivery: Delivery, found: str) -> ConnectorError:
    """The error for a message that cannot be told from others."""
    return ConnectorError(
        f"a message in queue {queue} has no id: {found} (routing key {delivery.routing_key!r}, begins "
        f"{delivery.body[:40]!r})",
        hint='Let producers set message_id; or say id_from="digest" if no two bodies are equal, a function, or '
        "id_from=None for at-least-once.",
    )


def short(name: str) -> str:
    """An id as it is remembered."""
    return name if len(name) <= ID_LETTERS_MAX else f"#{digest(name.encode(errors='surrogatepass'))}"


def as_texts(table: Mapping[str, Any] | None) -> dict[str, str]:
    """A table of headers as texts: numbers and times as they are written, tables and lists as JSON."""
    return {str(name): as_text(value) for name, value in table.items()} if table else {}


def as_text(value: Any) -> str:
    """One value of a table as text."""
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case bytes() | bytearray():
            return bytes(value).decode("utf-8", "replace")
        case dict() | list():
            return msgspec.json.encode(value, enc_hook=as_text).decode()
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else str(value)
