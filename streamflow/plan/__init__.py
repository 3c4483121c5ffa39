"""The planner: graph -> stages and edges, and the source text of each stage's loop. Pure: no loop, no clock, no I/O."""

from streamflow.plan.loop import loop_text
from streamflow.plan.stages import Edge, Exit, Plan, Stage, make_plan

__all__ = ["Edge", "Exit", "Plan", "Stage", "loop_text", "make_plan"]
