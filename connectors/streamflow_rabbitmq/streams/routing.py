"""Which partition of a super stream a key belongs to, as RabbitMQ's own clients decide it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

SEED: Final = 104_729
"""The seed that the clients for Java, Go and .NET share; without it the same key would go elsewhere."""
_KEYS_REMEMBERED: Final = 16_384
_MASK: Final = 0xFFFF_FFFF


@lru_cache(_KEYS_REMEMBERED)
def key_hash(key: bytes) -> int:
    """MurmurHash3, 32 bits, x86 variant (Austin Appleby, public domain) of a key; modulo the number of partitions."""
    value = SEED
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        value ^= _mixed(int.from_bytes(key[at : at + 4], "little"))
        value = (value << 13 | value >> 19) & _MASK
        value = (value * 5 + 0xE654_6B64) & _MASK
    if len(key) > whole:
        value ^= _mixed(int.from_bytes(key[whole:], "little"))
    value ^= len(key)
    value = (value ^ value >> 16) * 0x85EB_CA6B & _MASK
    value = (value ^ value >> 13) * 0xC2B2_AE35 & _MASK
    return value ^ value >> 16


def _mixed(block: int) -> int:
    block = block * 0xCC9E_2D51 & _MASK
    block = (block << 15 | block >> 17) & _MASK
    return block * 0x1B87_3593 & _MASK
