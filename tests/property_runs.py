"""How many examples a property is tried with: few with every change, more in `make faults` and `make faults-long`."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings

MORE = {"--long": 4, "--longest": 16}
"""So many times the examples of a short run."""

_chosen = {"factor": 1}


def choose(config: pytest.Config) -> None:
    """Reads from the command line how long the run may take; called before any test is collected."""
    _chosen["factor"] = max([times for option, times in MORE.items() if config.getoption(option)], default=1)


def examples(few: int) -> settings:
    """Settings for a property that runs a whole flow for each example.

    Mark what uses it with ``usefixtures("long_run")``, which takes it into long runs.
    """
    return settings(
        max_examples=few * _chosen["factor"],
        deadline=None,
        # not `explain`, which looks at files while it traces: the detector of blocking calls would see that
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )
