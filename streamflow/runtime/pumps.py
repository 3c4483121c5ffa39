"""The pumps of a shard, one for each source, to go on from a checkpoint, and what holds their records back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamflow.batch import Taken
from streamflow.connect.contracts import SourceContext
from streamflow.graph import SOURCE, Graph, OnError
from streamflow.plan.order import joint_orders
from streamflow.runtime.event_time import EventTimes
from streamflow.runtime.ordering import Bounds, TimeOrder
from streamflow.runtime.pump import Pump
from streamflow.runtime.settings import Settings
from streamflow.runtime.world import World
from streamflow.state.store import Checkpoint


def make_pumps(
    graph: Graph,
    checkpoint: Checkpoint,
    times: EventTimes | None,
    wake: Callable[[], None],
    may_acknowledge: Callable[[], bool],
    *,
    world: World,
) -> list[Pump]:
    """Makes a pump for each source, to go on from a checkpoint."""
    pumps = []
    for step in graph.of_kind(SOURCE):
        taken = checkpoint.taken.get(step.name, Taken())
        ctx = SourceContext(
            graph.flow,
            step.name,
            0,
            checkpoint.incarnation,
            checkpoint.generation,
            frozenset(taken.ids),
            world.settings.message_bytes_max,
            world.point,
            leaves_out=step.options["on_error"] is not OnError.STOP,
            may_acknowledge=may_acknowledge,
        )
        own = None if times is None else times.sources.get(step.name)
        pumps.append(Pump(step, ctx, taken.positions, wake, world=world, times=own))
    return pumps


def time_orders(
    graph: Graph, pumps: Sequence[Pump], settings: Settings, monotonic: Callable[[], float]
) -> list[TimeOrder]:
    """Makes the hold of each joint order of sources, and puts their pumps behind it."""
    found = []
    for joint in joint_orders(graph):
        hold_ms = joint.ordering.hold_max_ms
        bounds = Bounds(
            settings.held_records_max,
            settings.held_bytes_max,
            None if hold_ms is None else hold_ms / 1000,
            joint.ordering.max_drift_us,
        )
        found.append(TimeOrder([pump for pump in pumps if pump.name in joint.sources], bounds, monotonic))
    return found
