"""What a process of its own may do for a flow, and a flow inside somebody's process must not."""

from __future__ import annotations

import gc
from typing import Final

YOUNG_OBJECTS_MAX: Final = 50_000
"""Objects made before the collector looks at the young ones: batches in flight are no garbage yet, and each look at
them costs more than what it finds."""


def own_collector() -> None:
    """Sets Python's garbage collector for a flow: what is loaded stays, and the young are looked at less often."""
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 100)
    # modules and the graph live as long as the process: no collection needs to look at them again
    gc.collect()
    gc.freeze()
