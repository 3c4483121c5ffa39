"""Job: what an engine runs, and on what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import sleep as block
from typing import Any

from streamflow.clock import Clock, SystemClock
from streamflow.graph import SINK, SOURCE
from streamflow.instrument import Instrument
from streamflow.operators.bind import BoundStage
from streamflow.plan import Plan
from streamflow.points import Point, no_point
from streamflow.runtime.cut import PUSHED
from streamflow.runtime.journal import RecordedEpoch
from streamflow.runtime.resources import Resource
from streamflow.runtime.settings import Settings
from streamflow.runtime.static_tables import Aside
from streamflow.state.store import Manifest, Store, TableShape


@dataclass(frozen=True, slots=True)
class Job:
    """What an engine runs, and on what.

    Args:
        plan: The flow.
        store: Its state, unopened.
        settings: Limits and paces.
        clock: The time.
        instrument: Whom to tell.
        drop: Names whose stored state may go.
        renamed: Old names and what they are called now.
        accept_missing: Open even if the epoch witness is missing.
        point: Called at the crash points of everything but the store, which has its own.
        watch: Have a thread name steps that keep the event loop to themselves.
        give_way: Blocks for some seconds, so that the store's thread gets the interpreter.
        resources: What steps use, to be opened with the shard.
        aside: Calls a function that may block without keeping the event loop waiting.
        journal: Past epochs whose numbers are to be cut again; the flow ends behind the last one.
    """

    plan: Plan
    store: Store
    settings: Settings = field(default_factory=Settings)
    clock: Clock = field(default_factory=SystemClock)
    instrument: Instrument = field(default_factory=Instrument)
    drop: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    accept_missing: bool = False
    point: Point = no_point
    watch: bool = False
    give_way: Callable[[float], object] = block
    aside: Aside = asyncio.to_thread
    journal: Sequence[RecordedEpoch] = ()
    resources: Sequence[Resource[Any]] = ()

    def manifest(self, bound: Sequence[BoundStage]) -> Manifest:
        """What the store holds the flow against."""
        from streamflow.codecs import fingerprint, type_name

        graph = self.plan.graph
        tables: dict[str, TableShape] = {}
        for stage in bound:
            for step in stage.stage.steps:
                if step.traits.stateful:
                    spec, key = step.options["state"], step.options["key_type"]
                    key_name = "" if key is None else type_name(key)
                    tables[step.name] = TableShape(
                        spec.kind, fingerprint(spec.type), key_name, spec.migrate is not None
                    )
            for timers in (*stage.timers.values(), *stage.event_timers.values()):
                tables[timers.table.name] = TableShape("timers", "int")
        return Manifest(
            graph.flow,
            graph.fingerprint(),
            tables,
            [PUSHED, *(step.name for step in graph.of_kind(SOURCE))],
            [step.name for step in graph.of_kind(SINK)],
            self.drop,
            self.renamed,
            self.accept_missing,
        )
