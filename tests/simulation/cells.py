"""The cells: flows over every kind of source, sink, step and wiring, each with its exact expected result."""

from __future__ import annotations

from tests.simulation import awaiting, joined, ordered, stateful, tabled, windowed, wired
from tests.simulation.cell import Cell

CELLS: tuple[Cell, ...] = (
    Cell("linear", wired.linear, wired.check_linear),
    Cell("fan-in", wired.fan_in, wired.check_in_order, ("a", "b")),
    Cell("fan-out", wired.fan_out, wired.check_fan_out),
    Cell("diamond", wired.diamond, wired.check_diamond),
    Cell("split-merge", wired.split_merge, wired.check_split_merge),
    Cell("two-by-two", wired.two_by_two, wired.check_two_by_two, ("a", "b")),
    Cell("counting", stateful.counting, stateful.check_counting),
    Cell("reducing", stateful.reducing, stateful.check_reducing),
    Cell("aggregating", stateful.aggregating, stateful.check_aggregating),
    Cell("processing", stateful.processing, stateful.check_processing),
    Cell("collections", stateful.collections, stateful.check_collections),
    Cell("skipping", stateful.skipping, stateful.check_skipping),
    Cell("timers", stateful.timers, stateful.check_timers, timed=True),
    Cell("batches", stateful.batches, stateful.check_batches, timed=True),
    Cell("backlog", stateful.backlog, stateful.check_backlog, timed=True, adapt=stateful.without_waits),
    Cell("expanding", wired.expanding, wired.check_expanding),
    Cell("boundaries", wired.boundaries, wired.check_boundaries),
    Cell("deduplicating", wired.deduplicating, wired.check_deduplicating),
    Cell("queue", wired.queue, wired.check_queue, queue=True),
    Cell("mixed", wired.mixed, wired.check_mixed, ("a", "b"), queue=True),
    Cell("partitioned", wired.partitioned, wired.check_partitioned, partitions=("p", "q", "r")),
    Cell("spread-out", wired.spread_out, wired.check_spread_out),
    Cell("blind", wired.blind, wired.check_blind, blind=frozenset({"out"})),
    Cell("pushes", wired.pushes, wired.check_pushes, ("a", "b"), pushed="b", queue=True),
    Cell("windows", windowed.windows, windowed.check_windows, adapt=windowed.to_its_end),
    Cell("early", windowed.early, windowed.check_early, cut_matters=True, adapt=windowed.to_its_end),
    Cell("joins", joined.joins, joined.check_joins, ("a", "b"), cut_matters=True, adapt=windowed.to_its_end),
    Cell("reminders", windowed.reminders, windowed.check_reminders, cut_matters=True, adapt=windowed.to_its_end),
    Cell(
        "ordered",
        ordered.ordered,
        ordered.check_ordered,
        ("a", "b"),
        partitions=ordered.PARTITIONS,
        adapt=windowed.to_its_end,
    ),
    Cell("tables", tabled.tables, tabled.check_tables),
    Cell(
        "looking-back",
        tabled.looking_back,
        tabled.check_looking_back,
        ("a", "b"),
        cut_matters=True,
        adapt=windowed.to_its_end,
    ),
    Cell("aliases", stateful.aliases, stateful.check_aliases),
    Cell("awaiting", awaiting.awaiting, awaiting.check_awaiting),
    Cell("awaiting-merged", awaiting.awaiting_merged, awaiting.check_awaiting_merged),
    # with which number a timer fires that a call sets depends on when the call returns
    Cell(
        "async-processing",
        awaiting.async_processing,
        awaiting.check_async_processing,
        ("a", "b"),
        timed=True,
        ordered=False,
    ),
    Cell("detaching", awaiting.detaching, awaiting.check_detaching, ordered=False),
    Cell("refusing", awaiting.refusing, awaiting.check_refusing),
    Cell("unordered", awaiting.unordered, awaiting.check_unordered, ordered=False),
)

BY_NAME = {cell.name: cell for cell in CELLS}
