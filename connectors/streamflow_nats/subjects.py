"""Subjects: what is legal, and which pattern covers which."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from streamflow.errors import SettingsError

SUBJECT_BYTES_MAX: Final = 1024
_ILLEGAL: Final = re.compile(r"[\x00-\x20\x7f]")
_NAME: Final = re.compile(r"[^\x00-\x20\x7f.*>/\\\ud800-\udfff]{1,255}")


def check_name(name: str, what: str) -> None:
    """Refuses a stream or consumer name that the server would refuse, or that could smuggle in a command.

    Raises:
        SettingsError: The name is not legal.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} cannot be the name of a NATS {what}",
            hint="Use letters, digits, - and _; no dots, blanks, slashes or wildcards.",
        )


def check_pattern(pattern: str) -> None:
    """Refuses a subject, wildcards allowed, that is not well-formed.

    Raises:
        SettingsError: It holds blanks, control characters, empty tokens or misplaced wildcards.
    """
    problem = _problem(pattern)
    if problem:
        raise SettingsError(
            f"{pattern!r} is no NATS subject: {problem}",
            hint="Separate tokens by dots; * stands for one token, > for all the rest.",
        )


def is_literal(subject: str) -> bool:
    """Whether a well-formed subject names exactly one subject, so that one can publish on it."""
    return _problem(subject) == "" and not any(token in ("*", ">") for token in subject.split("."))


def covers(pattern: str, subject: str) -> bool:
    """Whether everything that ``subject`` (with or without wildcards) names is named by ``pattern``, too."""
    wide, narrow = pattern.split("."), subject.split(".")
    for index, token in enumerate(wide):
        if token == ">":
            return len(narrow) > index
        if index >= len(narrow) or narrow[index] == ">":
            return False
        if token not in ("*", narrow[index]):
            return False
    return len(wide) == len(narrow)


def overlap(one: str, other: str) -> bool:
    """Whether some subject is named by both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


def any_covers(patterns: Sequence[str], subject: str) -> bool:
    """Whether one of the patterns covers the subject."""
    return any(covers(pattern, subject) for pattern in patterns)


def as_token(name: str) -> str:
    """Makes a name legal in subjects and headers, reversibly: what is not a plain character becomes ``%XX``."""
    return quote(name, safe="")


def as_tokens(name: str) -> str:
    """Makes a dotted name legal in subjects and headers, its dots kept."""
    return ".".join(as_token(part) or "%00" for part in name.split("."))


def consumer_name(*parts: str) -> str:
    """Joins names to the name of a consumer, which may hold neither dots nor wildcards."""
    return "-".join(re.sub(r"[^A-Za-z0-9_-]", lambda hit: f"_{ord(hit[0]):x}_", part) for part in parts)


def _problem(subject: str) -> str:
    if not subject:
        return "it is empty"
    if _ILLEGAL.search(subject):
        return "it holds blanks or control characters"
    if len(subject.encode("utf-8", "surrogatepass")) > SUBJECT_BYTES_MAX:
        return f"it is longer than {SUBJECT_BYTES_MAX} bytes"
    tokens = subject.split(".")
    for index, token in enumerate(tokens):
        if not token:
            return "it has an empty token"
        if token == ">" and index != len(tokens) - 1:
            return "> stands before the end"
        if token not in ("*", ">") and ("*" in token or ">" in token):
            return "a wildcard is only part of a token"
    if subject.startswith("$"):
        return "subjects that start with $ belong to the server"
    try:
        subject.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return ""
