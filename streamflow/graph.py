"""The graph: what the user wrote, as frozen data, with validation and a fingerprint.

Steps are kept in the order of their definition, so every step stands behind its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from streamflow.errors import DefinitionError
from streamflow.keys import stable_hash
from streamflow.policy import OnError

__all__ = ["KINDS", "SINK", "SOURCE", "Graph", "Kind", "OnError", "Port", "Step"]

SOURCE: Final = "source"
SINK: Final = "sink"
LETTERS: Final = "dead_letters"
"""Name of the source of a flow's own dead letters."""


class Port(NamedTuple):
    """One output of a step; branches, routed splits and side outputs have several."""

    step: str
    out: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of all steps of a kind.

    Args:
        stateful: It keeps state, so its name must be stable.
        expands: It may give more than one record for one, so its loop must be able to pause between them.
        boundary: It is an operator of its own, not part of a fused loop: a batch function or an async step.
        rekeys: Its output does not carry the key of its input.
        awaits: Its function is async.
    """

    stateful: bool = False
    expands: bool = False
    boundary: bool = False
    rekeys: bool = False
    awaits: bool = False


KINDS: Final[Mapping[str, Kind]] = {
    SOURCE: Kind(),
    SINK: Kind(),
    "map": Kind(),
    "filter": Kind(),
    "inspect": Kind(),
    "merge": Kind(),
    "branch": Kind(),
    "split": Kind(),
    "key_by": Kind(rekeys=True),
    "flat_map": Kind(expands=True),
    "count": Kind(stateful=True),
    "reduce": Kind(stateful=True),
    "aggregate": Kind(stateful=True),
    "dedup": Kind(stateful=True),
    "process": Kind(stateful=True, expands=True),
    "window": Kind(stateful=True, expands=True),
    "table": Kind(stateful=True),
    "lookup": Kind(),
    "broadcast": Kind(expands=True),
    "join": Kind(stateful=True, expands=True),
    "map_batch": Kind(boundary=True, expands=True, rekeys=True),
    "async_map": Kind(boundary=True, awaits=True),
    "async_filter": Kind(boundary=True, awaits=True),
    "async_flat_map": Kind(boundary=True, awaits=True, expands=True),
    "async_process": Kind(boundary=True, awaits=True, stateful=True, expands=True),
    "async_map_batch": Kind(boundary=True, awaits=True, expands=True, rekeys=True),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing the user wrote, as data.

    Args:
        id: Unique in the graph: ``source:<name>``, ``step:<name>`` or ``sink:<name>``.
        kind: One of `KINDS`.
        name: Unique among its like; stored state and messages go by it.
        function: The user's function, None for merge, source and sink.
        inputs: The ports it reads.
        options: What else the verb was given, by kind.
        keyed: Whether its rows carry a key.
        ports: Number of its outputs.
        reads: Ids of the steps whose state it looks up; it runs in one loop with them.
    """

    id: str
    kind: str
    name: str
    function: Callable[..., Any] | None = None
    inputs: tuple[Port, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    keyed: bool = False
    ports: int = 1
    reads: tuple[str, ...] = ()

    @property
    def call(self) -> Callable[..., Any]:
        """The user's function, of a step that has one."""
        assert self.function is not None, f"{self.id} has no function"
        return self.function

    @property
    def traits(self) -> Kind:
        return KINDS[self.kind]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """All steps of a flow; compared by identity, so that what was made of it can be found again."""

    flow: str
    steps: tuple[Step, ...]

    def step(self, id: str) -> Step:
        """Returns a step by its id."""
        return next(step for step in self.steps if step.id == id)

    def of_kind(self, kind: str) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.kind == kind)

    def consumers(self, port: Port) -> tuple[Step, ...]:
        """The steps that read a port, in order of definition; a step that reads it twice stands twice."""
        return tuple(step for step in self.steps for source in step.inputs if source == port)

    def upstream(self, step: Step, *, reads: bool = False) -> Iterator[Step]:
        """Every step that ``step`` can get a record from, itself included.

        Args:
            step: Where to begin.
            reads: Follow tables, too, of which only the content gets there.
        """
        seen: set[str] = set()
        todo = [step]
        while todo:
            here = todo.pop()
            if here.id not in seen:
                seen.add(here.id)
                yield here
                todo.extend(self.step(port.step) for port in here.inputs)
                todo.extend(map(self.step, here.reads if reads else ()))

    def paths(self) -> Iterator[tuple[Step, Step]]:
        """Every pair of a source and a sink whose content depends on it."""
        for sink in self.of_kind(SINK):
            sources = {step.id for step in self.upstream(sink, reads=True) if step.kind == SOURCE}
            yield from ((source, sink) for source in self.of_kind(SOURCE) if source.id in sources)

    def fingerprint(self) -> str:
        """Changes when a step is added, removed, renamed or wired otherwise; the same in every process."""
        parts = [
            f"{step.id}|{step.kind}|{','.join(f'{port.step}.{port.out}' for port in step.inputs)}"
            + "".join(f"|{table}" for table in step.reads)
            for step in self.steps
        ]
        return stable_hash(*(part.encode() for part in sorted(parts)), size=8).hex()

    def validate(self) -> None:
        """Checks what can only be seen in the whole graph.

        Raises:
            DefinitionError: Naming the step and the way out.
        """
        if not self.of_kind(SOURCE):
            raise DefinitionError(f"flow {self.flow!r} has no source", hint="Start with flow.source(...).")
        self._check_order_and_names()
        self._check_dead_letters()
        targets: dict[str, Step] = {}
        for sink in self.of_kind(SINK):
            target = sink.options["spec"].target
            other = targets.setdefault(target, sink) if target else sink
            if other is not sink:
                raise DefinitionError(
                    f"sinks {other.name!r} and {sink.name!r} both write {sink.options['spec'].describe()}, "
                    "which must have a single writer",
                    hint="Merge the two streams and write once, or use a mode that allows several writers.",
                )

    def _check_dead_letters(self) -> None:
        """A letter that could not be passed on would make a letter, and so for ever."""
        for step in self.steps:
            if step.options.get("on_error") is OnError.DEAD_LETTER:
                for source in self.upstream(step):
                    if source.kind == SOURCE and source.name == LETTERS:
                        raise DefinitionError(
                            f"{step.kind} {step.name!r} reads the flow's dead letters, and would make new ones of them",
                            hint="Give it on_error=sf.skip, or let it stop the flow.",
                        )

    def _check_order_and_names(self) -> None:
        ids: set[str] = set()
        for step in self.steps:
            if step.id in ids:
                raise DefinitionError(
                    f"two steps of flow {self.flow!r} are called {step.name!r}", hint="Give one of them name=..."
                )
            for port in step.inputs:
                if port.step not in ids:
                    raise DefinitionError(f"step {step.name!r} reads {port.step!r}, which is not in this flow")
            if not ids.issuperset(step.reads):
                raise DefinitionError(f"step {step.name!r} looks up {step.reads[0]!r}, which is not in this flow")
            ids.add(step.id)
