"""The crash points that a flow passes on a real broker."""

from __future__ import annotations

from typing import Final

from streamflow.points import POINTS as ALL_POINTS

POINTS: Final = tuple(point for point in ALL_POINTS if point != "record.buried")
"""All but one: in these trials no broker refuses a record for good. Simulated schedules kill there."""
