"""A flow made ready for simulation: its graph with slots instead of connectors, planned once for all runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from streamflow.batch import Chunk, Progress
from streamflow.codecs import Codec, unprepared
from streamflow.connect.contracts import EncodeLines, Guarantee, Sink, SinkOptions, Source, encoders
from streamflow.connect.memory import MemoryTopic
from streamflow.graph import SINK, SOURCE, Graph, Step
from streamflow.plan import make_plan
from streamflow.testing.simulation.network import Network, SimulatedSink, SimulatedSource

if TYPE_CHECKING:
    from streamflow.flow import Flow

Publishing = Callable[[str, Sequence[Chunk], Progress], None]


class Slot:
    """Stands for a connector in the graph; each run puts a topic of its own into it.

    Args:
        like: The topic whose settings each run's topic gets.
        step: Name of the source or sink.
    """

    def __init__(self, like: MemoryTopic[Any], step: str) -> None:
        self.topic = like.empty_copy()
        self._like = like
        self._step = step
        self._network: Network | None = None
        self._publishing: Publishing = lambda sink, chunks, at: None

    def fill(self, network: Network, publishing: Publishing) -> None:
        """Puts in an empty topic, behind a run's network."""
        self.topic = self._like.empty_copy()
        self._network, self._publishing = network, publishing

    # What a flow asks of it.

    @property
    def name(self) -> str:
        return self._like.name

    @property
    def codec(self) -> Codec[Any] | None:
        return self._like.codec

    @property
    def guarantee(self) -> Guarantee:
        return self._like.guarantee

    @property
    def sink_guarantee(self) -> Guarantee:
        return self._like.sink_guarantee

    @property
    def target(self) -> str:
        return ""

    def accepts(self, value: Any, /) -> None:
        """Takes what the topic takes."""

    def describe(self) -> str:
        return self._like.describe()

    def row_encoder(self, options: SinkOptions) -> Callable[[Any], bytes] | None:
        return self._like.row_encoder(options)

    def line_encoder(self, options: SinkOptions) -> EncodeLines | None:
        return self._like.line_encoder(options)

    def source(self) -> Source:
        assert self._network is not None
        return SimulatedSource(self.topic.source(), self._network)

    def sink(self, options: SinkOptions) -> Sink:
        assert self._network is not None
        step, publishing = self._step, self._publishing
        return SimulatedSink(
            self.topic.sink(options), self.topic, self._network, lambda chunks, at: publishing(step, chunks, at)
        )


class Model:
    """A flow on memory topics.

    Args:
        flow: The flow; its connectors are not used.
    """

    def __init__(self, flow: Flow) -> None:
        self.sources: dict[str, Slot] = {}
        self.sinks: dict[str, Slot] = {}
        graph = flow.graph()
        self.plan = make_plan(Graph(graph.flow, tuple(map(self._replaced, graph.steps))))
        self.settings = flow.settings

    def fill(self, network: Network, publishing: Publishing) -> None:
        """Makes all topics anew, for the next run."""
        for slot in (*self.sources.values(), *self.sinks.values()):
            slot.fill(network, publishing)

    def _replaced(self, step: Step) -> Step:
        if step.kind not in (SOURCE, SINK):
            return step
        spec = step.options["spec"]
        if getattr(spec, "internal", False):
            return step
        if not isinstance(spec, MemoryTopic):
            codec = getattr(spec, "codec", None)
            spec = MemoryTopic(step.name) if codec is None else MemoryTopic(step.name, value=unprepared(codec))
        slot = Slot(spec, step.name)
        (self.sources if step.kind == SOURCE else self.sinks)[step.name] = slot
        options = {**step.options, "spec": slot}
        if step.kind == SINK:
            options |= encoders(slot, step.options["sink_options"], step.options["on_error"])
        return dataclasses.replace(step, options=options)
