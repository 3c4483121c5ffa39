"""The corpus: the sources of Python's own standard library, real text that is on every machine."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

NOT_OURS = {"test", "tests", "idle_test", "idlelib", "site-packages", "dist-packages", "__pycache__"}
"""Folders that are left out: tests, and what is not the standard library."""

_NO_LETTERS = re.compile(rb"[^A-Za-z]+")


def find_files() -> list[Path]:
    """Returns the source files of the standard library, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    return [path for path in sorted(root.rglob("*.py")) if NOT_OURS.isdisjoint(path.relative_to(root).parts)]


def count_words(files: Sequence[Path], words_min: int | None = None) -> tuple[list[Path], Counter[str]]:
    """Counts every word with nothing but the files at hand: the truth that the flow must arrive at.

    It shares no code with the flow: here bytes are split where there is no letter, there text is searched for letters.

    Args:
        files: Where to count.
        words_min: Stop after the file with which so many words are reached; None for all files.

    Returns:
        The files counted, and how often each word stands in them.
    """
    counts: Counter[bytes] = Counter()
    taken = []
    for file in files:
        counts.update(_NO_LETTERS.split(file.read_bytes()))
        del counts[b""]  # what `split` leaves before the first word and behind the last
        taken.append(file)
        if words_min is not None and counts.total() >= words_min:
            break
    return taken, Counter({word.decode(): count for word, count in counts.items()})


def read_lines(files: Sequence[Path]) -> Iterator[bytes]:
    """Yields the text line by line."""
    for file in files:
        # A few files are not UTF-8 (they say so in their first line); their words are ASCII all the same.
        text = file.read_text(encoding="utf-8", errors="replace")
        yield from (line.encode() for line in text.splitlines())
