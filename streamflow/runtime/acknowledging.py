"""Acknowledging: tells sources what is committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from streamflow.batch import Taken
from streamflow.errors import Unavailable
from streamflow.points import Point
from streamflow.runtime.pump import Pump
from streamflow.runtime.tasks import Tasks


class Acknowledging:
    """Tells the sources of a shard of each epoch that is committed; best effort.

    GUARANTEE: nobody hears of an epoch before every sink has recovered once: a restored old store must not eat a queue
    before a sink refuses it.

    Args:
        pumps: The sources.
        tasks: Where calls run.
        point: Called at crash points.
        may: Whether every sink has recovered.
    """

    def __init__(self, pumps: Sequence[Pump], tasks: Tasks, point: Point, may: Callable[[], bool]) -> None:
        self.got_on: set[str] = set()
        """Sources of which something was committed."""
        self._pumps = pumps
        self._tasks = tasks
        self._point = point
        self._may = may
        self._epochs: deque[tuple[int, Mapping[str, Taken]]] = deque()

    def committed(self, epoch: int, taken: Mapping[str, Taken]) -> None:
        """An epoch is committed, with what it took."""
        self.got_on |= taken.keys()
        self._epochs.append((epoch, taken))
        self.go_on()

    def was_of_use(self, commits: int) -> bool:
        """Whether so many commits got on with what broke: with the sources that did, if some did."""
        broken = [pump.name for pump in self._pumps if pump.broken]
        return not self.got_on.isdisjoint(broken) if broken else commits > 0

    def go_on(self) -> None:
        """Tells what may be told by now."""
        while self._epochs and self._may():
            epoch, taken = self._epochs.popleft()
            for pump in (each for each in self._pumps if each.name in taken):
                self._tasks.spawn(self._tell(pump, epoch, taken[pump.name]), "acknowledge", may_end=True)

    async def _tell(self, pump: Pump, epoch: int, taken: Taken) -> None:
        try:
            self._point("ack.begun")
            await pump.committed(epoch, taken)
            self._point("ack.done")
        except (Unavailable, OSError):
            return  # the source reports its lost connection itself; what was not acknowledged comes again
