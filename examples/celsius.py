"""Celsius to Fahrenheit: the smallest flow, one record in, one record out, nothing to remember.

Shows: typed JSON in, `map` and `filter`. Even without state the position in the source and what was written
are committed together, so nothing is missing or twice after a crash.

    streamflow run examples.celsius:flow
"""

from dataclasses import dataclass
from pathlib import Path

import streamflow as sf

HERE = Path(__file__).parent
ABSOLUTE_ZERO = -273.15


@dataclass(frozen=True)
class Reading:
    celsius: float
    fahrenheit: float


flow = sf.Flow("celsius", state=HERE / "out/celsius.db")
celsius = flow.source(sf.jsonl(HERE / "data/celsius.jsonl", value=float))
possible = celsius.filter(lambda degrees: degrees >= ABSOLUTE_ZERO, name="possible")


@possible.map
def readings(degrees: float) -> Reading:
    return Reading(degrees, degrees * 9 / 5 + 32)


readings.to(sf.jsonl(HERE / "out/fahrenheit.jsonl", value=Reading))
