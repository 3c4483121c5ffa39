"""Standing: where a shard stands, in words, for whoever has to find out why it does not get on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Final

from streamflow.runtime.pump import Pump

DEATHS_TOLD: Final = 3
"""So many processes that died one after the other, with nothing committed between, are told of at the next start."""

PLACES_MAX: Final = 5
"""Positions that a message names."""

_log = logging.getLogger("streamflow")


def standing(epoch: int, pumps: Iterable[Pump]) -> str:
    """The epoch and the positions in it; those of sources that have broken first."""
    spots = [spot for pump in sorted(pumps, key=lambda pump: not pump.broken) for spot in _spots(pump)]
    return f"epoch {epoch}" + (f" ({'; '.join(spots[:PLACES_MAX])})" if spots else "")


def tell_deaths(flow: str, deaths: int, place: str) -> None:
    """Logs that processes have died one after the other at one place."""
    if deaths >= DEATHS_TOLD:
        _log.warning(
            "flow %s has died %d times in a row before it committed anything; it stands at %s", flow, deaths, place
        )


def _spots(pump: Pump) -> Iterator[str]:
    if not pump.taken:
        yield f"source {pump.name!r}"
    for partition, position in pump.taken.items():
        yield f"source {pump.name!r}{f', partition {partition!r}' if partition else ''}, position {position.at}"
