"""How a user says what state a step keeps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from streamflow.clock import Duration, duration_ms
from streamflow.codecs import codec_for
from streamflow.errors import DefinitionError
from streamflow.flow.build import returns
from streamflow.operators.bind import StateSpec
from streamflow.operators.context import Context
from streamflow.state.collections import ListState

K = TypeVar("K")
V = TypeVar("V")


_BY_TYPE: Final = "Keep values that JSON gives back as they were, or say their type: "
AGG_HINT: Final = (
    _BY_TYPE + "annotate what the aggregator's function gives, or add kind=, as in sf.last(at, kind=datetime)."
)
OF_HINT: Final = _BY_TYPE + "annotate the step before, or add of=, as in of=Order."
TYPES_HINT: Final = _BY_TYPE + "annotate the steps before, or add types=, as in types=(Order, Payment)."


@dataclass(frozen=True, slots=True)
class MapSpec(Generic[K, V]):
    """State that is a mapping per key; made by `map_state`."""

    key: type[K]
    value: type[V]
    max_items: int | None = None


@dataclass(frozen=True, slots=True)
class ListSpec(Generic[V]):
    """State that is a list per key; made by `list_state`."""

    value: type[V]
    max_items: int | None = None


def map_state(key: type[K], value: type[V], *, max_items: int | None = None) -> MapSpec[K, V]:
    """State that is a mapping per key; one changed item costs one entry, however large the mapping is.

    Args:
        key: Type of the items' keys.
        value: Type of the items.
        max_items: Most items per key; setting one more is an error of the step.
    """
    return MapSpec(key, value, check_bound("max_items", max_items))


def list_state(value: type[V], *, max_items: int | None = None) -> ListSpec[V]:
    """State that is a list per key, which grows at its end and shrinks at its front; one entry per element.

    Args:
        value: Type of the elements.
        max_items: Most elements per key; appending one more is an error of the step.
    """
    return ListSpec(value, check_bound("max_items", max_items))


def check_bound(what: str, most: int | None) -> int | None:
    """Returns a bound, or None for no bound.

    Raises:
        DefinitionError: It is no whole number above 0.
    """
    if most is not None and (type(most) is not int or most < 1):
        raise DefinitionError(f"{what}={most!r:.40} is no bound", hint="Give a whole number above 0, or leave it out.")
    return most


def state_spec(state: Any, ttl: Duration | None, migrate: Callable[[Any], Any] | None) -> StateSpec:
    """Turns what ``state=`` was given into a `StateSpec`.

    Raises:
        DefinitionError: It is neither a class, a function without arguments, `map_state` nor `list_state`, or its
            type cannot be stored.
    """
    ttl_ms = None if ttl is None else duration_ms(ttl)
    if isinstance(state, MapSpec | ListSpec):
        if ttl is not None:
            raise DefinitionError("ttl= is for plain state; items of a map or list do not expire")
        is_map = isinstance(state, MapSpec)
        sub_type = state.key if isinstance(state, MapSpec) else None
        kind = "map" if is_map else "list"
        spec = StateSpec(kind, state.value, migrate=migrate, sub_type=sub_type, items_max=state.max_items)
    elif isinstance(state, type):
        spec = StateSpec("value", state, state, ttl_ms, migrate)
    elif callable(state):
        spec = StateSpec("value", _made_by(state), state, ttl_ms, migrate)
    else:
        raise DefinitionError(
            f"state={state!r:.60} is no factory", hint="Pass a class or a function without arguments: state=Account."
        )
    codec_for(spec.type)
    return spec


def _made_by(factory: Callable[[], Any]) -> Any:
    """The type a factory makes: as annotated, else as found by calling it once."""
    try:
        needs = [p for p in inspect.signature(factory).parameters.values() if p.default is p.empty and p.kind < 2]
    except (TypeError, ValueError):
        needs = []
    if needs:
        raise DefinitionError(f"the state factory {factory!r:.60} takes arguments", hint="It must work without any.")
    return returns(factory) or type(factory())


def batch_functions(size: int, within: Duration) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two functions of a batch step: one takes a record, one sends what is there when time is up."""

    def take(ctx: Context[Any, ListState[Any]]) -> Iterator[list[Any]]:
        records = list(ctx.state)
        ctx.state.clear()
        if records:
            yield records

    def collect(ctx: Context[Any, ListState[Any]], record: Any) -> Iterator[list[Any]]:
        ctx.state.append(record)
        waiting = len(ctx.state)
        if waiting >= size:
            ctx.cancel_timer("within")
            yield from take(ctx)
        elif waiting == 1:
            ctx.timer("within", after=within)

    return collect, take
