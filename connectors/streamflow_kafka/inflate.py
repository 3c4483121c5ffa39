"""Bounded decompression of record batches: what would grow beyond a limit is refused before it is there.

aiokafka decompresses without a bound (a batch of 200 KB of gzip can become 200 MB), so a batch is decompressed here,
and handed to its record parser as an uncompressed one. The formats are those of the record batch's attributes in
Kafka's protocol guide; snappy comes raw or in the blocks of the xerial Java library.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

from streamflow.errors import MissingExtraError

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS: Final = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}

_XERIAL: Final = b"\x82SNAPPY\0"
_XERIAL_HEADER_BYTES: Final = 16
_BLOCK_SIZE: Final = struct.Struct(">i")
_GUESS: Final = 16
"""How often larger data is than its compressed form, for the first try."""
_GROWTH: Final = 4
_GUESS_BYTES_MIN: Final = 64 * 1024
_FULL: Final = "failed to write whole buffer"


class TooLarge(ValueError):
    """The data would be larger than the limit."""


def inflate(codec: int, data: memoryview, head: int, size_bytes_max: int) -> bytearray:
    """Decompresses.

    Args:
        codec: Number of the codec.
        data: What is compressed.
        head: So many bytes are left free before the result.
        size_bytes_max: Most bytes that the result may have.

    Raises:
        TooLarge: It would have more.
        ValueError: The data is damaged, or the codec is unknown.
    """
    if codec == GZIP:
        return bytearray(head) + _gunzip(data, size_bytes_max)
    if codec not in CODECS:
        raise ValueError(f"compression codec {codec} is unknown")
    try:
        import cramjam
    except ImportError:
        raise MissingExtraError(
            f"records compressed by {CODECS[codec]} need cramjam, which is not installed",
            hint='Install the extra: pip install "streamflow-asyncio[kafka]".',
        ) from None
    try:
        if codec == SNAPPY:
            return _unsnap(cramjam.snappy, data, head, size_bytes_max)
        into = cramjam.lz4.decompress_into if codec == LZ4 else cramjam.zstd.decompress_into
        return _decompress_into(into, data, head, size_bytes_max)
    except (cramjam.DecompressionError, struct.error) as error:
        raise ValueError(f"{CODECS[codec]} data is damaged: {error}") from None


def _gunzip(data: memoryview, size_bytes_max: int) -> bytes:
    found, size, rest = [], 0, bytes(data)
    while rest:
        inflater = zlib.decompressobj(wbits=31)
        try:
            part = inflater.decompress(rest, size_bytes_max - size + 1)
        except zlib.error as error:
            raise ValueError(f"gzip data is damaged: {error}") from None
        size += len(part)
        if size > size_bytes_max:
            raise TooLarge
        if not inflater.eof:
            raise ValueError("gzip data is cut off")
        found.append(part)
        rest = inflater.unused_data
    return b"".join(found)


def _decompress_into(into: Callable[..., int], data: memoryview, head: int, size_bytes_max: int) -> bytearray:
    """Tries a likely size, then larger ones up to the limit; a buffer costs time by its size."""
    size = min(size_bytes_max, max(_GUESS * len(data), _GUESS_BYTES_MIN))
    while True:
        found = bytearray(head + size)
        view = memoryview(found)
        try:
            written = into(data, view[head:])
        except Exception as error:
            if _FULL not in str(error):
                raise
            if size == size_bytes_max:
                raise TooLarge from None
            size = min(size_bytes_max, _GROWTH * size)
            continue
        finally:
            view.release()
        del found[head + written :]
        return found


def _unsnap(snappy: Any, data: memoryview, head: int, size_bytes_max: int) -> bytearray:
    blocks = [data]
    if bytes(data[: len(_XERIAL)]) == _XERIAL:
        if len(data) < _XERIAL_HEADER_BYTES:
            raise ValueError("snappy data is cut off")
        blocks, at = [], _XERIAL_HEADER_BYTES
        while at < len(data):
            (size,) = _BLOCK_SIZE.unpack_from(data, at)
            at += _BLOCK_SIZE.size
            if size < 0 or at + size > len(data):
                raise ValueError("snappy data is cut off")
            blocks.append(data[at : at + size])
            at += size
    if sum(snappy.decompress_raw_len(block) for block in blocks) > size_bytes_max:
        raise TooLarge
    found = bytearray(head)
    for block in blocks:
        found += bytes(snappy.decompress_raw(block))
    return found
