"""What is said of a source's event time, and refused where it makes no sense."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lateness": "5s"}, "source 'in' has lateness= and no event time"),
        ({"idle": None}, "source 'in' has idle= and no event time"),
        ({"future_max": "1h"}, "source 'in' has future_max= and no event time"),
        ({"time": "broker", "latness": "5s"}, "source 'in' takes no latness="),
        ({"hold_max": "5s", "time": "broker"}, "hold_max= and max_drift= are for order"),
        ({"order": "name", "time": "broker"}, "order='name'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=words) as caught:
        sf.Flow("refused").source(sf.MemoryTopic("in"), **options)
    assert caught.value.hint


def test_defaults_of_event_time() -> None:
    flow = sf.Flow("defaults")
    flow.source(sf.MemoryTopic("in"), time="broker")
    spec = flow.graph().step("source:in").options["event_time"]
    assert (spec.of, spec.lateness_us, spec.idle_ms, spec.ahead_us) == (None, 0, 30_000, 86_400_000_000)
