"""Taking: what the number in the making has taken so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamflow.batch import SourceInput
from streamflow.runtime.pump import Ready


@dataclass(slots=True)
class Taking:
    """What the number in the making has taken: rows, a port for each where there are several, and the journal."""

    values: list[Any]
    ports: list[int] | None
    inputs: list[SourceInput]
    line: list[Any]
    times: list[Any] | None = None
    marks: list[Any] | None = None

    def add(self, source: str, ready: Ready, port: int) -> None:
        """Adds the values of records."""
        records, values = ready.records, ready.values
        if not values:
            return
        if self.times is not None and self.marks is not None:
            none: list[Any] = [None] * len(values)
            self.times += none if ready.times is None else ready.times
            self.marks += none if ready.marks is None else ready.marks
        self.inputs.append(SourceInput(source, len(self.values), records))
        if self.ports is not None:
            self.ports += [port] * len(values)
        # one source's list is taken as it is, and so never changed: a copy would touch each record once more
        self.values = [*self.values, *values] if self.values else values
