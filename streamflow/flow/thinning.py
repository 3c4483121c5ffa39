"""The verbs that let fewer records through, or let them through later: dedup, sample, rate_limit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar, overload

from streamflow.clock import Duration, duration_ms
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.state import check_bound
from streamflow.graph import SOURCE, OnError, Port, Step
from streamflow.operators.bind import StateSpec
from streamflow.operators.context import Context
from streamflow.operators.event_dedup import Remembering
from streamflow.runtime.rate import RateLimit

if TYPE_CHECKING:
    from streamflow.flow.flow import Flow
    from streamflow.flow.stream import Stream

T = TypeVar("T")

_DIGITS: Final = 13
"""Digits of an id by which it is sampled: as many as a float holds."""


class ThinningVerbs(Generic[T]):
    """What a `Stream` can do to be less: less often the same, fewer, slower."""

    _flow: Flow
    _port: Port
    _type: Any

    if TYPE_CHECKING:

        @property
        def name(self) -> str: ...
        @property
        def _step(self) -> Step: ...
        def _same(self, port: Port) -> Any: ...
        def _like(self, keyed: bool, port: Port, kind: Any) -> Any: ...
        def filter(self, function: Any, /, *, name: str | None = None) -> Any: ...
        def key_by(self, function: Any, /, *, name: str | None = None) -> Any: ...

    def dedup(
        self,
        by: Callable[[T], Hashable],
        *,
        within: Duration | None = None,
        time: Literal["processing", "event"] = "processing",
        name: str,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Stream[T]:
        """Lets through the first record of each identity and drops the others.

        Args:
            by: ``record -> identity``, of a type that keys may have.
            within: How long an identity is remembered, counted from its first record; without it for ever, and
                state grows with every identity.
            time: Which time that goes by. By event time a record that happened less than ``within`` after the first
                one, or before it, is dropped, also when it comes much later: as long as the watermark of its partition
                is not behind that span.
            name: Name under which the identities are stored.
            max_keys: Most identities remembered at a time; a record with one more is an error of the step.
            on_error: What happens when ``by`` raises.
        """
        build.check_function("dedup", by)
        ttl = None if within is None else duration_ms(within)
        by_event = time == "event"
        if time not in ("processing", "event") or (by_event and ttl is None):
            raise DefinitionError(
                f"dedup {name!r} goes by time={time!r} and has within={within!r}",
                hint='Write time="processing", or within="1h", time="event".',
            )
        state = StateSpec("value", int) if by_event else StateSpec("value", bool, ttl_ms=ttl)
        step = self._flow._builder.add(
            "dedup",
            name,
            [self._port],
            by,
            keyed=self._step.keyed,
            state=replace(state, keys_max=check_bound("max_keys", max_keys)),
            dedup=Remembering((ttl or 0) * 1000) if by_event else None,
            key_type=build.returns(by),
            context=False,
            on_error=build.check_policy(on_error),
        )
        return self._same(Port(step.id))  # type: ignore[no-any-return]

    @overload
    def sample(self, *, fraction: float, name: str | None = None) -> Stream[T]: ...
    @overload
    def sample(self, *, every: int, name: str, max_keys: int | None = None) -> Stream[T]: ...

    def sample(
        self,
        *,
        fraction: float | None = None,
        every: int | None = None,
        name: str | None = None,
        max_keys: int | None = None,
    ) -> Any:
        """Lets a part of the records through: the same ones again after a crash, and in a replay.

        Args:
            fraction: About this share of them, chosen by `Context.id`; needs no state. Steps of different names
                choose independently of each other.
            every: One of so many, the first, and then always the one after so many; per key on a keyed stream.
            name: The step's name; ``every`` stores its counts under it.
            max_keys: Most keys with a count; a record of one more is an error of the step.
        """
        if (fraction is None) == (every is None):
            raise DefinitionError("sample takes fraction= or every=", hint="Write sample(fraction=0.01).")
        if every is None:
            chosen = name or self._flow._builder.stateless_name("sample", None, None)
            sampled = self.filter(_by_id(fraction), name=chosen)
            self._flow._builder.amend(sampled._step, verb="sample")
            return sampled
        if type(every) is not int or every < 1:
            raise DefinitionError(f"sample(every={every!r:.40})", hint="Give a whole number above 0.")
        named = build.stable_name("sample", None, name)
        keyed: Any = self if self._step.keyed else self.key_by(_one_key, name=f"{named}-all")
        spec = StateSpec("value", int, int, keys_max=check_bound("max_keys", max_keys))
        step = keyed._process_step(named, _one_of(every), spec, (), OnError.STOP)
        self._flow._builder.amend(step, verb="sample")
        return keyed._like(self._step.keyed, Port(step.id), self._type)

    def rate_limit(self, records: int, *, per: Duration) -> Self:
        """Takes no more than so many records in so much time from this source; the rest waits at the broker.

        Records wait before they enter the flow, never inside it, so a commit waits for none of them. In any span of
        time no more is taken than the rate allows for it, plus a burst of 10 ms or one record. Records that are
        pushed are not limited.

        Args:
            records: How many.
            per: In what time.

        Raises:
            DefinitionError: The stream is not a source's.
        """
        if self._step.kind != SOURCE:
            raise DefinitionError(
                f"rate_limit stands behind a source, and {self.name!r} is a {self._step.kind}",
                hint="Limit its sources; bound the calls of an async step with concurrency=.",
            )
        if type(records) is not int or records < 1 or duration_ms(per) < 1:
            raise DefinitionError(f"rate_limit({records!r:.40}, per={per!r:.40}) lets nothing through")
        self._flow._builder.amend(self._step, rate=RateLimit(records, duration_ms(per)))
        return self


def _by_id(fraction: Any) -> Callable[..., bool]:
    if not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise DefinitionError(f"sample(fraction={fraction!r:.40})", hint="Give a share between 0 and 1.")
    limit = fraction * 16**_DIGITS

    def sampled(ctx: Context[Any, Any], record: Any) -> bool:
        return int(ctx.id[:_DIGITS], 16) < limit

    return sampled


def _one_of(every: int) -> Callable[..., Any]:
    def counted(ctx: Context[Any, int], record: Any) -> Iterator[Any]:
        if ctx.state == 0:
            yield record
        ctx.state = (ctx.state + 1) % every

    return counted


def _one_key(record: object) -> str:
    return ""
