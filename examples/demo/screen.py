"""The screen: live bars in a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

TopWords = Sequence[tuple[str, int, int]]
"""Word, what the flow counted, what stands in the files."""

_STEPS_TOLD = 5


class Screen(Protocol):
    """Where the demo tells its story: phases that progress, and what happens in between."""

    def title(self, text: str) -> None:
        """Tells what this is."""

    def begin(self, phase: str, total: int, unit: str) -> None:
        """Begins a phase."""

    def at(self, done: int) -> None:
        """Tells how far the phase is."""

    def end(self, note: str = "", total: int | None = None) -> None:
        """Ends the phase; ``total`` if it was not known before."""

    def event(self, text: str, *, bad: bool = False) -> None:
        """Tells what happened."""

    def verdict(self, top: TopWords, lines: Sequence[str], problems: Sequence[str]) -> None:
        """Tells the end: the top words, what was checked, and what is wrong, if anything is."""


class PlainScreen:
    """Lines for pipes, files and logs: one per phase, per event, and per fifth of a long phase."""

    def __init__(self) -> None:
        self._phase, self._unit, self._total = "", "", 1
        self._began = 0.0
        self._told = 0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        """Has nothing to let go of."""

    def title(self, text: str) -> None:
        self._say(f"{text}\n")

    def begin(self, phase: str, total: int, unit: str) -> None:
        self._phase, self._total, self._unit = phase, max(total, 1), unit
        self._began, self._told = time.monotonic(), 0

    def at(self, done: int) -> None:
        fifth = done * _STEPS_TOLD // self._total
        if self._told < fifth < _STEPS_TOLD and time.monotonic() - self._began > 1:
            self._told = fifth
            self._say(f"  {self._phase:<22} {done / self._total:4.0%}  {done:>9,} {self._unit}")

    def end(self, note: str = "", total: int | None = None) -> None:
        self._total = total or self._total
        seconds = time.monotonic() - self._began
        self._say(f"  {self._phase:<22} done  {self._total:>9,} {self._unit}  {seconds:5.1f} s  {note}".rstrip())

    def event(self, text: str, *, bad: bool = False) -> None:
        self._say(f"  {'!!' if bad else '->'} {text}")

    def verdict(self, top: TopWords, lines: Sequence[str], problems: Sequence[str]) -> None:
        if top:
            self._say(f"\n  {'word':<14} {'counted':>9} {'in the files':>13}")
        for word, counted, expected in top:
            self._say(f"  {word:<14} {counted:>9,} {expected:>13,}")
        self._say("")
        for line in lines:
            self._say(f"  {line}")
        for problem in problems:
            self._say(f"  WRONG: {problem}")
        self._say("\nFAILED" if problems else "\nOK: nothing lost, nothing twice")

    def _say(self, text: str) -> None:
        print(text, flush=True)


class TerminalScreen:
    """One live bar per phase; events scroll by above them, in colour."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description:<21}"),
            BarColumn(24, complete_style="cyan", finished_style="green"),
            _Figures(),
            console=console,
            refresh_per_second=8,
        )
        self._task = TaskID(-1)

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def title(self, text: str) -> None:
        self._console.print(Panel(text, box=box.ROUNDED, border_style="cyan", expand=False, padding=(0, 2)))

    def begin(self, phase: str, total: int, unit: str) -> None:
        self._task = self._progress.add_task(phase, total=max(total, 1), unit=unit, note="")

    def at(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def end(self, note: str = "", total: int | None = None) -> None:
        total = total or int(self._progress.tasks[self._task].total or 0)
        self._progress.update(self._task, total=total, completed=total, note=note)
        self._progress.stop_task(self._task)

    def event(self, text: str, *, bad: bool = False) -> None:
        mark = Text.assemble(("  ✗ ", "bold red"), (text, "red")) if bad else Text.assemble(("  ↻ ", "green"), text)
        self._progress.print(mark)

    def verdict(self, top: TopWords, lines: Sequence[str], problems: Sequence[str]) -> None:
        self._progress.stop()
        if top:
            self._console.print(_table(top))
        body = Text("\n").join(
            [Text.assemble(("✓ ", "green"), line) if not problems else Text(line, "dim") for line in lines]
            + [Text.assemble(("✗ ", "bold red"), problem) for problem in problems]
        )
        title = "[bold red]FAILED" if problems else "[bold green]nothing lost, nothing twice"
        style = "red" if problems else "green"
        self._console.print(Panel(body, title=title, border_style=style, box=box.ROUNDED, expand=False, padding=(1, 2)))


class _Figures(ProgressColumn):
    """Percent, amount, seconds and a note, on one line however narrow the terminal is."""

    def get_table_column(self) -> Column:
        return Column(no_wrap=True, overflow="ellipsis")

    def render(self, task: Task) -> Text:
        share, note = f"{task.percentage:4.0f} %", str(task.fields["note"])
        figures = f"  {task.completed:>9,.0f} {task.fields['unit']:<8} {task.elapsed or 0:5.1f} s  "
        return Text.assemble((share, "bold"), figures, (note, "dim"), no_wrap=True, overflow="ellipsis")


def _table(top: TopWords) -> Table:
    most = max(counted for _, counted, _ in top)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("word", style="cyan")
    table.add_column("counted", justify="right")
    table.add_column("in the files", justify="right")
    table.add_column("")
    for word, counted, expected in top:
        same = counted == expected
        bar = Text("█" * max(1, round(30 * counted / most)), "cyan" if same else "red")
        table.add_row(word, f"{counted:,}", Text(f"{expected:,}", "green" if same else "bold red"), bar)
    return table


def choose_screen() -> PlainScreen | TerminalScreen:
    """Returns the screen that fits where the output goes."""
    return TerminalScreen(Console(highlight=False)) if sys.stdout.isatty() else PlainScreen()
