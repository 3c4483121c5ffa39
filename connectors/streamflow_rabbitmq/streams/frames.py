"""Frames of a stream sink: the message as it is published; for a super stream behind the choice of a partition.

A plain frame is a whole AMQP 1.0 message. A frame for a super stream starts with one byte that says how the partition
is chosen (no key, hash of the key, given by number) and four bytes for hash or number, big end first. An empty frame
stands for a record that was given up (dead letter): its number is used, and nothing is published.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from streamflow.batch import Fragment
from streamflow.codecs import Codec
from streamflow.connect.contracts import Frames, SinkOptions, row_headers
from streamflow.errors import EncodeError
from streamflow_rabbitmq.streams.message import DATA_LARGE, DATA_SMALL, write_message
from streamflow_rabbitmq.streams.routing import key_hash

ROUTE: Final = struct.Struct(">BI")
NO_KEY, HASHED, NUMBERED = 0, 1, 2
KEY_BYTES_MAX: Final = 1024
HEADERS_BYTES_MAX: Final = 65_536
PARTITIONS_MAX: Final = 1 << 31
_NO_ROUTE: Final = ROUTE.pack(NO_KEY, 0)
_dumps = msgspec.json.Encoder().encode


def plain_encoder(codec: Codec[Any]) -> Callable[[Any], bytes]:
    """A function from value to frame for values without key and headers."""
    encode, small, large = codec.encode, DATA_SMALL, DATA_LARGE

    def frame(value: Any) -> bytes:
        payload = encode(value)
        size = len(payload)
        if size < 256:
            return b"%b%c%b" % (small, size, payload)
        return b"%b%b%b" % (large, size.to_bytes(4), payload)

    return frame


class FrameEncoder:
    """Turns records into frames: pure, without I/O, also before the sink is open.

    Args:
        codec: Encodes values.
        options: Key, headers and partition, as `to` was given them.
        partitioned: Whether frames choose a partition.
        sink: Name for errors.
    """

    def __init__(self, codec: Codec[Any], options: SinkOptions, *, partitioned: bool, sink: str) -> None:
        self.sink = sink
        self.frame_bytes_max = 0
        """Largest frame that the broker takes, known once the sink is open; 0 before."""
        self._codec, self._options, self._partitioned = codec, options, partitioned
        self._plain = plain_encoder(codec)

    def encode(self, records: Fragment) -> Frames:
        """Returns one frame per row.

        Raises:
            EncodeError: A value, key, header or partition is refused, or the message is too large.
        """
        options = self._options
        try:
            rows_headers = row_headers(options, records)
            keyed = options.key is not None or records.keys is not None
            if self._partitioned or keyed or rows_headers is not None:
                keys = records.keys or [None] * len(records.values)
                headers = rows_headers or [None] * len(records.values)
                rows = zip(records.values, keys, headers, strict=True)
                frames = [self._frame(value, key, given) for value, key, given in rows]
            else:
                frames = list(map(self._plain, records.values))
        except (ValueError, TypeError, OverflowError) as error:
            raise EncodeError(
                f"a value of type {self._culprit(records)} cannot be written by codec {self._codec.name}: {error}",
                step=self.sink,
                hint="Emit values that fit the type given to value=.",
            ) from error
        if self.frame_bytes_max and frames and len(max(frames, key=len)) > self.frame_bytes_max:
            raise EncodeError(
                f"a message for {self.sink} has {len(max(frames, key=len))} bytes; the broker takes "
                f"{self.frame_bytes_max}",
                step=self.sink,
                hint="Raise stream.frame_max on the server, or emit smaller values.",
            )
        return frames

    def _frame(self, value: Any, key: Any, given: Mapping[str, str] | None) -> bytes:
        options = self._options
        if options.key is not None:
            key = options.key(value)
        text = None if key is None else self._key_text(key)
        headers = None if given is None else self._headers(given)
        message = write_message(self._codec.encode(value), text, headers)
        if not self._partitioned:
            return message
        return self._route(value, text) + message

    def _route(self, value: Any, key: bytes | None) -> bytes:
        if self._options.partition is not None:
            number = self._options.partition(value)
            if not isinstance(number, int) or not 0 <= number < PARTITIONS_MAX:
                raise self._refused(f"{number!r} is no number of a partition", "Let partition= return 0, 1, 2 ...")
            return ROUTE.pack(NUMBERED, number)
        return _NO_ROUTE if key is None else ROUTE.pack(HASHED, key_hash(key))

    def _key_text(self, key: Any) -> bytes:
        """A key as text: text as it is, numbers, dates and the like as JSON writes them, without quotes."""
        if isinstance(key, bytes):
            key.decode()  # refused where it is no text
            text = key
        elif isinstance(key, str):
            text = key.encode()
        else:
            text = _dumps(key)
            if text.startswith(b'"'):
                text = msgspec.json.decode(text, type=str).encode()
        if len(text) > KEY_BYTES_MAX:
            raise self._refused(f"a key has {len(text)} bytes", f"Keep below {KEY_BYTES_MAX}.")
        return text

    def _headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise self._refused(f"header {name!r} is no text", "Encode the value, as JSON for example.")
        if sum(len(name) + len(value) for name, value in headers.items()) > HEADERS_BYTES_MAX:
            raise self._refused("the headers are too large", f"Keep below {HEADERS_BYTES_MAX} bytes.")
        return headers

    def _refused(self, what: str, hint: str) -> EncodeError:
        return EncodeError(f"sink {self.sink}: {what}", step=self.sink, hint=hint)

    def _culprit(self, records: Fragment) -> str:
        for value in records.values:
            try:
                self._codec.encode(value)
            except Exception:
                return type(value).__qualname__
        return "unknown"
