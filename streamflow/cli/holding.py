"""How long the awaits of a flow can hold up its commits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamflow.graph import Graph, Port


@dataclass(frozen=True, slots=True)
class Hold:
    """A step whose calls a barrier waits for, and the longest time that one of them takes."""

    step: str
    seconds: float


def longest_hold(graph: Graph) -> list[Hold]:
    """The async steps of the path on which a barrier can be held longest, in their order.

    A call is over at its deadline. Where more records lie before a barrier than may be called at a time, the time
    counts for the last ones, once the others have left room for them.
    """
    held: dict[str, list[Hold]] = {}

    def before(port: Port) -> list[Hold]:
        return held[port.step]

    for step in graph.steps:
        held[step.id] = max(map(before, step.inputs), key=_seconds, default=[])
        if step.traits.awaits:
            held[step.id] = [*held[step.id], Hold(step.name, step.options["limits"].deadline_seconds)]
    return max(held.values(), key=_seconds, default=[])


def _seconds(holds: list[Hold]) -> float:
    return sum(hold.seconds for hold in holds)
