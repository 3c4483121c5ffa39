"""Mishaps: what a flow goes on after, counted, and told of ever more rarely."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from streamflow.instrument import Instrument

LEFT_OUT: Final = "streamflow.left_out"
"""Name of the logger that tells what was left out: whoever hears of it by the instrument need not listen to it."""
_log = logging.getLogger("streamflow")
_left_out = logging.getLogger(LEFT_OUT)


class Mishaps:
    """Counts records that were left out, or released before their time.

    GUARANTEE: the instrument hears of each; the log of the first, the second, the fourth, the eighth ..., since a flood
    of bad records must not drown it.

    Args:
        instrument: Is told.

    Attributes:
        left_out: Records that a step, source or sink has left out.
        released_early: Records of sources in the order of event time whose order may differ.
    """

    def __init__(self, instrument: Instrument) -> None:
        self.left_out: Counter[str] = Counter()
        self.released_early: Counter[str] = Counter()
        self._instrument = instrument

    def skipped(self, step: str, place: str, error: Exception) -> None:
        """A record was left out."""
        self.left_out[step] += 1
        count = self.left_out[step]
        level = logging.DEBUG if count & (count - 1) else logging.WARNING
        _left_out.log(level, "step %s left out a record (%s), %d so far: %s", step, place, count, error)
        self._instrument.skipped(step, place, error)

    def released(self, sources: str, records: int) -> None:
        """Records were released before their time."""
        before = self.released_early[sources]
        self.released_early[sources] = so_far = before + records
        if before.bit_length() != so_far.bit_length():
            _log.warning("%d records of %s were released before their time; their order may differ", so_far, sources)
        self._instrument.released_early(sources, records)
