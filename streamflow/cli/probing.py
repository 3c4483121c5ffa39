"""Probing: asks every source and sink whether a flow could start with it now; moves and declares nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from streamflow.batch import Partition, Position
from streamflow.connect.contracts import Probe, ProbesPositions
from streamflow.errors import ConnectorError, StreamflowError
from streamflow.graph import SINK, SOURCE, Graph, Step

PROBE_SECONDS: Final = 15.0
"""How long a broker may take to answer."""

Committed = Mapping[str, Mapping[Partition, Position]]
"""Positions by source."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the probe of one connector gave; ``what`` is its own description, without secrets."""

    kind: str
    name: str
    what: str
    probe: Probe


async def probe_all(graph: Graph, committed: Committed = MappingProxyType({})) -> list[Finding]:
    """Probes all sources and sinks at once; never raises.

    Args:
        graph: Has the sources and sinks.
        committed: Per source the positions that it would go on at: whether they still fit is looked at, too.
    """
    steps = [*graph.of_kind(SOURCE), *graph.of_kind(SINK)]
    probes = await asyncio.gather(*(_probe(step, committed.get(step.name, {})) for step in steps))
    return [
        Finding(step.kind, step.name, step.options["spec"].describe(), probe)
        for step, probe in zip(steps, probes, strict=True)
    ]


async def require_all(graph: Graph) -> None:
    """Probes all sources and sinks and refuses to go on if one could not be used.

    Raises:
        ConnectorError: Naming the first one that could not, and the way out.
    """
    bad = [finding for finding in await probe_all(graph) if not finding.probe.ok]
    if bad:
        first, others = bad[0], len(bad) - 1
        more = f" (and {others} more: `streamflow check` shows all)" if others else ""
        hint = f"{first.probe.hint} " if first.probe.hint else ""
        raise ConnectorError(
            f"{first.kind} {first.name!r} cannot be used: {first.probe.problem}{more}",
            hint=f"{hint}Or start with --wait, which tries again until it answers.",
        )


async def _probe(step: Step, resume: Mapping[Partition, Position]) -> Probe:
    make = _maker(step)
    try:
        connector = make()
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                if resume and step.kind == SOURCE and isinstance(connector, ProbesPositions):
                    return await connector.probe_behind(resume)
                found: Probe = await connector.probe()
                return found
        finally:
            await connector.close()
    except StreamflowError as error:
        return Probe(False, {}, error.message, error.hint)
    except TimeoutError:
        return Probe(False, {}, f"no answer within {PROBE_SECONDS:g} s", "Check that it runs and can be reached.")
    except Exception as error:  # a third party's connector may raise anything, and the others shall be shown too
        return Probe(False, {}, f"unexpected {type(error).__name__}: {error}", "Report it to the connector's authors.")


def _maker(step: Step) -> Callable[[], Any]:
    spec = step.options["spec"]
    if step.kind == SOURCE:
        make: Callable[[], Any] = spec.source
        return make
    return lambda: spec.sink(step.options["sink_options"])
