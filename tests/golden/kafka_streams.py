"""The tables of Kafka Streams' unit tests."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, Final

CASES: Final[dict[str, Any]] = {
    case["name"]: case
    for case in json.loads((Path(__file__).parent / "data" / "kafka_streams" / "tables.json").read_text())
}


def milliseconds(time: datetime.datetime) -> int:
    """A time as the tables have it."""
    return round(time.timestamp() * 1000)
