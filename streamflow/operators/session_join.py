"""Session join: records of two streams that are in the same session, as pairs at its end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from streamflow.keys import Key
from streamflow.operators.joins import Take, Waiting
from streamflow.operators.window_join import WindowJoin
from streamflow.operators.windows import Fired


class SessionJoin(WindowJoin):
    """Gives every pair of records of a key and session when the session is over.

    A session is what records of both sides make together. A record that is behind the watermark of its own partition
    when it comes is late, as for intervals: so what shares a session does not depend on which side is read faster.
    """

    def taker(self, side: int) -> Take:
        all_waiting, clock, gap_us, held_of = self.waiting, self.step_clock, self.kind.gap_us, self.holder(side)

        def take(key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
            if time_us < mark_us or time_us + gap_us < clock.at_us:
                return self.is_late()
            waiting = all_waiting.get(key)
            if waiting is None:
                waiting = self.open(key)
            self.keep(side, key, waiting, time_us, held_of(value))
            if time_us + gap_us < waiting.armed_us:
                self._look_behind(time_us, key, waiting)
            return None

        return take

    def closing(self) -> Iterator[Fired | None]:
        """Gives the pairs of sessions that the clock has passed, by (end, key, left record, right record)."""
        gap_us = self.kind.gap_us
        for over_us, key, _ in self.due.take(self.step_clock.at_us):
            waiting = self.waiting.get(key)
            if waiting is not None and waiting.armed_us == over_us:
                last_us = self._last(waiting, over_us - 1 - gap_us)
                if last_us + gap_us >= over_us:
                    self._look_behind(last_us, key, waiting)
                else:
                    yield from self.pairs(key, waiting, _first(waiting), last_us + gap_us)
                    for side, times in enumerate(waiting.times):
                        self.drop(side, key, waiting, bisect_right(times, last_us))
                    if not self.closed(key, waiting):
                        self.arm(key, waiting)
            yield None

    def arm(self, key: Key, waiting: Waiting) -> None:
        self._look_behind(_first(waiting), key, waiting)

    def _look_behind(self, time_us: int, key: Key, waiting: Waiting) -> None:
        """Asks for a look when the first session would be over if a record of that time were its last."""
        self.look_at(time_us + self.kind.gap_us + 1, key, waiting)

    def _last(self, waiting: Waiting, time_us: int) -> int:
        """The time of the last record of the session that holds a record of that time."""
        gap_us = self.kind.gap_us
        while True:
            found = max(times[at - 1] for times in waiting.times if (at := bisect_right(times, time_us + gap_us)))
            if found == time_us:
                return time_us
            time_us = found


def _first(waiting: Waiting) -> int:
    return min(times[0] for times in waiting.times if times)
