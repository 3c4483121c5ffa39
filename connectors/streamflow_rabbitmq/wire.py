"""Messages as AMQP 0-9-1 writes them: method frame, header frame, body frames, in one piece of bytes.

pamqp writes them too, from an object per frame and property; that is half of what publishing costs. Layout: section
2.3.5 and 4.2 of the specification, https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

_METHOD: Final = 1
_HEADER: Final = 2
_BODY: Final = 3
_END: Final = b"\xce"
_FRAME: Final = struct.Struct(">BHI")
_CONTENT: Final = struct.Struct(">HHQH")
_PUBLISH: Final = b"\x00\x3c\x00\x28\x00\x00"
_CONSUME: Final = b"\x00\x3c\x00\x14\x00\x00"
_NO_ANSWER: Final = b"\x08"
_BASIC: Final = 60
_HEADERS: Final = 1 << 13
_DELIVERY_MODE: Final = 1 << 12
_REPLY_TO: Final = 1 << 9
_MESSAGE_ID: Final = 1 << 7
_PERSISTENT: Final = b"\x02"
FRAME_OVERHEAD_BYTES: Final = 8


def short_text(text: bytes) -> bytes:
    """A text of up to 255 bytes behind its length."""
    return bytes((len(text),)) + text


def table(headers: Mapping[str, str]) -> bytes:
    """A table of texts."""
    parts = []
    for name, value in headers.items():
        encoded = value.encode()
        parts += [short_text(name.encode()), b"S", len(encoded).to_bytes(4, "big"), encoded]
    content = b"".join(parts)
    return len(content).to_bytes(4, "big") + content


EMPTY_TABLE: Final = table({})


def publish_method(channel: int, exchange: bytes, routing_key: bytes, *, mandatory: bool) -> bytes:
    """The method frame of Basic.Publish, the same for every message on one routing key."""
    payload = b"".join((_PUBLISH, short_text(exchange), short_text(routing_key), b"\x01" if mandatory else b"\x00"))
    return _FRAME.pack(_METHOD, channel, len(payload)) + payload + _END


class Writer:
    """Writes persistent messages with a table of headers and a message id.

    Args:
        channel: Number of the channel.
        frame_bytes_max: The largest frame that was agreed on.
    """

    def __init__(self, channel: int, frame_bytes_max: int) -> None:
        self._channel = channel
        self._body_bytes_max = frame_bytes_max - FRAME_OVERHEAD_BYTES

    def content(self, headers: bytes, message_id: bytes, body: bytes) -> bytes:
        """The frames behind the method: properties and body."""
        flags = _HEADERS | _DELIVERY_MODE | _MESSAGE_ID
        head = b"".join((_CONTENT.pack(_BASIC, 0, len(body), flags), headers, _PERSISTENT, short_text(message_id)))
        return b"".join((_FRAME.pack(_HEADER, self._channel, len(head)), head, _END, self._body(body)))

    def _body(self, body: bytes) -> bytes:
        most = self._body_bytes_max
        if len(body) <= most:
            return _FRAME.pack(_BODY, self._channel, len(body)) + body + _END if body else b""
        parts = []
        for start in range(0, len(body), most):
            part = body[start : start + most]
            parts += [_FRAME.pack(_BODY, self._channel, len(part)), part, _END]
        return b"".join(parts)


def waiting_consumer(channel: int, queue: str, tag: str) -> bytes:
    """The frame of a Basic.Consume that is not answered, and whose consumer gets nothing.

    RabbitMQ up to 3.13 wants the credit as a signed integer of 64 bits, which pamqp writes for large numbers only.
    """
    credit = short_text(b"credit") + b"l" + bytes(8) + short_text(b"drain") + b"t" + bytes(1)
    arguments = short_text(b"x-credit") + b"F" + len(credit).to_bytes(4, "big") + credit
    payload = b"".join(
        (
            _CONSUME,
            short_text(queue.encode()),
            short_text(tag.encode()),
            _NO_ANSWER,
            len(arguments).to_bytes(4, "big"),
            arguments,
        )
    )
    return _FRAME.pack(_METHOD, channel, len(payload)) + payload + _END


def plain_message(channel: int, queue: str, body: bytes, reply_to: str = "") -> bytes:
    """A small message to a queue that need not outlive the broker, without confirm or return."""
    flags = _REPLY_TO if reply_to else 0
    head = _CONTENT.pack(_BASIC, 0, len(body), flags) + (short_text(reply_to.encode()) if reply_to else b"")
    return b"".join(
        (
            publish_method(channel, b"", queue.encode(), mandatory=False),
            _FRAME.pack(_HEADER, channel, len(head)),
            head,
            _END,
            _FRAME.pack(_BODY, channel, len(body)),
            body,
            _END,
        )
    )
