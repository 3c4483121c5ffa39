"""Frames: one record as subject, header lines and payload in one piece of bytes.

Layout: two bytes length of the subject, two bytes length of the header lines (big end first), then the three parts. An
empty subject stands for the stream's only subject, which may be unknown until the sink is open. An empty frame stands
for a record that was given up (dead letter): its number is used, and nothing is published.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from streamflow.batch import Fragment
from streamflow.codecs import Codec
from streamflow.connect.contracts import Frames, SinkOptions, row_headers
from streamflow.errors import EncodeError
from streamflow_nats.subjects import covers, is_literal

_LENGTHS: Final = struct.Struct(">HH")
_PLAIN: Final = b"\0\0\0\0"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_PRINTABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
HEADERS_BYTES_MAX: Final = 65_535
_SUBJECTS_REMEMBERED: Final = 4096
_dumps = msgspec.json.Encoder().encode
_as_frame = tuple.__new__


class Frame(NamedTuple):
    """What is published for one record, before the guard's own headers."""

    subject: bytes
    headers: bytes
    payload: bytes


def unpack(frame: bytes) -> Frame:
    """Splits a frame.

    Raises:
        ValueError: It is cut off.
    """
    if len(frame) < 4:
        raise ValueError(f"a frame of {len(frame)} bytes has no lengths")
    subject_size, headers_size = _LENGTHS.unpack_from(frame)
    middle = 4 + subject_size
    end = middle + headers_size
    if end > len(frame):
        raise ValueError(f"a frame of {len(frame)} bytes says that its payload starts at byte {end}")
    # a NamedTuple's own constructor costs as much as all the rest
    return _as_frame(Frame, (frame[4:middle], frame[middle:end], frame[end:]))


class FrameEncoder:
    """Turns records into frames: pure, without I/O, also before the sink is open.

    Args:
        codec: Encodes values.
        options: Key, headers and subject, as `to` was given them.
        pattern: What ``options.subject`` may give; empty for anything.
        sink: Name for errors.
    """

    def __init__(self, codec: Codec[Any], options: SinkOptions, pattern: str, sink: str) -> None:
        self.sink = sink
        self.message_bytes_max = 0
        """Largest frame that the server takes, known once the sink is open; 0 before."""
        self._codec, self._options, self._pattern = codec, options, pattern
        self._subjects: dict[str, bytes] = {}

    def encode(self, records: Fragment) -> Frames:
        """Returns one frame per row.

        Raises:
            EncodeError: A value, key, header or subject is refused, or the message is too large.
        """
        options, encode = self._options, self._codec.encode
        try:
            rows_headers = row_headers(options, records)
            plain = rows_headers is None and options.subject is None
            if plain and options.key is None and records.keys is None:
                frames = [_PLAIN + encode(value) for value in records.values]
            else:
                keys = records.keys or [None] * len(records.values)
                headers = rows_headers or [None] * len(records.values)
                rows = zip(records.values, keys, headers, strict=True)
                frames = [self._frame(value, key, given) for value, key, given in rows]
        except (ValueError, TypeError, OverflowError) as error:
            raise EncodeError(
                f"a value of type {self._culprit(records)} cannot be written by codec {self._codec.name}: {error}",
                step=self.sink,
                hint="Emit values that fit the type given to nats.stream(value=...).",
            ) from error
        if self.message_bytes_max and frames and len(max(frames, key=len)) > self.message_bytes_max:
            raise EncodeError(
                f"a message for {self.sink} has {len(max(frames, key=len))} bytes; "
                f"server and stream take {self.message_bytes_max}",
                step=self.sink,
                hint="Raise max_payload on the server and max_msg_size on the stream, or emit smaller values.",
            )
        return frames

    def _frame(self, value: Any, key: Any, given: Mapping[str, str] | None) -> bytes:
        options = self._options
        headers = b""
        if options.key is not None:
            key = options.key(value)
        if key is not None:
            headers = b"sf-key: %s\r\n" % _key_text(key)
        if given is not None:
            headers += self._header_lines(given)
        subject = b"" if options.subject is None else self._subject(options.subject(value))
        return b"".join((_LENGTHS.pack(len(subject), len(headers)), subject, headers, self._codec.encode(value)))

    def _subject(self, subject: str) -> bytes:
        known = self._subjects.get(subject)
        if known is not None:
            return known
        if not isinstance(subject, str) or not is_literal(subject):
            raise self._refused(f"{subject!r} is no subject to publish on", "Let subject= return dotted tokens.")
        if self._pattern and not covers(self._pattern, subject):
            raise self._refused(
                f"subject {subject} lies outside {self._pattern}", "Widen subject= of nats.stream(...)."
            )
        if len(self._subjects) >= _SUBJECTS_REMEMBERED:
            self._subjects.clear()
        self._subjects[subject] = encoded = subject.encode()
        return encoded

    def _header_lines(self, headers: Mapping[str, str]) -> bytes:
        lines = []
        for name, value in headers.items():
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
                raise self._refused(f"{name!r} is no header name", "Use letters, digits and dashes.")
            if name.lower().startswith(("nats-", "sf-")):
                raise self._refused(f"header {name} belongs to the connector", "Use another name.")
            if not isinstance(value, str) or any(sign in value for sign in "\r\n\0"):
                raise self._refused(f"header {name} is no text of one line", "Encode the value, as JSON for example.")
            lines.append(f"{name}: {value}\r\n")
        encoded = "".join(lines).encode()
        if len(encoded) > HEADERS_BYTES_MAX // 2:
            raise self._refused(f"the headers have {len(encoded)} bytes", f"Keep below {HEADERS_BYTES_MAX // 2}.")
        return encoded

    def _refused(self, what: str, hint: str) -> EncodeError:
        return EncodeError(f"sink {self.sink}: {what}", step=self.sink, hint=hint)

    def _culprit(self, records: Fragment) -> str:
        for value in records.values:
            try:
                self._codec.encode(value)
            except Exception:
                return type(value).__qualname__
        return "unknown"


def _key_text(key: Any) -> bytes:
    """A key as one header line: printable ASCII text as it is, all else as JSON."""
    text = key.encode() if isinstance(key, str) and _PRINTABLE.fullmatch(key) else _dumps(key)
    if len(text) > HEADERS_BYTES_MAX // 2:
        raise ValueError(f"the key has {len(text)} bytes, above {HEADERS_BYTES_MAX // 2}")
    return text
