"""Text and bytes as they are."""

from __future__ import annotations


class StrCodec:
    """UTF-8 text."""

    name = "str"

    def encode(self, value: str, /) -> bytes:
        if not isinstance(value, str):
            raise ValueError(f"expected str, got {type(value).__name__}")
        return value.encode()

    def decode(self, data: bytes, /) -> str:
        return data.decode()


class BytesCodec:
    """Bytes as they are."""

    name = "bytes"

    def encode(self, value: bytes, /) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise ValueError(f"expected bytes, got {type(value).__name__}")
        return bytes(value)

    def decode(self, data: bytes, /) -> bytes:
        return bytes(data)
