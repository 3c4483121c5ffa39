"""How many examples a property is tried with: few with every change, many in `make faults-long`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import pytest
from hypothesis import Phase, settings

MORE: Final = {"--long": 4, "--longest": 16}
"""So many times the examples of a short run."""
TIMEOUT_SECONDS: Final = 900
"""For one property in the longest run, on a machine that does other things too."""

Test = TypeVar("Test", bound=Callable[..., Any])

_chosen = {"factor": 1}


def choose(config: pytest.Config) -> None:
    """Reads from the command line how long the run may take; called before any test is collected."""
    _chosen["factor"] = max([times for option, times in MORE.items() if config.getoption(option)], default=1)


def examples(few: int) -> Callable[[Test], Test]:
    """Marks a property that runs a whole flow for each example: so many of them, more in long runs, in which it is too.

    Args:
        few: Examples with every change.
    """
    many = settings(
        max_examples=few * _chosen["factor"],
        deadline=None,
        # not `explain`, which looks at files while it traces: the detector of blocking calls would see that
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )

    def mark(test: Test) -> Test:
        marked: Test = pytest.mark.usefixtures("long_run")(pytest.mark.timeout(TIMEOUT_SECONDS)(many(test)))
        return marked

    return mark
