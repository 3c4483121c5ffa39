"""The pages on async steps, errors and embedding: their Python runs, block after block, and so do the tests in it."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_docs import ROOT, python_blocks


@pytest.mark.parametrize("name", ["async", "embedding", "errors"])
async def test_the_page_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = ROOT / "docs" / f"{name}.md"
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"page_{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    space: dict[str, Any] = module.__dict__
    for block in python_blocks(page):
        exec(compile(block, page.name, "exec"), space)
    tests = [value for key, value in space.items() if key.startswith("test_")]
    assert len(tests) >= 3
    for test in tests:
        await test()
