"""Frames: one record as routing key, table of headers and body in one piece of bytes.

Layout, as AMQP itself writes them: the routing key behind one byte of length, the table behind four, the body. An empty
frame stands for a record that was given up (dead letter): its number is used, and nothing is published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from streamflow.batch import Fragment
from streamflow.codecs import Codec
from streamflow.connect.contracts import Frames, SinkOptions, row_headers
from streamflow.errors import EncodeError
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


class FrameEncoder:
    """Turns records into frames: pure, without I/O, also before the sink is open.

    Args:
        codec: Encodes values.
        options: Key, headers and subject, as `to` was given them.
        message_bytes_max: Largest body with its headers.
        sink: Name for errors.
    """

    def __init__(self, codec: Codec[Any], options: SinkOptions, message_bytes_max: int, sink: str) -> None:
        self.sink = sink
        self._codec, self._options, self._bytes_max = codec, options, message_bytes_max
        self._keys: dict[str, bytes] = {}

    def encode(self, records: Fragment) -> Frames:
        """Returns one frame per row.

        Raises:
            EncodeError: A value, key, header or routing key is refused, or the message is too large.
        """
        options, encode = self._options, self._codec.encode
        try:
            headers = row_headers(options, records)
            plain = headers is None and options.subject is None and options.key is None
            if plain and records.keys is None:
                frames = [_PLAIN + encode(value) for value in records.values]
            else:
                keys = records.keys or [None] * len(records.values)
                rows = zip(records.values, keys, headers or [None] * len(keys), strict=True)
                frames = [self._frame(value, key, given) for value, key, given in rows]
        except (ValueError, TypeError, OverflowError) as error:
            raise EncodeError(
                f"a value of type {self._culprit(records)} cannot be written by codec {self._codec.name}: {error}",
                step=self.sink,
                hint="Emit values that fit the type given as value=.",
            ) from error
        if frames and len(max(frames, key=len)) > self._bytes_max:
            raise EncodeError(
                f"a message for {self.sink} has {len(max(frames, key=len))} bytes; the limit is {self._bytes_max}",
                step=self.sink,
                hint="Raise Limits.message_bytes_max up to the broker's max_message_size, or emit smaller values.",
            )
        return frames

    def _frame(self, value: Any, key: Any, given: Mapping[str, str] | None) -> bytes:
        options = self._options
        headers: dict[str, str] = {}
        if options.key is not None:
            key = options.key(value)
        if key is not None:
            headers[KEY_HEADER] = key if isinstance(key, str) else _dumps(key).decode()
        if given is not None:
            headers |= self._checked_headers(given)
        encoded = table(headers) if headers else EMPTY_TABLE
        if len(encoded) > HEADERS_BYTES_MAX:
            raise self._refused(f"the headers have {len(encoded)} bytes", f"Keep below {HEADERS_BYTES_MAX}.")
        routing_key = b"\0" if options.subject is None else self._routing_key(options.subject(value))
        return b"".join((routing_key, encoded, self._codec.encode(value)))

    def _routing_key(self, key: str) -> bytes:
        known = self._keys.get(key)
        if known is not None:
            return known
        if not isinstance(key, str) or len(key.encode(errors="replace")) > NAME_BYTES_MAX:
            raise self._refused(
                f"{str(key)[:40]!r} is no routing key", "Let subject= return a text of up to 255 bytes."
            )
        if len(self._keys) >= _KEYS_REMEMBERED:
            self._keys.clear()
        self._keys[key] = encoded = short_text(key.encode())
        return encoded

    def _checked_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not isinstance(name, str) or not 0 < len(name.encode()) <= NAME_BYTES_MAX:
                raise self._refused(f"{name!r} is no header name", "Use up to 255 bytes of text.")
            if name.lower().startswith("sf-"):
                raise self._refused(f"header {name} belongs to the connector", "Use another name.")
            if not isinstance(value, str):
                raise self._refused(f"header {name} is no text", "Encode the value, as JSON for example.")
        return {**headers}

    def _refused(self, what: str, hint: str) -> EncodeError:
        return EncodeError(f"sink {self.sink}: {what}", step=self.sink, hint=hint)

    def _culprit(self, records: Fragment) -> str:
        for value in records.values:
            try:
                self._codec.encode(value)
            except Exception:
                return type(value).__qualname__
        return "unknown"
