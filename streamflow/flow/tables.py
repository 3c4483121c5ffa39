"""Tables: the last value of each key of a changelog, and the verbs that make them and look them up."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from streamflow.clock import Duration, duration_ms
from streamflow.codecs import codec_for
from streamflow.connect.static import RowCodec, StaticRows
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.awaiting import is_async
from streamflow.flow.state import OF_HINT, check_bound
from streamflow.graph import SOURCE, OnError, Port, Step
from streamflow.operators.bind import StateSpec
from streamflow.operators.tables import Change, TableHandle
from streamflow.policy import Policy
from streamflow.runtime.static_tables import Content

if TYPE_CHECKING:
    from streamflow.flow.flow import Flow
    from streamflow.flow.keyed import KeyedStream
    from streamflow.flow.stream import Stream

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")

Tables = Sequence[TableHandle[Any, Any]]
"""Tables that a step may look up."""


class Table(TableHandle[K, V]):
    """The last value of each key. Made by `KeyedStream.to_table` and `Flow.table`.

    GUARANTEE: whoever looks a key up finds the value as of the record's own place in the order of all records.
    BOUND: one entry per key; see ``ttl`` and ``max_keys`` of `KeyedStream.to_table`.
    """

    def __init__(self, flow: Flow, step: Step, kind: Any, key_type: Any) -> None:
        super().__init__(step.id)
        self._flow = flow
        self._type = kind
        self._key_type = key_type

    @property
    def name(self) -> str:
        """The name under which its entries are stored."""
        return self._step.name

    @property
    def changes(self) -> KeyedStream[K, Change[V]]:
        """Every change, as a stream: what a key's value was before, and is now."""
        from streamflow.flow.keyed import KeyedStream

        return KeyedStream(self._flow, Port(self._id), Change, self._key_type)

    @property
    def _step(self) -> Step:
        return self._flow._builder.step(self._id)

    def __repr__(self) -> str:
        return f"<Table {self.name} of flow {self._flow.name}>"


