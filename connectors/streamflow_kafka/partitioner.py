"""Which partition a record goes to: as the Java client's default by key, and by number where there is none."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final

STICKY_RECORDS: Final = 256
"""So many records without a key in a row go to one partition: few large batches instead of many small ones."""

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_KEYS_REMEMBERED: Final = 65_536


def murmur2(data: bytes) -> int:
    """The hash that Kafka's Java client chooses partitions by (``org.apache.kafka.common.utils.Utils.murmur2``).

    Args:
        data: The bytes of a key.

    Returns:
        32 bits, without a sign.
    """
    size = len(data)
    whole = size & ~3
    h = (_SEED ^ size) & _MASK
    for k in _words(whole >> 2)(data):
        k = k * _M & _MASK  # noqa: PLW2901 - the names are those of the algorithm
        h = (h * _M & _MASK) ^ ((k ^ (k >> 24)) * _M & _MASK)
    if size > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition of a key among so many, the same that the Java client's default partitioner chooses."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def partition_of_seq(seq: int, partitions: int) -> int:
    """The partition of a record without a key: by its number alone, so that it lands there each time it is sent."""
    return seq // STICKY_RECORDS % partitions


def by_key(partitions: int) -> Callable[[bytes], int]:
    """`partition_of_key` for so many partitions, which remembers the keys that it saw last."""

    @lru_cache(_KEYS_REMEMBERED)
    def partition(key: bytes) -> int:
        return (murmur2(key) & 0x7FFFFFFF) % partitions

    return partition


@lru_cache(1024)
def _words(count: int) -> Callable[[bytes], tuple[int, ...]]:
    """Reads so many words of four bytes, with the little end first, from the beginning of some bytes."""
    return struct.Struct(f"<{count}I").unpack_from
