"""What commands need of a flow's state without running it: its manifest, and its file."""

from __future__ import annotations

from streamflow.cli.output import one_line
from streamflow.errors import StateError
from streamflow.flow import Flow
from streamflow.runtime.engine import Engine
from streamflow.state.reader import StoreFacts, describe
from streamflow.state.store import Manifest


def manifest_of(flow: Flow) -> Manifest:
    """What the store would hold the flow against; opens nothing."""
    job = flow.job()
    return job.manifest(Engine(job).bound)


def facts_of(flow: Flow) -> StoreFacts:
    """Describes the flow's state file.

    Raises:
        StateError: There is none, it cannot be read, or it is another flow's.
    """
    facts = describe(flow.state_path)
    check_owner(flow, facts)
    return facts


def check_owner(flow: Flow, facts: StoreFacts) -> None:
    """Refuses a state file that is another flow's.

    Raises:
        StateError: It is.
    """
    check_name(flow, facts.flow)


def check_name(flow: Flow, owner: str) -> None:
    """`check_owner`, given the name that the file holds."""
    if owner != flow.name:
        raise StateError(
            f"{flow.state_path} belongs to flow {one_line(owner)!r}, not to {flow.name!r}",
            hint="Give each flow a state file of its own: Flow(..., state=...).",
        )
