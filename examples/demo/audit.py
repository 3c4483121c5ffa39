"""The audit: record by record, is every result there, once, in its order, and as the files say?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

_EXAMPLES_SHOWN = 3


class Audit:
    """Compares the results with a count made from the files.

    A word that stands n times in the files must have the results 1, 2, ... n, in this order, and no others. So one that
    is lost, doubled or out of its order is seen, and named.

    Args:
        expected: How often each word stands in the files.
    """

    def __init__(self, expected: Mapping[str, int]) -> None:
        self.expected = expected
        self.records = self.lost = self.twice = 0
        self.counts: dict[str, int] = {}
        """The last result of each word."""
        self._examples: list[str] = []

    def take(self, payloads: Sequence[bytes]) -> None:
        """Checks the next results."""
        counts = self.counts
        # One call for many: the parser costs less than the calls.
        records = json.loads(b"[%s]" % b",".join(payloads))
        if len(records) != len(payloads):
            raise ValueError(f"{len(payloads)} messages hold {len(records)} results")
        for word, count in records:
            self.records += 1
            before = counts.get(word, 0)
            if count != before + 1:
                self._note(word, count, before)
                if count <= before:
                    continue
            counts[word] = count

    def problems(self, messages: int) -> list[str]:
        """Returns what is wrong, in one sentence each; nothing if all is right.

        Args:
            messages: How many messages the server says that the stream has.
        """
        found = []
        short = Counter({word: count - self.counts.get(word, 0) for word, count in self.expected.items()})
        self.lost += sum(missing for missing in short.values() if missing > 0)
        if self.lost:
            found.append(f"{self.lost:,} results are lost")
        if self.twice:
            found.append(f"{self.twice:,} results came twice or out of order")
        wrong = [word for word in {**self.expected, **self.counts} if self.counts.get(word) != self.expected.get(word)]
        found += [
            f"{word!r}: counted {self.counts.get(word, 0):,}, in the files {self.expected.get(word, 0):,}"
            for word in wrong[:_EXAMPLES_SHOWN]
        ]
        if len(wrong) > _EXAMPLES_SHOWN:
            found.append(f"{len(wrong) - _EXAMPLES_SHOWN:,} more words have a wrong count")
        total = sum(self.expected.values())
        if not self.records == messages == total:
            found.append(f"{total:,} words, {messages:,} messages in the stream, {self.records:,} read back")
        return [*found, *self._examples]

    def top(self, count: int) -> list[tuple[str, int, int]]:
        """Returns the most frequent words: as counted by the flow, and as they stand in the files."""
        return [
            (word, counted, self.expected.get(word, 0)) for word, counted in Counter(self.counts).most_common(count)
        ]

    def _note(self, word: str, count: int, before: int) -> None:
        if count <= before:
            self.twice += 1
        else:
            self.lost += count - before - 1
        if len(self._examples) < _EXAMPLES_SHOWN:
            self._examples.append(f"record {self.records:,}: {word!r} has result {count} after {before}")
