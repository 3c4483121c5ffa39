"""Mutants of joins and tables: what is remembered of records that wait, and what is waited for."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from streamflow.batch import TIME_MIN
from streamflow.operators.asof_join import AsOfJoin
from streamflow.operators.interval_join import IntervalJoin
from streamflow.operators.joins import Waiting
from streamflow.operators.window_join import WindowJoin
from streamflow.runtime.intake import Intake


def a_match_noted_in_memory_only(stack: ExitStack) -> None:
    def match(self: IntervalJoin, side: int, key: Any, waiting: Waiting, start: int, stop: int) -> None:
        for held in waiting.held[side][start:stop]:
            held.matched = True

    stack.enter_context(patch.object(IntervalJoin, "_match", match))


def lateness_in_a_join_judged_by_the_watermark_of_all(stack: ExitStack) -> None:
    original = IntervalJoin.taker

    def mutated(self: IntervalJoin, side: int) -> Any:
        take = original(self, side)
        return lambda key, value, time_us, mark_us: take(key, value, time_us, TIME_MIN)

    stack.enter_context(patch.object(IntervalJoin, "taker", mutated))


def a_join_forgets_when_to_look_again(stack: ExitStack) -> None:
    for form in (IntervalJoin, WindowJoin):
        stack.enter_context(patch.object(form, "arm", lambda *_: None))


def what_waits_for_the_watermark_is_forgotten_by_a_restart(stack: ExitStack) -> None:
    stack.enter_context(patch.object(AsOfJoin, "installed", lambda _: None))


def records_do_not_wait_for_static_tables(stack: ExitStack) -> None:
    stack.enter_context(patch.object(Intake, "preload", Intake.push))


MUTANTS = (
    (a_match_noted_in_memory_only, "joins"),
    (lateness_in_a_join_judged_by_the_watermark_of_all, "joins"),
    (a_join_forgets_when_to_look_again, "joins"),
    (what_waits_for_the_watermark_is_forgotten_by_a_restart, "looking-back"),
    (records_do_not_wait_for_static_tables, "tables"),
)
"""With the cell that can show each."""
