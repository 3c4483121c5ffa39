"""The picture of a graph as text: a tree that indents only where the flow forks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from streamflow.cli.facts import kind_of, label_of, words_of
from streamflow.cli.output import one_line, printable, width
from streamflow.graph import SOURCE, Graph, Port, Step


@dataclass(frozen=True, slots=True)
class Strokes:
    """What lines are drawn with."""

    tee: str
    corner: str
    pipe: str
    arrow: str


LINES: Final = Strokes("├─ ", "└─ ", "│  ", "→ ")
ASCII: Final = Strokes("|- ", "`- ", "|  ", "-> ")


def picture(graph: Graph, *, lines: bool) -> list[str]:
    """Draws a graph, sources first; a step with several inputs stands below the last of them.

    Args:
        graph: The graph.
        lines: Whether line characters may be used; else plain ASCII.
    """
    painter = _Painter(graph, LINES if lines else ASCII)
    rows: list[tuple[str, str, str]] = []
    for source in graph.of_kind(SOURCE):
        if rows:
            rows.append(("", "", ""))
        rows += painter.paint(source, "", "")
    names = max(width(name) for name, _, _ in rows)
    kinds = max(width(kind) for _, kind, _ in rows)
    return [
        f"{name}{' ' * (names - width(name))}  {kind}{' ' * (kinds - width(kind))}  {words}".rstrip()
        for name, kind, words in rows
    ]


class _Painter:
    """Walks the graph depth first; a merge is drawn at the last of its inputs that is reached."""

    def __init__(self, graph: Graph, strokes: Strokes) -> None:
        self._graph = graph
        self._strokes = strokes
        self._inputs = Counter({step.id: len(step.inputs) for step in graph.steps})

    def paint(self, step: Step, head: str, below: str) -> Iterator[tuple[str, str, str]]:
        """Yields the rows of a step and of all that follows: name with its strokes, kind, words."""
        label = self._label(step)
        while True:
            yield head + label + printable(step.name), kind_of(step), one_line(words_of(step))
            following = self._following(step)
            if len(following) != 1:
                break
            (step, port), head = following[0], below
            if not self._arrive(step):
                yield f"{below}{self._strokes.arrow}{step.name}", "", ""
                return
            label = _bracketed(label_of(self._graph, port))
        yield from self._fork(following, below)

    def _fork(self, following: Sequence[tuple[Step, Port]], below: str) -> Iterator[tuple[str, str, str]]:
        strokes = self._strokes
        for at, (step, port) in enumerate(following):
            last = at == len(following) - 1
            head = below + (strokes.corner if last else strokes.tee)
            if self._arrive(step):
                self._port = port
                yield from self.paint(step, head, below + (" " * 3 if last else strokes.pipe))
            else:
                yield f"{head}{_bracketed(label_of(self._graph, port))}{strokes.arrow}{step.name}", "", ""

    _port: Port | None = None

    def _label(self, step: Step) -> str:
        port, self._port = self._port, None
        return "" if port is None else _bracketed(label_of(self._graph, port))

    def _following(self, step: Step) -> list[tuple[Step, Port]]:
        ports = (Port(step.id, out) for out in range(step.ports))
        return [(consumer, port) for port in ports for consumer in self._graph.consumers(port)]

    def _arrive(self, step: Step) -> bool:
        """Counts that one more input of a step was reached; True for the last."""
        self._inputs[step.id] -= 1
        return self._inputs[step.id] == 0


def _bracketed(label: str) -> str:
    return f"[{printable(label)}] " if label else ""
