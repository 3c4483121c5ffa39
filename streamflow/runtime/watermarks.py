"""Watermarks of a running shard, for people: up to where sources and steps are complete."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamflow.operators.windows import moment_of
from streamflow.runtime.event_time import EARLIEST_US, LATEST_US

if TYPE_CHECKING:
    from streamflow.runtime.engine import Engine


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Up to where event time is complete, as of the last number, whether it is committed yet or not.

    GUARANTEE: none of them goes back, also when the process starts again.

    Args:
        sources: By source with an event time; None where it has not begun, since a partition gave no record yet.
        steps: By step that goes by event time - windows, joins, steps with event-time timers - the lowest of the
            sources upstream of it, as far as the step has acted on it; where all of them are silent, behind what that
            closes.
    """

    sources: Mapping[str, datetime.datetime | None]
    steps: Mapping[str, datetime.datetime | None]


def watermarks_of(engine: Engine | None) -> Watermarks:
    """What an engine's watermarks are now; empty before it has opened its store."""
    if engine is None or engine.times is None:
        return Watermarks({}, {})
    sources = {name: _moment(engine.times.watermark_of(name)) for name in engine.times.sources}
    steps = {name: _moment(clock.at_us) for stage in engine.bound for name, clock in stage.clocks.items()}
    return Watermarks(sources, steps)


def _moment(at_us: int) -> datetime.datetime | None:
    return None if at_us < EARLIEST_US else moment_of(min(at_us, LATEST_US))
