"""Arroyo's inputs and results, and how its rows are written."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any, Final

import streamflow as sf

DATA: Final = Path(__file__).parent / "data" / "arroyo"


def lines(name: str) -> list[Any]:
    """The rows of one file."""
    path = DATA / name
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines() if line]


CARS: Final = lines("cars.jsonl.gz")
IMPULSE: Final = lines("impulse.jsonl")


def moment(record: Any) -> datetime.datetime:
    """When a record happened."""
    return datetime.datetime.fromisoformat(record["timestamp"])


def written(time: datetime.datetime) -> str:
    """A time as Arroyo writes it."""
    return time.replace(tzinfo=None).isoformat(timespec="milliseconds" if time.microsecond else "seconds")


def arroyo(lateness: str = "1h") -> tuple[sf.Flow, Any]:
    """A flow that reads one of the inputs."""
    flow = sf.Flow("arroyo")
    return flow, flow.source(sf.MemoryTopic[Any]("in"), time=moment, lateness=lateness)


def driver(record: Any) -> int:
    """Who drove."""
    found: int = record["driver_id"]
    return found


def same(rows: list[Any], name: str) -> None:
    """Holds rows against a result, in any order."""

    def order(row: Any) -> str:
        return json.dumps(row, sort_keys=True)

    assert sorted(rows, key=order) == sorted(lines(name), key=order)
