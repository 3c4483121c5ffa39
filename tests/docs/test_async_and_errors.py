"""The pages on async steps, errors and embedding: their Python runs, block after block, and so do the tests in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import run_page
from tests.docs.test_docs import ROOT

pytestmark = pytest.mark.allow_blocking("frameworks look modules up when they are imported")


@pytest.mark.parametrize("name", ["async", "embedding", "errors"])
async def test_the_page_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    space = run_page(name, monkeypatch)
    tests = [value for key, value in space.items() if key.startswith("test_")]
    assert len(tests) == (ROOT / "docs" / f"{name}.md").read_text().count("def test_") > 0
    for test in tests:
        await test()
