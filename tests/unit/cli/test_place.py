"""The place that a failure names is a line of the user's own code, not one of a connector's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamflow.cli.failing import place_of
from streamflow_rabbitmq.streams.message import write_message


def test_a_connectors_inner_package_is_not_the_users_code() -> None:
    nothing: Any = None
    with pytest.raises(TypeError) as caught:
        write_message(nothing, None, None)
    assert Path(caught.traceback[-1].path).parts[-3:-1] == ("streamflow_rabbitmq", "streams")
    assert place_of(caught.value).startswith("tests/unit/cli/test_place.py, line")
