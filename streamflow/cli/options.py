"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def with_target(function: Function) -> Function:
    """Adds TARGET and ``--traceback``."""
    return with_traceback(click.argument("target")(function))


def with_traceback(function: Function) -> Function:
    """Adds ``--traceback``, which the group looks for when a command fails."""
    return click.option("--traceback", is_flag=True, expose_value=False, help="Show the whole traceback of an error.")(
        function
    )


def with_json(function: Function) -> Function:
    """Adds ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
