"""Python's garbage collector: what a process of its own may do about it, and what any flow does while it loads."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

YOUNG_OBJECTS_MAX: Final = 50_000
"""Objects made before the collector looks at the young ones: batches in flight are no garbage yet, and each look at
them costs more than what it finds."""


def own_collector() -> None:
    """Sets the collector for a flow: what is loaded stays, and the young are looked at less often.

    For a process of its own only; a flow inside somebody's process must not.
    """
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 100)
    # modules and the graph live as long as the process: no collection needs to look at them again
    gc.collect()
    gc.freeze()


@contextmanager
def paused_collector() -> Iterator[None]:
    """Lets the collector rest while state is loaded: a million objects that stay would be looked at again and again."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()