class TableVerbs(Generic[K, T]):
    """How a `KeyedStream` becomes a table."""

    _flow: Flow
    _port: Port
    _type: Any
    _key_type: Any

    @overload
    def to_table(
        self: TableVerbs[K, V | None],
        *,
        name: str,
        of: type[V] | None = None,
        ttl: Duration | None = None,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Table[K, V]: ...
    @overload
    def to_table(
        self,
        *,
        name: str,
        of: type[T] | None = None,
        ttl: Duration | None = None,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Table[K, T]: ...

    def to_table(
        self,
        *,
        name: str,
        of: Any = None,
        ttl: Duration | None = None,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Any:
        """Keeps the last record of each key, as a table that other streams `join`; None removes the key.

        Args:
            name: Name under which the entries are stored.
            of: Type of the values, where it cannot be told from annotations.
            ttl: A key is gone this long after its last record, by processing time.
            max_keys: Most keys; a record of one more is an error of the step. Keys whose ttl is over do not count.
            on_error: What happens to such a record, or to one that cannot be stored.
        """
        kind = of if of is not None else present(self._type)
        spec = StateSpec(
            "value",
            Any if kind is None else kind,
            ttl_ms=None if ttl is None else duration_ms(ttl),
            keys_max=check_bound("max_keys", max_keys),
            hint=OF_HINT,
        )
        codec_for(spec.type)
        return _table(self._flow, self._port, name, spec, self._key_type, on_error)


class BroadcastVerbs(Generic[T]):
    """What any `Stream` can do with tables: look them up by any key, or walk through them."""

    _flow: Flow
    _port: Port

    if TYPE_CHECKING:

        @property
        def _step(self) -> Step: ...
        def _like(self, keyed: bool, port: Port, kind: Any) -> Any: ...

    @overload
    def join_broadcast(
        self,
        table: Table[K, V],
        /,
        *,
        by: Callable[[T], K | None],
        how: Literal["inner"] = "inner",
        name: str | None = None,
        on_error: Policy = OnError.STOP,
    ) -> Stream[tuple[T, V]]: ...
    @overload
    def join_broadcast(
        self,
        table: Table[K, V],
        /,
        *,
        by: Callable[[T], K | None],
        how: Literal["left"],
        name: str | None = None,
        on_error: Policy = OnError.STOP,
    ) -> Stream[tuple[T, V | None]]: ...
    @overload
    def join_broadcast(
        self,
        table: Table[Any, V],
        /,
        *,
        where: Callable[[T, V], object] | None = None,
        how: Literal["inner"] = "inner",
        name: str | None = None,
        on_error: Policy = OnError.STOP,
    ) -> Stream[tuple[T, V]]: ...
    @overload
    def join_broadcast(
        self,
        table: Table[Any, V],
        /,
        *,
        where: Callable[[T, V], object] | None = None,
        how: Literal["left"],
        name: str | None = None,
        on_error: Policy = OnError.STOP,
    ) -> Stream[tuple[T, V | None]]: ...

    def join_broadcast(
        self,
        table: Table[Any, Any],
        /,
        *,
        by: Any = None,
        where: Any = None,
        how: str = "inner",
        name: str | None = None,
        on_error: Policy = OnError.STOP,
    ) -> Any:
        """Gives each record with values of a table that is small enough to stand beside every key.

        With ``by`` that is the one value of a key; else each value, in the order of their keys, for which ``where``
        is true. The stream keeps its own keys, if it has some.

        Args:
            table: The table.
            by: ``record -> key of the table``; None finds nothing.
            where: ``(record, value) -> bool``; costs a call per record and value.
            how: "inner" leaves records without a value out, "left" gives them with None.
            name: The step's name.
            on_error: What happens when a function raises.
        """
        if by is not None and where is not None:
            raise DefinitionError("join_broadcast takes by= or where=, not both", hint="Filter behind it instead.")
        for function in (by, where):
            if function is not None:
                build.check_function("join_broadcast", function)
        given = _Lookup("join_broadcast", how, name, on_error, by or where)
        step = _add_step("broadcast", self, table, given) if by is None else _add_lookup(self, table, given)
        return self._like(self._step.keyed, Port(step.id), tuple)


def present(kind: Any) -> Any:
    """The type of the values that are there: ``V`` of ``V | None``; None if it is not known."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(kind) if part is not type(None)]
        return typing.Union[tuple(parts)] if parts else None  # noqa: UP007 - made of what is found
    return kind


def static_table(
    flow: Flow,
    load: Any,
    key: Callable[[Any], Any] | None,
    name: str | None,
    of: Any,
    max_keys: int | None,
) -> Table[Any, Any]:
    """Adds a table whose content is loaded at each start; see `Flow.table`."""
    if not isinstance(load, Path):
        build.check_callable("table", load)
    given = build.returns(load) if callable(load) else None
    parts = typing.get_args(given)
    if key is None and len(parts) == 2:
        key_type, found = parts
    else:
        key_type, found = build.returns(key), parts[0] if parts else None
    kind = of if of is not None else found
    called = name or (re.sub(r"[^A-Za-z0-9_-]", "-", load.stem) if isinstance(load, Path) else None)
    called = build.stable_name("table", load if callable(load) else None, called)
    codec = RowCodec(Any if kind is None else kind, key_type)
    what = f"{load.name}" if isinstance(load, Path) else build.function_name(load) or "a function"
    source = flow._builder.add(
        SOURCE,
        called,
        [],
        spec=StaticRows(called, codec, what),
        message=False,
        on_error=OnError.STOP,
        event_time=None,
        content=Content(load, key, codec),
    )
    spec = StateSpec("value", Any if kind is None else kind, keys_max=check_bound("max_keys", max_keys))
    codec_for(spec.type)
    return _table(flow, Port(source.id), called, spec, key_type, OnError.STOP, pairs=True)


def _table(  # noqa: PLR0913 - what a table step holds
    flow: Flow, port: Port, name: str, spec: StateSpec, key_type: Any, on_error: OnError, *, pairs: bool = False
) -> Table[Any, Any]:
    step = flow._builder.add(
        "table",
        name,
        [port],
        keyed=True,
        state=spec,
        key_type=key_type,
        pairs=pairs,
        on_error=build.check_policy(on_error),
    )
    return Table(flow, step, spec.type, key_type)


@dataclass(frozen=True, slots=True)
class _Lookup:
    """What a verb that looks a table up was given."""

    verb: str
    how: str
    name: str | None
    on_error: Policy
    function: Callable[..., Any] | None = None


def named_tables(flow: Flow, step: str, function: Callable[..., Any], tables: Sequence[Any]) -> tuple[str, ...]:
    """The ids of the tables that a step's function may look up.

    Raises:
        DefinitionError: It cannot look them up.
    """
    for table in tables:
        if not isinstance(table, Table):
            raise DefinitionError(f"tables= of step {step!r} holds {table!r:.60}, which is no table")
        if table._flow is not flow:
            raise DefinitionError(f"step {step!r} looks up table {table.name!r} of another flow")
    if tables and is_async(function):
        raise DefinitionError(
            f"async step {step!r} cannot look up tables: they change while its calls are under way",
            hint="Look up in a plain step before it, which passes on what it found.",
        )
    return tuple(dict.fromkeys(table.id for table in tables))


def join_table(stream: Any, table: Table[Any, Any], how: str, options: Mapping[str, Any]) -> Any:
    """Adds the join of a keyed stream with a table, by the stream's key; see `KeyedStream.join`."""
    build.check_options("a join with a table", options, ("name", "on_error"))
    given = _Lookup("join", how, options.get("name"), options.get("on_error", OnError.STOP))
    return stream._like(True, Port(_add_lookup(stream, table, given).id), tuple)


def _add_lookup(stream: Any, table: Table[Any, Any], given: _Lookup) -> Step:
    """Adds a step that looks up one key for each record.

    Raises:
        DefinitionError: The table is another flow's, or its keys are of another type.
    """
    found = stream._key_type if given.function is None else build.returns(given.function)
    kinds = (present(found), getattr(table, "_key_type", None))
    if None not in kinds and kinds[0] != kinds[1]:
        raise DefinitionError(
            f"{given.verb} looks up table {table.name!r} by keys of type {kinds[0]}, and its own are {kinds[1]}",
            hint="Give both keys of one type.",
        )
    return _add_step("lookup", stream, table, given)


def _add_step(kind: str, stream: Any, table: Any, given: _Lookup) -> Step:
    verb, function = given.verb, given.function
    if not isinstance(table, Table):
        raise DefinitionError(
            f"{verb} looks up a table, not {table!r:.60}", hint='Make one: stream.key_by(...).to_table(name="...").'
        )
    if table._flow is not stream._flow:
        raise DefinitionError(f"{verb} looks up table {table.name!r} of another flow")
    if given.how not in ("inner", "left"):
        raise DefinitionError(f"how={given.how!r} of {verb}", hint='Write how="inner" or how="left".')
    builder = stream._flow._builder
    options = build.policy_options(given.on_error, waits=False)
    if function is not None:
        function, options = build.retrying(function, given.on_error)
    step: Step = builder.add(
        kind,
        builder.stateless_name(verb, None, given.name),
        [stream._port],
        function,
        keyed=stream._step.keyed,
        reads=(table.id,),
        how=given.how,
        verb=verb,
        **options,
    )
    return step
