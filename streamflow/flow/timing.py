"""Timing: what users say of a source's event time, and of the order that goes by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from streamflow.clock import Duration, duration_ms
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.ordering import Order
from streamflow.runtime.event_time import EventTime


class TimeOptions(TypedDict, total=False):
    """What a source with ``time=`` may be given besides.

    Args:
        lateness: So far behind the latest record of their partition records are waited for; "0s" by default.
        idle: A partition that was silent for so long, with nothing more to read, is not waited for; "30s" by default.
            None waits.
        future_max: A record whose time is further ahead of the clock than this has no event time that can be used; so
            one wrong clock cannot make all other records late. "1d" by default.
        order: "time" releases records to the flow in the order of (event time, partition, position), as far as the
            watermark has got; so results do not depend on how fast partitions are read. See docs/semantics.md.
        hold_max: With ``order``, no record is held for longer; it is released out of order then, and counted. Without
            it a record is held until its time has come.
        max_drift: With ``order``, partitions further ahead of the others than this are not read for a while.
    """

    lateness: Duration
    idle: Duration | None
    future_max: Duration
    order: Order
    hold_max: Duration | None
    max_drift: Duration | None


def event_time_of(source: str, time: Any, options: TimeOptions) -> EventTime | None:
    """The event time of a source's records, if they have one.

    Args:
        source: Its name, for people.
        time: A function of records, "broker" for the broker's timestamps, or None.
        options: What was said besides.

    Raises:
        DefinitionError: An option is unknown, or makes no sense without ``time=``.
    """
    build.check_options(f"source {source!r}", options, TimeOptions.__annotations__)
    if time is None:
        for name in ("lateness", "idle", "future_max"):
            if name in options:
                raise DefinitionError(
                    f"source {source!r} has {name}= and no event time",
                    hint="Say how to tell it: time=lambda record: ...",
                )
        return None
    of: Callable[[Any], Any] | None = None
    if time != "broker":
        build.check_function("time=", time)
        of = time
    idle = options.get("idle", "30s")
    return EventTime(
        of,
        duration_ms(options.get("lateness", "0s")) * 1000,
        None if idle is None else duration_ms(idle),
        duration_ms(options.get("future_max", "1d")) * 1000,
    )
