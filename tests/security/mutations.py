"""Bad input: valid examples, mutated by a seeded hand until they are not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

LENGTH_MAX: Final = 200_000
"""Longest input, in bytes: enough for a thousand times the depth that a decoder can recurse to."""

TOKENS: Final = (
    b"", b"\0", b"\xff", b"\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"\n", b" ", b'"', b"\\", b"\\ud800",
    b"\\u0000", b"[", b"]", b"{", b"}", b",", b":", b".", b"-", b"NaN", b"Infinity", b"1e400", b"-0", b"0", b"00",
    b"9" * 30, b"9" * 5000, b"null", b"true", b"1.5", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0",
    b"\xc2\xb2", b"\xd9\xa3", b"*", b">", b"$", b"/", b"..", b"%", b"@", b"://",
)  # fmt: skip


def mutated(corpus: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Gives ``count`` inputs, most of them an example changed in one to four places; the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        data = rng.choice(corpus)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
            data = rng.choice(_MUTATIONS)(rng, data, rng.choice(corpus))[:LENGTH_MAX]
        yield data


def _flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    if not data:
        return other
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _insert(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _overwrite(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    token = rng.choice(TOKENS)
    return data[:at] + token + data[at + len(token) :]


def _delete(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop = _slice(rng, data)
    return data[:start] + data[stop:]


def _double(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, stop = _slice(rng, data)
    return data[:stop] + data[start:stop] + data[stop:]


def _repeat(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Deep nesting and long runs; rarely, since they cost most."""
    if rng.random() < 0.9:
        return _double(rng, data, other)
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.randrange(1, 4)]
    return data[:start] + part * rng.choice((10, 1000, 50_000)) + data[start:]


def _cut(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _noise(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return rng.randbytes(rng.randrange(32))


def _slice(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.randrange(1, 16))


_MUTATIONS: Final[Sequence[Callable[[random.Random, bytes, bytes], bytes]]] = (
    _flip, _flip, _insert, _insert, _overwrite, _overwrite, _delete, _double, _repeat, _cut, _splice, _noise
)  # fmt: skip
