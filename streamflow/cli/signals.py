"""Signals: the first SIGTERM or SIGINT asks the flow to stop, the second leaves at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final

from streamflow.cli.group import INTERRUPTED

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR: Final = b"\x1b[?25h\n"


class Stopper:
    """Handles both signals while it is entered.

    GUARANTEE: the first signal stops the flow cleanly: drain, commit, publish, close. The second ends the process
    at once with 130, also when a step does not give the loop back; what was not committed is read again next time.

    Args:
        terminal: Whether a live line may have hidden the terminal's cursor.
    """

    def __init__(self, *, terminal: bool = False) -> None:
        self.asked = False
        self._terminal = terminal
        self._stop: Callable[[], object] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before: dict[signal.Signals, Any] = {}

    def attach(self, stop: Callable[[], object]) -> None:
        """Says what the first signal calls, on the running loop; at once if it has come already."""
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        if self.asked:
            stop()

    def __enter__(self) -> Stopper:
        for one in SIGNALS:
            self._before[one] = signal.signal(one, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop = None
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # runs between any two bytecodes: nothing here may print through Python's buffers
        if self.asked:
            if self._terminal:
                os.write(1, _SHOW_CURSOR)
            os._exit(INTERRUPTED)
        self.asked = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        self._stop()
