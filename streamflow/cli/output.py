"""What commands print: tables, JSON, figures for people, and text that cannot harm a terminal."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, Final, TextIO

import click

from streamflow.connect.secret import redact

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")

Cell = str | int | float | bytes | None


def one_line(text: str) -> str:
    """A message on one line, without control characters, and without a login that stands in a URL."""
    return printable(redact(" ".join(text.split())))


def printable(text: str) -> str:
    """Text with its control characters spelled out, so that data cannot steer the terminal."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def draws(stream: TextIO | None = None) -> bool:
    """Whether a stream can show the characters that lines and boxes are drawn with."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        "─│├└●■".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def echo_json(value: Any) -> None:
    """Prints a value as JSON in ASCII."""
    click.echo(json.dumps(value, indent=2, default=json_value))


def json_value(value: Any) -> Any:
    """What JSON has no type for: bytes as text where they are text, else in hex; all else by its name."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    return str(value)


def echo_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Prints rows in columns, numbers to the right."""
    for line in table(headers, rows):
        click.echo(line)


def table(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Lays rows out in columns, numbers to the right; no column is cut."""
    texts = [[_text(cell) for cell in row] for row in rows]
    heads = [printable(str(head)) for head in headers]
    widths = [max(map(width, column)) for column in zip(heads, *texts, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[at], int | float) or row[at] is None for row in rows)
        for at in range(len(heads))
    ]

    def line(cells: Sequence[str]) -> str:
        parts = [
            " " * (size - width(cell)) + cell if to_right else cell + " " * (size - width(cell))
            for cell, size, to_right in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    rule = "─" if draws() else "-"
    return [line(heads), line([rule * size for size in widths]), *map(line, texts)]


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bytes):
        return printable(str(json_value(cell)))
    return printable(str(cell))


def figure(number: float) -> str:
    """A number for people: 1,234,567 or 12.3."""
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def size(count: float) -> str:
    """A number of bytes for people."""
    steps = 0
    while count >= 1024 and steps < len(_UNITS) - 1:
        count, steps = count / 1024, steps + 1
    return f"{count:.{1 if steps else 0}f} {_UNITS[steps]}"


def plural(count: int, noun: str) -> str:
    """``1 record``, ``2,000 records``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
