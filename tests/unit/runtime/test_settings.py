"""Settings: how waits grow between attempts to open a connector again."""

from __future__ import annotations

import pytest

from streamflow.errors import SettingsError
from streamflow.runtime.settings import Settings


def test_waits_double_up_to_the_longest():
    settings = Settings(reopen_max="1s")
    assert [settings.reopen_seconds(attempt) for attempt in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert settings.reopen_seconds(10_000) == 1.0


def test_without_a_wait_it_would_be_a_busy_loop():
    with pytest.raises(SettingsError, match="reopen_max is 0s"):
        Settings(reopen_max="0s")
