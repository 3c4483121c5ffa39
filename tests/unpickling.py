"""A detector for unpickling: what is read from a disk or a network must never choose which code runs."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, Final

ALLOWED: Final = ("/multiprocessing/", "/concurrent/futures/")
"""The standard process pool unpickles what comes through its own pipes."""


class UnpicklingDetector:
    """Hears of every class that an unpickler looks up, and refuses it while a test runs.

    An audit hook cannot be taken away again, so there is one per process.
    """

    def __init__(self) -> None:
        self.enabled = False
        self.violations: list[str] = []
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "pickle.find_class" or not self.enabled:
            return
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if any(part in frame.f_code.co_filename.replace("\\", "/") for part in ALLOWED):
                return
            frame = frame.f_back
        what = ".".join(map(str, arguments))
        self.violations.append(what)
        raise UnpicklingError(f"{what} is unpickled, and nothing here ever may be")


class UnpicklingError(Exception):
    """Something was unpickled during a test."""
