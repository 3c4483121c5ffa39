"""Simulation: the engine of production under seeded schedules of crashes, faults and task orders, in virtual time.

A `Model` is a flow whose connectors are slots for memory topics. A `Schedule` is what a seed decides: the order of
callbacks, faults on the way to the brokers, settings, kills and zombies. `SimulatedRun` plays one schedule on a
`SimulatedLoop` and holds every commit and publish against the invariants (`Recorder`). What the outputs must be is
for who knows the flow to say.
"""

from streamflow.testing.simulation.loop import Killed, Order, SimulatedLoop
from streamflow.testing.simulation.model import Model
from streamflow.testing.simulation.network import Faults
from streamflow.testing.simulation.record import Recorder, Violation
from streamflow.testing.simulation.run import Arrival, SimulatedRun
from streamflow.testing.simulation.schedule import Kill, Schedule, draw, quiet

__all__ = [
    "Arrival",
    "Faults",
    "Kill",
    "Killed",
    "Model",
    "Order",
    "Recorder",
    "Schedule",
    "SimulatedLoop",
    "SimulatedRun",
    "Violation",
    "draw",
    "quiet",
]
