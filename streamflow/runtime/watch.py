"""Watch: names the step that keeps the event loop to itself, from a thread beside it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from streamflow.operators.bind import BoundStage

LOGGED_AGAIN_SECONDS: Final = 10.0
"""A step that keeps the loop again and again is logged so often, and told each time."""

_log = logging.getLogger("streamflow")


class Watch:
    """Looks now and then at which step is at work, and for how long.

    GUARANTEE: a step that keeps the loop for more than twice ``seconds`` at a stretch is logged while it does, with
    the line it is at, and told on the loop once that is free again; once per stretch. Code that never lets Python
    change threads is not seen.
    BOUND: one thread, awake twice per ``seconds``.

    Args:
        stages: Whose loops to watch.
        seconds: How long a stretch may be.
        told: Called on the event loop with step, line and seconds.
    """

    def __init__(self, stages: Sequence[BoundStage], seconds: float, told: Callable[[str, str, float], None]) -> None:
        self._stages = stages
        self._seconds = seconds
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._logged: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="streamflow watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread soon; does not wait for it."""
        self._stopped.set()

    def _run(self) -> None:
        seen: dict[int, float] = {}
        while not self._stopped.wait(self._seconds / 2):
            for stage in self._stages:
                entered = stage.entered
                busy = stage.monotonic() - entered
                # between the two readings this thread may itself have waited long for the interpreter
                still = entered and stage.entered == entered
                if still and busy > self._seconds and seen.get(stage.stage.index) != entered:
                    seen[stage.stage.index] = entered
                    self._tell(stage, busy)

    def _tell(self, stage: BoundStage, busy: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        step, line = stage.at_work(frame)
        now = time.perf_counter()
        if now - self._logged.get(step, float("-inf")) > LOGGED_AGAIN_SECONDS:
            self._logged[step] = now
            _log.warning("step %s has kept the event loop for %.0f ms%s", step, busy * 1000, line)
        try:
            self._loop.call_soon_threadsafe(self._told, step, line.removeprefix(" at "), busy)
        except RuntimeError:
            self.stop()  # the loop is closed
