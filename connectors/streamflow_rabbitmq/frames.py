"""Frames: one record as routing key, table of headers and body in one piece of bytes.

Layout, as AMQP itself writes them: the routing key behind one byte of length, the table behind four, the body. An empty
frame stands for a record that was given up (dead letter): its number is used, and nothing is published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from streamflow.batch import Headers
from streamflow.codecs import Codec
from streamflow.connect.contracts import SinkOptions
from streamflow.connect.row_frames import RowFrames
from streamflow_rabbitmq.settings import NAME_BYTES_MAX
from streamflow_rabbitmq.wire import EMPTY_TABLE, short_text, table

KEY_HEADER: Final = "sf-key"
HEADERS_BYTES_MAX: Final = 65_536
_PLAIN: Final = b"\0" + EMPTY_TABLE
_KEYS_REMEMBERED: Final = 4096
_dumps = msgspec.json.Encoder().encode
_as_frame = tuple.__new__


class Frame(NamedTuple):
    """What is published for one record, before the message id."""

    routing_key: bytes
    headers: bytes
    body: bytes


def unpack(frame: bytes) -> Frame:
    """Splits a frame.

    Raises:
        ValueError: It is cut off.
    """
    if not frame:
        raise ValueError("a frame of 0 bytes has no lengths")
    middle = 1 + frame[0]
    end = middle + 4 + int.from_bytes(frame[middle : middle + 4], "big")
    if end > len(frame):
        raise ValueError(f"a frame of {len(frame)} bytes says that its body starts at byte {end}")
    # a NamedTuple's own constructor costs as much as all the rest
    return _as_frame(Frame, (frame[1:middle], frame[middle:end], frame[end:]))


class FrameEncoder(RowFrames):
    """Frames with a routing key and a table of headers.

    Args:
        codec: Encodes values.
        options: Key, headers and subject, as `to` was given them.
        message_bytes_max: Largest body with its headers.
        sink: Name for errors.
    """

    room = "Raise Limits.message_bytes_max up to the broker's max_message_size, or emit smaller values."

    def __init__(self, codec: Codec[Any], options: SinkOptions, message_bytes_max: int, sink: str) -> None:
        super().__init__(codec, options, sink)
        self.frame_bytes_max = message_bytes_max
        self._keys: dict[str, bytes] = {}

    def plain(self) -> Callable[[Any], bytes] | None:
        encode = self.codec.encode
        return None if self.options.subject is not None else lambda value: _PLAIN + encode(value)

    def frame(self, value: Any, key: Any, headers: Headers | None) -> bytes:
        found: dict[str, str] = {}
        if key is not None:
            found[KEY_HEADER] = key if isinstance(key, str) else _dumps(key).decode()
        if headers is not None:
            found |= self._checked_headers(headers)
        encoded = table(found) if found else EMPTY_TABLE
        if len(encoded) > HEADERS_BYTES_MAX:
            raise self.refused(f"the headers have {len(encoded)} bytes", f"Keep below {HEADERS_BYTES_MAX}.")
        routing_key = b"\0" if self.options.subject is None else self._routing_key(self.options.subject(value))
        return b"".join((routing_key, encoded, self.codec.encode(value)))

    def _routing_key(self, key: str) -> bytes:
        known = self._keys.get(key)
        if known is not None:
            return known
        if not isinstance(key, str) or len(key.encode(errors="replace")) > NAME_BYTES_MAX:
            raise self.refused(f"{str(key)[:40]!r} is no routing key", "Let subject= return a text of up to 255 bytes.")
        if len(self._keys) >= _KEYS_REMEMBERED:
            self._keys.clear()
        self._keys[key] = encoded = short_text(key.encode())
        return encoded

    def _checked_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not isinstance(name, str) or not 0 < len(name.encode()) <= NAME_BYTES_MAX:
                raise self.refused(f"{name!r} is no header name", "Use up to 255 bytes of text.")
            if name.lower().startswith("sf-"):
                raise self.refused(f"header {name} belongs to the connector", "Use another name.")
            if not isinstance(value, str):
                raise self.refused(f"header {name} is no text", "Encode the value, as JSON for example.")
        return {**headers}
