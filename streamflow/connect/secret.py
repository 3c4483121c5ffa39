"""Secrets: a text that never shows, a login that holds one, and messages from which credentials are taken out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

_LOGIN: Final = re.compile(r"([A-Za-z][\w+.-]{0,30}://)[^/\s'\"<>]*@")
_NAMED: Final = re.compile(r"(?i)([?&;](?:pass(?:word|wd)?|token|secret)=)[^&;\s]*")
_KEY: Final = re.compile(r"\bS[A-Z2-7]{40,}|\beyJ[\w-]{20,}(?:\.[\w-]*)*")


def redact(text: str) -> str:
    """Takes out of a message what stands in a URL before the ``@``, passwords in its query, seeds and web tokens."""
    return _KEY.sub("***", _NAMED.sub(r"\1***", _LOGIN.sub(r"\1***@", text)))


class Secret:
    """A password or token that no repr, format, log line or pickle ever shows; `reveal` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Returns the text; for the moment of use only."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never pickled or copied into a file")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self


def as_secret(value: str | Secret) -> Secret:
    """Wraps a text; a `Secret` passes through."""
    return value if isinstance(value, Secret) else Secret(value)


@dataclass(frozen=True, slots=True)
class UserPassword:
    """Log in with user name and password.

    Args:
        user: The user's name.
        password: The password; kept as a `Secret`.
    """

    user: str
    password: str | Secret

    def __post_init__(self) -> None:
        object.__setattr__(self, "password", as_secret(self.password))

    def reveal(self) -> str:
        """Returns the password; for the moment of use only."""
        return as_secret(self.password).reveal()
