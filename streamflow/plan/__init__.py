"""The planner: graph -> stages and edges, and the source text of each stage's loop. Pure: no loop, no clock, no I/O."""

from streamflow.plan.loop import loop_text
from streamflow.plan.stages import Edge, Entry, Exit, Plan, Stage, leaving, make_plan
from streamflow.plan.view import handled

__all__ = ["Edge", "Entry", "Exit", "Plan", "Stage", "handled", "leaving", "loop_text", "make_plan"]
