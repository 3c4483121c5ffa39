"""Progress: an instrument that counts what a running flow does and tells it in a few lines."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Protocol

from streamflow.cli.output import figure, one_line, plural
from streamflow.errors import FoundLate, StreamflowError
from streamflow.instrument import Instrument

LIVE_SECONDS: Final = 0.5
"""How often the live line is drawn anew."""
TOLD_SECONDS: Final = 10.0
"""How often progress is told where there is no live line."""
REPEATED_SECONDS: Final = 1.0
"""Left out records of one step, and stalls, are told at most this often."""


class Voice(Protocol):
    """Where lines go: a terminal, a log, or JSON."""

    live: bool
    """Whether it draws `show` in place."""

    def say(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        """Tells what happened."""
        ...

    def warn(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        """Tells what is wrong."""
        ...

    def show(self, text: str, facts: Mapping[str, Any]) -> None:
        """Tells how far the flow is."""
        ...


class Progress(Instrument):
    """Counts and tells.

    BOUND: one line per attempt of a connector, per restart, and per second for whatever can repeat faster.

    Args:
        voice: Where lines go.
        describe: Kind and name of each connector -> what it is, in a few words.
    """

    def __init__(self, voice: Voice, describe: Mapping[tuple[str, str], str]) -> None:
        self.records = self.epochs = self.restarts = 0
        self.epoch = 0
        self.left_out: Counter[str] = Counter()
        self._voice = voice
        self._describe = describe
        self._told: dict[str, float] = {}
        self._last = (time.monotonic(), 0)
        self._shown: object = None
        self._runs = False

    # -- what the engine says ----------------------------------------------------------------------------------------

    def started(self, epoch: int, generation: int) -> None:
        self.epoch = epoch
        self._last = (time.monotonic(), self.records)
        where = f"from epoch {epoch:,}" if epoch else "from the beginning"
        verb = "goes on" if self._runs else "runs"
        self._runs = True
        self._voice.say("started", f"the flow {verb} {where}", {"epoch": epoch, "generation": generation})

    def number(self, number: int, records: int) -> None:
        self.records += records

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        self.epoch = epoch
        self.epochs += 1

    def skipped(self, step: str, place: str, error: Exception) -> None:
        self.left_out[step] += 1
        if self._is_due(f"skipped {step}"):
            count = self.left_out[step]
            text = f"step {step!r} left out a record ({count:,} so far): {_said(error)}"
            self._voice.warn("skipped", text, {"step": step, "place": place, "count": count, "error": _said(error)})

    def connector_failed(self, kind: str, name: str, error: Exception, retry_in_seconds: float) -> None:
        what = self._describe.get((kind, name), "")
        about = f" ({what})" if what else ""
        again = f"trying again in {retry_in_seconds:g} s.{_way_out(error)}"
        text = f"{kind} {name!r}{about} failed: {_said(error)}; {again}"
        facts = {"kind": kind, "name": name, "error": _said(error), "retry_in_seconds": retry_in_seconds}
        self._voice.warn("connector_failed", text, facts)

    def restarting(self, error: Exception, retry_in_seconds: float) -> None:
        self.restarts += 1
        if isinstance(error, FoundLate):
            return  # it only looks for the record, and the error that names it follows
        text = f"back to the checkpoint in {retry_in_seconds:g} s: {_said(error)}.{_way_out(error)}"
        self._voice.warn("restarting", text, {"error": _said(error), "retry_in_seconds": retry_in_seconds})

    def stalled(self, reason: str) -> None:
        if self._is_due("stalled"):
            self._voice.warn("stalled", f"no record is taken: {reason}", {"reason": reason})

    # -- what people see ---------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Shows progress until it is cancelled."""
        while True:
            await asyncio.sleep(LIVE_SECONDS if self._voice.live else TOLD_SECONDS)
            self.show()

    def show(self) -> None:
        """Shows how far the flow is, if anything changed."""
        now, (then, before) = time.monotonic(), self._last
        self._last = (now, self.records)
        rate = (self.records - before) / max(now - then, 1e-3)
        state = (self.records, self.epoch, self.restarts, self.left_out.total())
        if self._voice.live or state != self._shown:
            self._shown = state
            self._voice.show(self._line(rate), self.facts() | {"records_per_second": round(rate, 1)})

    def _line(self, rate: float) -> str:
        parts = [plural(self.records, "record"), f"{figure(rate)}/s", f"epoch {self.epoch:,}"]
        if self.restarts:
            parts.append(plural(self.restarts, "restart"))
        if self.left_out:
            parts.append(f"{self.left_out.total():,} left out")
        return ", ".join(parts)

    def finished(self, unpublished: Mapping[str, int]) -> None:
        """Tells the end, and what is committed and not known to be published."""
        self._voice.say("stopped", f"stopped at epoch {self.epoch:,}: {self._summary()}", self.facts())
        for sink, count in unpublished.items():
            text = (
                f"sink {sink!r}: {plural(count, 'record')} committed and not published yet; "
                "the next run publishes them."
            )
            self._voice.warn("unpublished", text, {"sink": sink, "records": count})

    def _summary(self) -> str:
        parts = [plural(self.records, "record"), plural(self.epochs, "epoch"), plural(self.restarts, "restart")]
        return ", ".join(parts) + (f", {self.left_out.total():,} left out" if self.left_out else "")

    def facts(self) -> dict[str, Any]:
        """The counters, for JSON."""
        return {
            "records": self.records,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "restarts": self.restarts,
            "left_out": dict(self.left_out),
        }

    def _is_due(self, what: str) -> bool:
        now = time.monotonic()
        if now - self._told.get(what, float("-inf")) < REPEATED_SECONDS:
            return False
        self._told[what] = now
        return True


def _said(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__


def _way_out(error: Exception) -> str:
    return f" {one_line(error.hint)}" if isinstance(error, StreamflowError) and error.hint else ""
