"""What the store's fault trials need: an SQLite library whose calls can be watched."""

from __future__ import annotations

import os

import pytest

from tests.faults.store.vfs import NoLibrary, library


@pytest.fixture(autouse=True)
def watchable_library() -> None:
    """Skips, and says so, where Python's SQLite is linked so that nobody can watch it; fails where that must not be."""
    try:
        library()
    except NoLibrary as error:
        if os.environ.get("STREAMFLOW_REQUIRE_BROKERS") == "all":
            pytest.fail(f"nothing may be skipped here, and {error}")
        pytest.skip(str(error))
