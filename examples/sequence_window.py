"""Sequence window: the last four values of each key, given out with every new value.

Shows: `process`, a step with state of your own per key. State is a plain dataclass, changed in place; streamflow
stores what changed with each commit, and what the step gives out never aliases it.

    streamflow run examples.sequence_window:flow
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import streamflow as sf

HERE = Path(__file__).parent
SIZE = 4


@dataclass(frozen=True)
class Reading:
    key: str
    value: int


@dataclass
class Last:
    values: list[int] = field(default_factory=lambda: [0] * SIZE)


@dataclass(frozen=True)
class Window:
    key: str
    values: list[int]


flow = sf.Flow("sequence-window", state=HERE / "out/sequence_window.db")
readings = flow.source(sf.jsonl(HERE / "data/sequence.jsonl", value=Reading))


@readings.key_by(lambda reading: reading.key).process(state=Last)
def windows(ctx: sf.Context[str, Last], reading: Reading) -> Iterator[Window]:
    ctx.state.values.append(reading.value)
    del ctx.state.values[0]
    yield Window(ctx.key, ctx.state.values)


windows.to(sf.jsonl(HERE / "out/sequence_window.jsonl", value=Window))
