"""Addressing: what users say of where each record goes at a sink, and of what rides along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypedDict, TypeVar

from streamflow.batch import Headers
from streamflow.connect.contracts import SinkOptions
from streamflow.flow import build

T = TypeVar("T")


class Addressing(TypedDict, Generic[T], total=False):
    """Functions of a record that `Stream.to` may be given besides.

    Args:
        key: Gives a record's key; default is the stream's key.
        headers: Gives a record's headers.
        subject: Gives a record's subject or routing key, where the broker has one.
        partition: Gives a record's partition, where the broker has some.
    """

    key: Callable[[T], Any] | None
    headers: Callable[[T], Headers] | None
    subject: Callable[[T], str] | None
    partition: Callable[[T], int] | None


def sink_options(sink: str, addressing: Addressing[T]) -> SinkOptions:
    """What a connector is told.

    Raises:
        DefinitionError: There is something else among it.
    """
    build.check_options(f"to() of sink {sink!r}", addressing, Addressing.__annotations__)
    return SinkOptions(**addressing)
