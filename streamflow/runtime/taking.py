"""Taking: what the number in the making has taken so far, before it is a fragment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from streamflow.batch import Partition, SourceInput
from streamflow.runtime.decoding import Ready
from streamflow.runtime.ordering import Given


class Turned(NamedTuple):
    """What happened to sources beside their records, as the journal keeps it.

    Args:
        silent: Partitions that turned idle before the number.
        ended: Sources that ended in it.
        horizons: Per order of event time that got further: its index, and the fields of its `Horizon`.
    """

    silent: Sequence[tuple[str, Partition]] = ()
    ended: Sequence[str] = ()
    horizons: Sequence[tuple[Any, ...]] = ()


NOTHING_TURNED: Final = Turned()


@dataclass(slots=True)
class Taking:
    """What the number in the making has taken: rows, a port for each where there are several, and the journal."""

    values: list[Any]
    ports: list[int] | None
    inputs: list[SourceInput]
    line: list[Any]
    times: list[Any] | None = None
    marks: list[Any] | None = None
    places: list[tuple[int, int]] | None = None

    def add(self, source: str, ready: Ready, port: int) -> None:
        """Adds the values of records."""
        records, values = ready.records, ready.values
        if not values:
            return
        if self.times is not None and self.marks is not None:
            none: list[Any] = [None] * len(values)
            self.times += none if ready.times is None else ready.times
            self.marks += none if ready.marks is None else ready.marks
        if self.places is not None:
            self.places += [(len(self.inputs), at) for at in range(len(values))]
        self.inputs.append(SourceInput(source, len(self.values), records))
        if self.ports is not None:
            self.ports += [port] * len(values)
        # one source's list is taken as it is, and so never changed: a copy would touch each record once more
        self.values = [*self.values, *values] if self.values else values

    def add_given(self, given: Given, ports: Mapping[str, int]) -> None:
        """Adds what was released in the order of event time: rows of several inputs that alternate."""
        if self.places is None:
            self.places = [(at, row) for at, part in enumerate(self.inputs) for row in range(len(part.records))]
        before = len(self.inputs)
        self.places += [(before + which, at) for which, at in given.places]
        self.inputs += given.inputs
        if self.times is not None and self.marks is not None:
            self.times += given.times
            self.marks += given.marks
        if self.ports is not None:
            self.ports += map(ports.__getitem__, given.sources)
        self.values = [*self.values, *given.values]
