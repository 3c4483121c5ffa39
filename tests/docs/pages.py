"""Pages of the documentation, run as modules: block after block, in one name space."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from tests.docs.test_docs import ROOT, python_blocks


def run_page(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs the Python blocks of a page; returns what they define."""
    page = ROOT / "docs" / f"{name}.md"
    module = types.ModuleType(f"page_{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    space: dict[str, Any] = module.__dict__
    for block in python_blocks(page):
        exec(compile(block, page.name, "exec"), space)
    return space
