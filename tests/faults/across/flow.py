"""The flow that fault tests kill, from places of some brokers to places of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamflow as sf
from streamflow.connect.contracts import SinkSpec, SourceSpec
from tests.faults.flow import Counted, Guaranteed, Numbered, Setup


@dataclass(frozen=True, kw_only=True)
class AcrossSetup(Setup):
    """How the flow is built, of the setups of single brokers.

    Args:
        sources: The flow reads what these read, merged.
        sinks: And writes wherever these write.
    """

    sources: tuple[Setup, ...]
    sinks: tuple[Setup, ...]

    def reads(self) -> SourceSpec[Numbered]:
        """The first of them."""
        return self.sources[0].reads()

    def enters(self, flow: sf.Flow, on_error: Any) -> sf.Stream[Numbered]:
        first, *others = [source.enters(flow, on_error) for source in self.sources]
        return first.merge(*others, name="merged") if others else first

    def writes(self) -> Sequence[tuple[SinkSpec[Counted], Guaranteed | None]]:
        return [target for sink in self.sinks for target in sink.writes()]
