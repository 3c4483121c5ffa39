"""Which brokers a machine must have: what cannot be had is named, and its tests are skipped, or fail if so asked."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from tests.brokers.kind import BrokerError, BrokerKind

REQUIRE_VARIABLE = "STREAMFLOW_REQUIRE_BROKERS"
"""Names of brokers, comma-separated, or `all`: without them tests fail instead of being skipped."""

_problems: dict[str, str] = {}


def need(kind: BrokerKind) -> None:
    """Go on only if the broker can be started natively here; gets it first, if that takes a download.

    Args:
        kind: Which broker.

    Raises:
        pytest.skip.Exception: It cannot be had.
        pytest.fail.Exception: It cannot be had, and the environment says that it must.
    """
    if kind.name not in _problems:
        try:
            kind.install()
        except BrokerError as error:
            _problems[kind.name] = str(error)
        else:
            _problems[kind.name] = ""
    problem = _problems[kind.name]
    if not problem:
        return
    if is_required(kind.name):
        pytest.fail(f"{kind.name} cannot be had, and {REQUIRE_VARIABLE} asks for it: {problem}", pytrace=False)
    pytest.skip(f"{kind.name} cannot be had: {problem}")


def is_required(name: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks for the broker."""
    asked = {word.strip() for word in environment.get(REQUIRE_VARIABLE, "").split(",")}
    return "all" in asked or name in asked


def missing_lines() -> list[str]:
    """A line for each broker that could not be had so far."""
    return [
        f"{name} was NOT tested: {problem} ({REQUIRE_VARIABLE}=all makes this a failure)"
        for name, problem in _problems.items()
        if problem and not is_required(name)
    ]
