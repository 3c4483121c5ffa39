"""A detector for calls that block the event loop, scoped to what streamflow itself does."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

from blockbuster import BlockBuster, BlockingError
from blockbuster.blockbuster import BlockBusterFunction

__all__ = ["BlockingDetector", "BlockingError"]

ROOT = Path(__file__).parents[1]
BLAMED = (f"{ROOT}/streamflow/", f"{ROOT}/connectors/")
# Under tests the store's transactions run inline on the loop on purpose, so that a run is deterministic;
# the test harness copies and reopens state files the same way.
INLINE_ON_PURPOSE = (f"{ROOT}/streamflow/state/", f"{ROOT}/streamflow/testing/")
# A blocking call that user code in a test or an example makes is not streamflow's.
# Where log records go is the host's choice.
# A finalizer of semaphores runs wherever the collector comes upon them.
NOT_BLAMED = (
    f"{ROOT}/tests/",
    f"{ROOT}/examples/",
    f"{ROOT}/benchmarks/",
    "<frozen importlib",
    logging.__file__,
    resource_tracker.__file__,
)


class BlockingDetector:
    """Raises BlockingError where streamflow blocks the running loop, and remembers it.

    The nearest frame on the stack that belongs to this repository decides: streamflow or a connector is
    blamed, a test's or an example's own code is not. What the engine's supervision swallows stays in
    `violations`, so that the test fails all the same.
    """

    def __init__(self) -> None:
        self.enabled = False
        self.violations: list[str] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Patch the blocking functions of Python while the context lasts."""
        blockbuster = BlockBuster()
        for function in blockbuster.functions.values():
            function.can_block_predicate = self._allows(function, function.can_block_predicate)
        blockbuster.activate()
        try:
            yield
        finally:
            blockbuster.deactivate()

    def _allows(self, function: BlockBusterFunction, allowed_by_arguments: Callable[..., bool]) -> Callable[..., bool]:
        def allows(*args: Any, **kwargs: Any) -> bool:
            if not self.enabled or allowed_by_arguments(*args, **kwargs):
                return True
            # who called the function: the two nearest frames are this one and the patch
            culprit = _culprit(sys._getframe(2), function)
            if culprit is None:
                return True
            self.violations.append(f"{function.full_name} called by {culprit}")
            return False

        return allows


def _culprit(frame: FrameType | None, function: BlockBusterFunction) -> str | None:
    while frame is not None:
        filename, name = frame.f_code.co_filename, frame.f_code.co_name
        blamed = _is_blamed(filename)
        if blamed is False:
            return None
        if any(filename.endswith(file) and name in names for file, names in function.can_block_functions):
            return None
        if blamed:
            return f"{name} ({Path(filename).relative_to(ROOT)}:{frame.f_lineno})"
        frame = frame.f_back
    return None


@cache
def _is_blamed(filename: str) -> bool | None:
    """Whether a call from this file is blamed; None where its caller decides. Asked for each call of a test."""
    if filename.startswith((*NOT_BLAMED, *INLINE_ON_PURPOSE)):
        return False
    return True if filename.startswith(BLAMED) else None
