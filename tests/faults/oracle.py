"""The oracle of fault trials: what must have come out for what was sent, record by record."""

from __future__ import annotations

from collections import Counter
from typing import Any


def check_at_least_once(sent: Counter[str], found: list[dict[str, Any]], where: str) -> int:
    """The oracle of at-least-once: every record is there, with the count that belongs to it; returns how many twice."""
    results = [(each["key"], each["n"], each["count"]) for each in found]
    wanted = {(key, n, n) for key, count in sent.items() for n in range(1, count + 1)}
    assert set(results) == wanted, f"{where}: {len(wanted - set(results))} missing, {len(set(results) - wanted)} wrong"
    return len(results) - len(wanted)


def check(sent: Counter[str], found: list[dict[str, Any]], where: str, since: Counter[str] | None = None) -> None:
    """The oracle: per key record 1 to the last, each once, in order, with the count that belongs to it."""
    since = since or Counter()
    per_key: dict[Any, list[tuple[int, int, int]]] = {}
    for result in found:
        per_key.setdefault(result["key"], []).append((result["n"], result["count"], result["gap"]))
    for key, count in sent.items():
        got = per_key.pop(key, [])
        wanted = [(n, n, 1) for n in range(since[key] + 1, count + 1)]
        if got != wanted:
            at = next((at for at, pair in enumerate(zip(got, wanted, strict=False)) if pair[0] != pair[1]), len(got))
            doubled = len(got) - len(set(got))
            raise AssertionError(
                f"{where}: {key}: {count} sent, {len(got)} came, {doubled} of them twice; wrong from the "
                f"{at}th on: {got[at : at + 3]}"
            )
    assert not per_key, f"{where}: results for keys that nobody sent: {list(per_key)[:3]}"
