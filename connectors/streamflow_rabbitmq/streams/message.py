"""Messages of a stream: AMQP 1.0 read and written, as far as a flow needs it.

A message is a row of sections, each a descriptor (``00 53`` and a code) and a value. Read are the payload, the
application properties as headers, and `group-id` as the key; the rest is skipped. Section 3.2 of the AMQP 1.0
specification (messaging), and part 1 for the types: http://docs.oasis-open.org/amqp/core/v1.0/os/.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

DATA_SMALL: Final = b"\x00Su\xa0"
DATA_LARGE: Final = b"\x00Su\xb0"
_SECTION_FIRST: Final = 0x70
_SECTION_LAST: Final = 0x78
_PROPERTIES: Final = 0x73
_APPLICATION_PROPERTIES: Final = 0x74
_DATA: Final = 0x75
_VALUE: Final = 0x77
_GROUP_ID_FIELD: Final = 10
_SMALL_BYTES_MAX: Final = 255
_VALUES_MAX: Final = 10_000
"""Most values in one section: what is more is no message of a sane producer."""

Value = Any


class Message(NamedTuple):
    """What a flow gets of a message."""

    payload: bytes
    headers: dict[str, str] | None
    key: bytes | None


def read_message(data: bytes) -> Message:
    """Reads one message; what is no AMQP 1.0 message, or one whose body is no text and no bytes, comes as it is."""
    try:
        return _read(data)
    except (ValueError, IndexError, struct.error, RecursionError):
        return Message(data, None, None)


def data_section(payload: bytes) -> bytes:
    """A message that has nothing but a payload."""
    size = len(payload)
    if size <= _SMALL_BYTES_MAX:
        return b"%b%c%b" % (DATA_SMALL, size, payload)
    return b"%b%b%b" % (DATA_LARGE, size.to_bytes(4), payload)


def write_message(payload: bytes, key: bytes | None, headers: Mapping[str, str] | None) -> bytes:
    """A message with a key as ``group-id`` and headers as application properties."""
    parts = []
    if key is not None:
        fields = b"@" * _GROUP_ID_FIELD + _text(key)
        parts.append(b"\x00Ss" + _compound(0xD0, _GROUP_ID_FIELD + 1, fields))
    if headers:
        entries = b"".join(_text(name.encode()) + _text(value.encode()) for name, value in headers.items())
        parts.append(b"\x00St" + _compound(0xD1, 2 * len(headers), entries))
    return b"".join((*parts, data_section(payload)))


def _text(encoded: bytes) -> bytes:
    if len(encoded) <= _SMALL_BYTES_MAX:
        return b"\xa1%c%b" % (len(encoded), encoded)
    return b"\xb1%b%b" % (len(encoded).to_bytes(4), encoded)


def _compound(code: int, count: int, content: bytes) -> bytes:
    return b"%c%b%b%b" % (code, (len(content) + 4).to_bytes(4), count.to_bytes(4), content)


def _read(data: bytes) -> Message:
    at, end = 0, len(data)
    parts: list[bytes] = []
    headers: dict[str, str] | None = None
    key: bytes | None = None
    while at < end:
        section, at = _section(data, at)
        if section in (_PROPERTIES, _APPLICATION_PROPERTIES, _DATA, _VALUE):
            value, at = _value(data, at)
            if section == _PROPERTIES:
                key = _key(value)
            elif section == _APPLICATION_PROPERTIES:
                headers = _headers(value)
            else:
                parts.append(_payload(value))
        else:
            at = _skip(data, at)
    if not parts or at != end:
        raise ValueError("no body, or bytes behind it")
    return Message(parts[0] if len(parts) == 1 else b"".join(parts), headers, key)


def _section(data: bytes, at: int) -> tuple[int, int]:
    """The code of the section that starts here, and where its value starts."""
    if data[at] != 0:
        raise ValueError("no section starts here")
    if data[at + 1] == 0x53:
        code, at = data[at + 2], at + 3
    elif data[at + 1] == 0x80:
        code, at = int.from_bytes(_bytes(data, at + 2, 8)), at + 10
    else:
        raise ValueError("a descriptor that is no number")
    if not _SECTION_FIRST <= code <= _SECTION_LAST:
        raise ValueError(f"section {code:#x} is unknown")
    return code, at


def _payload(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise ValueError("the body is neither bytes nor text")


def _key(properties: Value) -> bytes | None:
    if not isinstance(properties, list) or len(properties) <= _GROUP_ID_FIELD:
        return None
    group = properties[_GROUP_ID_FIELD]
    return group.encode() if isinstance(group, str) else None


def _headers(properties: Value) -> dict[str, str]:
    if not isinstance(properties, dict):
        raise ValueError("the application properties are no map")
    return {str(name): _header(each) for name, each in properties.items()}


def _header(value: Value) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _bytes(data: bytes, at: int, size: int) -> bytes:
    found = data[at : at + size]
    if len(found) < size:
        raise ValueError("the message is cut off")
    return found


_FIXED: Final[dict[int, tuple[int, Callable[[bytes], Value]]]] = {
    0x40: (0, lambda _: None),
    0x41: (0, lambda _: True),
    0x42: (0, lambda _: False),
    0x43: (0, lambda _: 0),
    0x44: (0, lambda _: 0),
    0x45: (0, lambda _: []),
    0x50: (1, int.from_bytes),
    0x51: (1, lambda raw: int.from_bytes(raw, signed=True)),
    0x52: (1, int.from_bytes),
    0x53: (1, int.from_bytes),
    0x54: (1, lambda raw: int.from_bytes(raw, signed=True)),
    0x55: (1, lambda raw: int.from_bytes(raw, signed=True)),
    0x56: (1, lambda raw: raw != b"\0"),
    0x60: (2, int.from_bytes),
    0x61: (2, lambda raw: int.from_bytes(raw, signed=True)),
    0x70: (4, int.from_bytes),
    0x71: (4, lambda raw: int.from_bytes(raw, signed=True)),
    0x72: (4, lambda raw: struct.unpack(">f", raw)[0]),
    0x73: (4, lambda raw: raw.decode("utf-32-be")),
    0x74: (4, lambda raw: raw.hex()),
    0x80: (8, int.from_bytes),
    0x81: (8, lambda raw: int.from_bytes(raw, signed=True)),
    0x82: (8, lambda raw: struct.unpack(">d", raw)[0]),
    0x83: (8, lambda raw: int.from_bytes(raw, signed=True)),
    0x84: (8, lambda raw: raw.hex()),
    0x94: (16, lambda raw: raw.hex()),
    0x98: (16, lambda raw: str(uuid.UUID(bytes=raw))),
}
"""Types of a fixed size: how many bytes, and what they mean."""


def _value(data: bytes, at: int) -> tuple[Value, int]:
    """The value that starts here, and where the next one does."""
    code = data[at]
    at += 1
    fixed = _FIXED.get(code)
    if fixed is not None:
        size, meaning = fixed
        return meaning(_bytes(data, at, size)), at + size
    kind, wide = code & 0xF0, code & 0x0F
    if kind in (0xA0, 0xB0):
        length = 1 if kind == 0xA0 else 4
        size = int.from_bytes(_bytes(data, at, length))
        raw = _bytes(data, at + length, size)
        return (raw if wide == 0 else raw.decode()), at + length + size
    if code in (0xC0, 0xC1, 0xD0, 0xD1):
        return _many(data, at, 1 if kind == 0xC0 else 4, mapped=wide == 1)
    raise ValueError(f"type {code:#x} is not read")


def _many(data: bytes, at: int, length: int, *, mapped: bool) -> tuple[Value, int]:
    """A list or a map whose sizes have ``length`` bytes."""
    size = int.from_bytes(_bytes(data, at, length))
    end = at + length + size
    count = int.from_bytes(_bytes(data, at + length, length))
    if end > len(data) or count > _VALUES_MAX:
        raise ValueError("a list or map is cut off, or too long")
    at += 2 * length
    values = []
    for _ in range(count):
        value, at = _value(data, at)
        values.append(value)
    if at != end:
        raise ValueError("a list or map does not end where it says")
    if mapped:
        try:
            return dict(zip(values[::2], values[1::2], strict=True)), end
        except TypeError:
            raise ValueError("a list or a map is the key of a map") from None
    return values, end


def _skip(data: bytes, at: int) -> int:
    """Where the value that starts here ends."""
    code = data[at]
    kind = code & 0xF0
    if code in _FIXED:
        end = at + 1 + _FIXED[code][0]
    elif kind in (0xA0, 0xC0, 0xE0):
        end = at + 2 + data[at + 1]
    elif kind in (0xB0, 0xD0, 0xF0):
        end = at + 5 + int.from_bytes(_bytes(data, at + 1, 4))
    else:
        raise ValueError(f"type {code:#x} is unknown")
    if end > len(data):
        raise ValueError("the message is cut off")
    return end
