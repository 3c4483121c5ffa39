"""The page about codecs runs: its blocks build on one another, and the tests in them run, too."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from tests.docs.test_docs import ROOT, python_blocks


async def test_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("codecs_page")
    monkeypatch.setitem(sys.modules, "codecs_page", module)
    space: dict[str, Any] = module.__dict__
    for block in python_blocks(ROOT / "docs/codecs.md"):
        exec(compile(block, "docs/codecs.md", "exec"), space)
    tests = [value for name, value in space.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        await test()
