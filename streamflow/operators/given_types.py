"""What a function of a record gives: the type it is annotated with, or that of the part which it plainly reads."""

from __future__ import annotations

import dis
import inspect
import operator
import types
import typing
from collections.abc import Callable
from typing import Any, Final

from streamflow.codecs import codec_for
from streamflow.errors import DefinitionError

_PLAIN: Final = (str, int, float, bool, type(None), None, object)
"""Types that JSON tells by itself: to store them as whatever comes is as good, and refuses nothing."""

_ACTS: Final = ("CALL", "JUMP", "STORE", "DELETE", "IMPORT", "YIELD", "MAKE", "SEND")
"""Parts of names of instructions: a lambda without them changes nothing and takes one way only."""

_DEPTH_MAX: Final = 8
"""Tuples in tuples beyond this are not looked into."""


def given_type(function: Callable[..., Any], record: Any) -> Any:
    """The type that a function gives for records of a type; Any where nothing tells it.

    An annotation is taken at its word. A lambda that only reads, such as ``lambda o: (o.user, o.lines[0].price)``, and
    what `operator.attrgetter` makes, are run on a stand-in for the record that knows the types of its parts.

    Args:
        function: Takes a record.
        record: The records' type; None or Any where it is not known.
    """
    if isinstance(function, type):
        return storable(function)
    annotated = _annotated(function)
    if annotated is not Any:
        return annotated
    if not _only_reads(function):
        return Any
    try:
        found = function(_Part(record))
    except Exception:  # whatever a lambda makes of the stand-in: then it does more than read
        return Any
    return storable(_type_of(found))


def storable(kind: Any) -> Any:
    """A type as that of what is stored: Any where JSON tells it by itself, or cannot be read as one.

    Args:
        kind: The type; None where it is not known.
    """
    if kind in _PLAIN or isinstance(kind, typing.TypeVar) or (typing.get_origin(kind) and kind.__parameters__):
        return Any
    try:
        codec_for(kind)
    except (DefinitionError, NameError):
        return Any
    return kind


def _annotated(function: Callable[..., Any]) -> Any:
    try:
        return typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError):
        return Any


def _only_reads(function: Callable[..., Any]) -> bool:
    if isinstance(function, operator.attrgetter | operator.itemgetter):
        return True
    if not isinstance(function, types.FunctionType) or function.__name__ != "<lambda>":
        return False
    return not any(act in each.opname for each in dis.get_instructions(function) for act in _ACTS)


class _Part:
    """Stands for a part of a record of which only the type is known; it can be read, and nothing else."""

    __slots__ = ("_kind",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> _Part:
        kind = self._kind
        found = inspect.getattr_static(kind, name, None) if isinstance(kind, type) else None
        if isinstance(found, property) and found.fget is not None:
            return _Part(_annotated(found.fget))
        return _Part(typing.get_type_hints(kind)[name])

    def __getitem__(self, at: Any) -> _Part:
        kind, arguments = typing.get_origin(self._kind), typing.get_args(self._kind)
        if typing.is_typeddict(self._kind):
            return _Part(typing.get_type_hints(self._kind)[at])
        if kind is tuple and arguments[-1] is not Ellipsis:
            return _Part(arguments[at])
        if kind in (tuple, list) and isinstance(at, int):
            return _Part(arguments[0])
        if kind is dict:
            return _Part(arguments[1])
        raise TypeError("nothing is known of its items")

    def __bool__(self) -> bool:
        raise TypeError("what it is decides, and is not known")

    def __eq__(self, other: object) -> bool:
        raise TypeError("what it is decides, and is not known")


def _type_of(found: Any, depth: int = 0) -> Any:
    if type(found) is _Part:
        return found._kind
    if type(found) is tuple and found and depth < _DEPTH_MAX:
        return tuple[tuple(storable(_type_of(part, depth + 1)) for part in found)]  # type: ignore[misc]
    return Any
