"""Frames: one record as subject, header lines and payload in one piece of bytes.

Layout: two bytes length of the subject, two bytes length of the header lines (big end first), then the three parts. An
empty subject stands for the stream's only subject, which may be unknown until the sink is open. An empty frame stands
for a record that was given up (dead letter): its number is used, and nothing is published.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from streamflow.batch import Headers
from streamflow.codecs import Codec
from streamflow.connect.contracts import SinkOptions
from streamflow.connect.row_frames import RowFrames
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


class FrameEncoder(RowFrames):
    """Frames with a subject and header lines.

    Args:
        codec: Encodes values.
        options: Key, headers and subject, as `to` was given them.
        pattern: What ``options.subject`` may give; empty for anything.
        sink: Name for errors.
    """

    room = "Raise max_payload on the server and max_msg_size on the stream, or emit smaller values."

    def __init__(self, codec: Codec[Any], options: SinkOptions, pattern: str, sink: str) -> None:
        super().__init__(codec, options, sink)
        self._pattern = pattern
        self._subjects: dict[str, bytes] = {}

    def plain(self) -> Callable[[Any], bytes] | None:
        encode = self.codec.encode
        return None if self.options.subject is not None else lambda value: _PLAIN + encode(value)

    def frame(self, value: Any, key: Any, headers: Headers | None) -> bytes:
        lines = b"" if key is None else b"sf-key: %s\r\n" % _key_text(key)
        if headers is not None:
            lines += self._header_lines(headers)
        subject = b"" if self.options.subject is None else self._subject(self.options.subject(value))
        return b"".join((_LENGTHS.pack(len(subject), len(lines)), subject, lines, self.codec.encode(value)))

    def _subject(self, subject: str) -> bytes:
        known = self._subjects.get(subject)
        if known is not None:
            return known
        if not isinstance(subject, str) or not is_literal(subject):
            raise self.refused(f"{subject!r} is no subject to publish on", "Let subject= return dotted tokens.")
        if self._pattern and not covers(self._pattern, subject):
            raise self.refused(f"subject {subject} lies outside {self._pattern}", "Widen subject= of nats.stream(...).")
        if len(self._subjects) >= _SUBJECTS_REMEMBERED:
            self._subjects.clear()
        self._subjects[subject] = encoded = subject.encode()
        return encoded

    def _header_lines(self, headers: Mapping[str, str]) -> bytes:
        lines = []
        for name, value in headers.items():
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
                raise self.refused(f"{name!r} is no header name", "Use letters, digits and dashes.")
            if name.lower().startswith(("nats-", "sf-")):
                raise self.refused(f"header {name} belongs to the connector", "Use another name.")
            if not isinstance(value, str) or any(sign in value for sign in "\r\n\0"):
                raise self.refused(f"header {name} is no text of one line", "Encode the value, as JSON for example.")
            lines.append(f"{name}: {value}\r\n")
        encoded = "".join(lines).encode()
        if len(encoded) > HEADERS_BYTES_MAX // 2:
            raise self.refused(f"the headers have {len(encoded)} bytes", f"Keep below {HEADERS_BYTES_MAX // 2}.")
        return encoded


def _key_text(key: Any) -> bytes:
    """A key as one header line: printable ASCII text as it is, all else as JSON."""
    text = key.encode() if isinstance(key, str) and _PRINTABLE.fullmatch(key) else _dumps(key)
    if len(text) > HEADERS_BYTES_MAX // 2:
        raise ValueError(f"the key has {len(text)} bytes, above {HEADERS_BYTES_MAX // 2}")
    return text
