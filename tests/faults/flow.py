"""The flow that fault tests kill: numbered records per key in, the same number with a count kept in state out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import streamflow as sf
from streamflow_nats import Nats


@dataclass(frozen=True)
class Numbered:
    """Record ``n`` of its key, from 1 without a gap."""

    key: str
    n: int


@dataclass
class Seen:
    """How many records of the key there were, and the last one's number."""

    count: int = 0
    last: int = 0


@dataclass(frozen=True)
class Counted:
    """A record's number, and what the state says of its key."""

    key: str
    n: int
    count: int
    gap: int


def make_flow(url: str, state: str, mode: Literal["chain", "batch"] = "chain") -> sf.Flow:
    """Builds the flow over the streams IN and OUT of a server."""
    nats = Nats(url)
    flow = sf.Flow("kill-me", state=state)
    numbered = flow.source(nats.stream("IN", subject="in", value=Numbered))

    @numbered.key_by(lambda record: record.key).process(state=Seen)
    def counted(ctx: sf.Context[str, Seen], record: Numbered) -> Iterator[Counted]:
        gap = record.n - ctx.state.last
        ctx.state.count, ctx.state.last = ctx.state.count + 1, record.n
        yield Counted(record.key, record.n, ctx.state.count, gap)

    counted.to(nats.stream("OUT", subject="out", value=Counted, mode=mode))
    return flow


if "STREAMFLOW_FAULTS_URL" in os.environ:
    flow = make_flow(os.environ["STREAMFLOW_FAULTS_URL"], os.environ["STREAMFLOW_FAULTS_STATE"])
