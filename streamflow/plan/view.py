"""What a stage's loop must know of the graph around it: who reads a port, how rows leave, what they reach."""

from __future__ import annotations

from collections.abc import Sequence

from streamflow.graph import SINK, Graph, OnError, Port, Step
from streamflow.plan.stages import Entry, Exit, Stage, leaving


class StageView:
    """The graph, as one stage sees it.

    Args:
        graph: The graph.
        stage: The stage.
        taps: Ports whose rows are wanted besides.
    """

    def __init__(self, graph: Graph, stage: Stage, taps: Sequence[Port]) -> None:
        self.graph = graph
        self.stage = stage
        self.taps = taps
        self.reached: dict[Port, set[int]] = {}
        self.expanding: dict[Port, bool] = {}
        self._measure()

    def keyed(self, port: Port | Entry) -> bool:
        return self.graph.step(port.step).keyed

    def inside(self, port: Port) -> list[Step]:
        here = {step.id for step in self.stage.steps}
        return [step for step in self.graph.consumers(port) if step.id in here]

    def outside(self, port: Port) -> list[tuple[int, int]]:
        """Exits a port leaves by: (exit, port number in the target stage)."""
        return [leaving(self.stage, port, step) for step in self.graph.consumers(port) if step not in self.stage.steps]

    def _measure(self) -> None:
        """Finds per port which exits its rows reach, and whether they are multiplied on the way; last ports first."""
        entered = [Port(entry.step, entry.out) for entry in self.stage.entries]
        given = [Port(step.id, index) for step in self.stage.steps for index in range(step.ports)]
        for port in reversed(entered + given):
            inside = self.inside(port)
            behind = [Port(step.id, index) for step in inside for index in range(step.ports)]
            exits = {x for x, _ in self.outside(port)} if port in given or not self.stage.index else set()
            taps = {len(self.stage.exits) + t for t, tap in enumerate(self.taps) if tap == port}
            self.reached[port] = taps.union(exits, *(self.reached[after] for after in behind))
            self.expanding[port] = any(step.traits.expands for step in inside) or any(map(self.expanding.get, behind))


def tracks_origins(stage: Stage) -> bool:
    """Whether rows need their origin: a step asks for its context, or rows go on to another stage."""
    return any(exit.edge is not None or exit.placed for exit in stage.exits) or any(
        takes_context(step) for step in stage.steps
    )


def keyed_sink(graph: Graph, exit: Exit) -> bool:
    """Whether the rows of a sink have keys, also where its frames are made in the loop, which needs none."""
    return graph.step(f"{SINK}:{exit.name}").keyed


def takes_context(step: Step) -> bool:
    """Whether a step's function gets a context."""
    return step.kind == "process" or bool(step.options.get("context"))


def handled(step: Step) -> bool:
    """Whether an error of a step is caught where it is: by a policy other than stop, or for another attempt."""
    return step.options.get("on_error", OnError.STOP) is not OnError.STOP or "retry" in step.options
