"""Ordering: what users say of the order in which records enter a flow, and `merge` as a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from streamflow.clock import Duration, duration_ms
from streamflow.errors import DefinitionError
from streamflow.plan.order import Ordering

if TYPE_CHECKING:
    from streamflow.flow.keyed import KeyedStream
    from streamflow.flow.stream import Stream

T = TypeVar("T")
K = TypeVar("K")

Order = Literal["time"] | None


def check_order(order: Any) -> bool:
    """Whether records are to be ordered by event time.

    Raises:
        DefinitionError: It says something else.
    """
    if order not in (None, "time"):
        raise DefinitionError(f"order={order!r}", hint='Write order="time", or leave it out.')
    return order is not None


def check_ordering(order: Any, hold_max: Duration | None, max_drift: Duration | None) -> Ordering | None:
    """What a source says of its order.

    Raises:
        DefinitionError: It makes no sense together.
    """
    if not check_order(order):
        if hold_max is not None or max_drift is not None:
            raise DefinitionError('hold_max= and max_drift= are for order="time"', hint='Add order="time".')
        return None
    return Ordering(
        None if hold_max is None else duration_ms(hold_max),
        None if max_drift is None else duration_ms(max_drift) * 1000,
    )


@overload
def merge(
    stream: KeyedStream[K, T], /, *others: KeyedStream[K, T], order: Order = None, name: str | None = None
) -> KeyedStream[K, T]: ...
@overload
def merge(stream: Stream[T], /, *others: Stream[T], order: Order = None, name: str | None = None) -> Stream[T]: ...
def merge(stream: Any, /, *others: Any, order: Order = None, name: str | None = None) -> Any:
    """Puts streams together: `Stream.merge` as a function."""
    return stream.merge(*others, order=order, name=name)
