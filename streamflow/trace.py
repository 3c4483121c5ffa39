"""W3C Trace Context: what may travel on from a record's headers to what is made of it.

https://www.w3.org/TR/trace-context/: a traceparent that is not valid is left behind together with its tracestate; a
tracestate that is not valid is left behind alone. What is valid is passed on unchanged: a flow is no span of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

Headers = Mapping[str, str]

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

MEMBERS_MAX: Final = 32
"""Most members of a tracestate."""

_PARENT_SIZE: Final = len(TRACEPARENT)
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_MEMBER: Final = re.compile(
    r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


def is_traced(headers: Sequence[Headers | None]) -> bool:
    """Whether one of many records has a traceparent, valid or not."""
    for one in headers:
        if one:
            for key in one:
                if len(key) == _PARENT_SIZE and key.lower() == TRACEPARENT:
                    return True
    return False


def carried(headers: Headers | None) -> Headers | None:
    """What travels on from a record: a valid traceparent and tracestate, under the names of the standard; else None."""
    if not headers:
        return None
    parent = _spelled(headers, TRACEPARENT)
    if parent is None or not is_parent(parent):
        return None
    state = _spelled(headers, TRACESTATE)
    if state is None or not is_state(state):
        return {TRACEPARENT: parent}
    return {TRACEPARENT: parent, TRACESTATE: state}


def is_parent(text: str) -> bool:
    """Whether a traceparent is valid; of a later version than 00, as far as that can be told."""
    found = _PARENT.fullmatch(text)
    if found is None:
        return False
    version, trace, span, more = found.groups()
    known = version == "00" and more is None
    return (known or version not in ("00", "ff")) and trace.strip("0") != "" and span.strip("0") != ""


def is_state(text: str) -> bool:
    """Whether a tracestate is valid: members of the form ``key=value``, each key once."""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    return 0 < len(members) == len(keys) and len(members) <= MEMBERS_MAX and all(map(_MEMBER.fullmatch, members))


def _spelled(headers: Headers, name: str) -> str | None:
    """A header by its name in any case."""
    found = headers.get(name)
    if found is not None:
        return found
    size = len(name)
    return next((value for key, value in headers.items() if len(key) == size and key.lower() == name), None)
