"""Joins of two keyed streams: what users write with `KeyedStream.join`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Required, TypedDict, TypeVar, Unpack, cast, overload

from streamflow.clock import Duration, duration_ms, signed_ms
from streamflow.codecs import JsonCodec, type_name
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.state import TYPES_HINT, check_bound
from streamflow.flow.tables import Table, join_table
from streamflow.graph import OnError, Port, Step
from streamflow.operators.bind import StateSpec
from streamflow.operators.join_kinds import PRESERVED, AsOf, Interval, JoinKind, held_type
from streamflow.operators.window_kinds import Calendar, Session, Sliding, Tumbling, WindowKind
from streamflow.operators.windows import Windowed
from streamflow.policy import Policy

if TYPE_CHECKING:
    from streamflow.flow.flow import Flow
    from streamflow.flow.joined import JoinResult
    from streamflow.flow.keyed import KeyedStream

K = TypeVar("K")
L = TypeVar("L")
R = TypeVar("R")

Within = Duration | tuple[Duration, Duration]
"""How far apart two records that match may be: either way, or (right one before, right one after) the left one.

One of the two may be negative: ``("10m", "-5m")`` is 10 to 5 minutes before.
"""

How = Literal["inner", "left", "right", "outer"]


class JoinOptions(TypedDict, total=False):
    """What a join is given besides.

    Args:
        name: Name under which waiting records are stored.
        types: Types of the left and the right records, where they cannot be told from annotations.
        max_keys: Most keys with waiting records; a record of one more is an error of the step.
        on_error: What happens to such a record, and to one that cannot be stored.
    """

    name: Required[str]
    types: tuple[Any, Any]
    max_keys: int
    on_error: OnError


class JoinVerbs(Generic[K, L]):
    """How a keyed stream is joined with another."""

    _flow: Flow
    _port: Port
    _type: Any
    _key_type: Any

    @overload
    def join(
        self,
        other: KeyedStream[K, R],
        *,
        within: Within,
        how: Literal["inner"] = "inner",
        **options: Unpack[JoinOptions],
    ) -> JoinResult[K, L, R, tuple[L, R]]: ...
    @overload
    def join(
        self, other: KeyedStream[K, R], *, within: Within, how: Literal["left"], **options: Unpack[JoinOptions]
    ) -> JoinResult[K, L, R, tuple[L, R | None]]: ...
    @overload
    def join(
        self, other: KeyedStream[K, R], *, within: Within, how: Literal["right"], **options: Unpack[JoinOptions]
    ) -> JoinResult[K, L, R, tuple[L | None, R]]: ...
    @overload
    def join(
        self, other: KeyedStream[K, R], *, within: Within, how: Literal["outer"], **options: Unpack[JoinOptions]
    ) -> JoinResult[K, L, R, tuple[L | None, R | None]]: ...
    @overload
    def join(
        self,
        other: KeyedStream[K, R],
        *,
        window: WindowKind,
        how: Literal["inner"] = "inner",
        **options: Unpack[JoinOptions],
    ) -> JoinResult[K, L, R, Windowed[K, tuple[L, R]]]: ...
    @overload
    def join(
        self, other: KeyedStream[K, R], *, window: WindowKind, how: Literal["left"], **options: Unpack[JoinOptions]
    ) -> JoinResult[K, L, R, Windowed[K, tuple[L, R | None]]]: ...
    @overload
    def join(
        self, other: KeyedStream[K, R], *, window: WindowKind, how: Literal["right"], **options: Unpack[JoinOptions]
    ) -> JoinResult[K, L, R, Windowed[K, tuple[L | None, R]]]: ...
    @overload
    def join(
        self, other: KeyedStream[K, R], *, window: WindowKind, how: Literal["outer"], **options: Unpack[JoinOptions]
    ) -> JoinResult[K, L, R, Windowed[K, tuple[L | None, R | None]]]: ...

    @overload
    def join(
        self,
        other: Table[K, R],
        *,
        how: Literal["inner"] = "inner",
        name: str | None = None,
        on_error: Policy = OnError.STOP,
    ) -> KeyedStream[K, tuple[L, R]]: ...
    @overload
    def join(
        self, other: Table[K, R], *, how: Literal["left"], name: str | None = None, on_error: Policy = OnError.STOP
    ) -> KeyedStream[K, tuple[L, R | None]]: ...

    def join(
        self,
        other: KeyedStream[K, Any] | Table[K, Any],
        *,
        within: Within | None = None,
        window: WindowKind | None = None,
        how: How = "inner",
        **options: Any,
    ) -> Any:
        """Joins records of this stream, the left one, with those of another, or a table's values, of the same key.

        ``orders.join(payments, within="15m", how="left", name="paid")`` gives ``(order, payment)`` as soon as both
        are there, and ``(order, None)`` once no payment can match it any more. With ``window=`` it gives the pairs of
        each window at its end, as `Windowed`. Late records are in ``.late.left`` and ``.late.right``.

        ``orders.join(prices.to_table(name="prices"))`` gives ``(order, price)``, the price as of the order's place in
        the order of all records. It takes ``how="inner"`` or ``"left"``, and needs no event time and no name.

        Args:
            other: The right stream, or a table, with keys of the same type.
            within: How far apart in event time two records may be, both ends included; ``("5m", "15m")``: the right
                one up to 5 minutes before and up to 15 minutes after the left one; ``("10m", "-5m")``: 10 to 5 minutes
                before it, ``("-5m", "15m")``: 5 to 15 minutes after it.
            window: Instead: `tumbling`, `sliding` or `session` windows, in which records are joined.
            how: "inner" gives pairs only; "left", "right" and "outer" also give the records of that side, or of
                both, that nothing matched, with None for the other.
            **options: ``name`` and more: see `JoinOptions`.

        Raises:
            DefinitionError: The two cannot be joined, or not so.
        """
        if isinstance(other, Table):
            if within is not None or window is not None:
                raise DefinitionError("a join with a table takes neither within= nor window=")
            return join_table(self, other, how, options)
        kind = _kind_of(within, window)
        if how not in PRESERVED:
            raise DefinitionError(f"how={how!r} of a join", hint=f"Write how= one of {', '.join(PRESERVED)}.")
        return _joined(self, other, kind, how, cast(JoinOptions, options))

    @overload
    def join_asof(
        self,
        other: KeyedStream[K, R],
        *,
        within: Duration | None = None,
        how: Literal["inner"] = "inner",
        allowed_lateness: Duration = "0s",
        **options: Unpack[JoinOptions],
    ) -> JoinResult[K, L, R, tuple[L, R]]: ...
    @overload
    def join_asof(
        self,
        other: KeyedStream[K, R],
        *,
        within: Duration | None = None,
        how: Literal["left"],
        allowed_lateness: Duration = "0s",
        **options: Unpack[JoinOptions],
    ) -> JoinResult[K, L, R, tuple[L, R | None]]: ...

    def join_asof(
        self,
        other: KeyedStream[K, Any],
        *,
        within: Duration | None = None,
        how: Literal["inner", "left"] = "inner",
        allowed_lateness: Duration = "0s",
        **options: Unpack[JoinOptions],
    ) -> Any:
        """Joins each record with the latest one of another stream that has its key and did not happen later.

        ``orders.join_asof(prices, name="priced")`` gives ``(order, price)`` with the price that held when the order
        happened. A record waits until the watermark is behind it; so the result does not depend on which stream is
        read faster. A right record of None ends what was there before it. Kept of the right stream are the latest
        record of each key, and those that a waiting record may still find.

        Args:
            other: The right stream, with keys of the same type.
            within: How much earlier the right record may be; without it as early as it likes, and the latest record
                of each key is kept for ever.
            how: "inner" leaves records that find nothing out, "left" gives them with None.
            allowed_lateness: So late a record may be: a left one is joined at once, a version counts for those to come.
            **options: ``name`` and more: see `JoinOptions`.

        Raises:
            DefinitionError: The two cannot be joined.
        """
        if how not in ("inner", "left"):
            raise DefinitionError(f"how={how!r} of an as-of join", hint='Write how="inner" or how="left".')
        within_us = None if within is None else duration_ms(within) * 1000
        return _joined(self, other, AsOf(within_us, duration_ms(allowed_lateness) * 1000), how, options)


def _kind_of(within: Within | None, window: WindowKind | None) -> JoinKind:
    if (within is None) == (window is None):
        raise DefinitionError(
            "a join takes either within= or window=", hint='Write within="15m", or window=sf.tumbling("1m").'
        )
    if window is None:
        return _interval(within)
    if not isinstance(window, Tumbling | Calendar | Sliding | Session):
        raise DefinitionError(
            f"records cannot be joined in windows that are {window}",
            hint="Join them in tumbling, sliding or session windows, or within= a time of each other.",
        )
    return window


def _interval(within: Any) -> Interval:
    pair = within if isinstance(within, tuple) else (within, within)
    if len(pair) != 2:
        raise DefinitionError(f"within={within!r:.60} is no interval", hint='Write "15m", or ("5m", "15m").')
    before_ms, after_ms = map(signed_ms, pair)
    if before_ms + after_ms < 0:
        raise DefinitionError(
            f"within={within!r:.60} holds nothing: it ends before it begins",
            hint='Write (how much before, how much after) the left record: ("10m", "-5m") is 10 to 5 minutes before.',
        )
    return Interval(before_ms * 1000, after_ms * 1000)


def _joined(left: Any, right: Any, kind: JoinKind, how: How, options: JoinOptions) -> Any:
    from streamflow.flow.joined import JoinResult

    build.check_options("a join", options, JoinOptions.__annotations__)
    name = build.stable_name("join", None, options.get("name"))
    key_type = _key_type_of(left, right)
    types: tuple[Any, Any] = options.get("types") or (_type_of(left), _type_of(right))
    held = held_type(kind, how, *types)
    # pydantic knows no Struct; msgspec asks it for the models in one
    codec = JsonCodec[Any](held)
    spec = StateSpec(
        "map",
        held,
        codec=codec,
        sub_type=tuple[int, int, int],
        keys_max=check_bound("max_keys", options.get("max_keys")),
        hint=TYPES_HINT,
    )
    step: Step = left._flow._builder.add(
        "join",
        name,
        [_left_port(left, right, name), right._port],
        keyed=True,
        ports=3,
        join=kind,
        how=how,
        types=types,
        state=spec,
        key_type=key_type,
        on_error=build.check_policy(options.get("on_error", OnError.STOP)),
    )
    return JoinResult(left._flow, Port(step.id), _gives(kind, how, key_type, types), key_type, types)


def _gives(kind: JoinKind, how: How, key_type: Any, types: tuple[Any, Any]) -> Any:
    """The type of what a join gives."""
    left, right = types
    left_alone, right_alone = PRESERVED[how]
    pair: Any = tuple[left | None if right_alone else left, right | None if left_alone else right]  # type: ignore[misc]
    if isinstance(kind, Interval | AsOf):
        return pair
    return Windowed[Any if key_type is None else key_type, pair]  # type: ignore[misc]


def _type_of(stream: Any) -> Any:
    return Any if stream._type is None else stream._type


def _key_type_of(left: Any, right: Any) -> Any:
    """The type of both streams' keys, where annotations tell it.

    Raises:
        DefinitionError: The two cannot be joined.
    """
    if not isinstance(right, JoinVerbs):
        raise DefinitionError(
            f"join needs keys on both sides, and {right!r:.60} has none", hint="Join with stream.key_by(...)."
        )
    if right._flow is not left._flow:
        raise DefinitionError("join got a stream of another flow")
    found = [kind for kind in (left._key_type, right._key_type) if kind is not None]
    if len(found) == 2 and found[0] != found[1]:
        raise DefinitionError(
            f"join got keys of different types: {type_name(found[0])} on the left, {type_name(found[1])} on the right",
            hint="Give both streams keys of one type.",
        )
    return found[0] if found else None


def _left_port(left: Any, right: Any, name: str) -> Port:
    """The port of the left stream; a stream that is joined with itself comes in twice, and the left one first."""
    if left._port != right._port:
        return left._port  # type: ignore[no-any-return]
    return Port(left._flow._builder.add("merge", f"{name}-left", [left._port], keyed=True).id)
