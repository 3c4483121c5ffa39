"""What the documents say is true: their Python runs, and the files they name exist."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import streamflow_kafka  # noqa: F401 - as the next
import streamflow_nats  # noqa: F401 - imported before the loop runs: importing reads files

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for folder in (
        ".",
        "docs",
        "docs/adr",
        "docs/brokers",
        "examples",
        "connectors/streamflow_kafka",
        "connectors/streamflow_nats",
        "connectors/streamflow_rabbitmq",
    )
    for path in (ROOT / folder).glob("*.md")
    if path.name != "0000-template.md"
)


def python_blocks(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


async def test_the_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks build on one another; the tests in them run, too."""
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    space: dict[str, Any] = module.__dict__
    for block in python_blocks(ROOT / "README.md"):
        exec(compile(block, "README.md", "exec"), space)
    tests = [value for name, value in space.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        await test()


def test_the_examples_of_the_semantics_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block stands alone and has one test."""
    blocks = python_blocks(ROOT / "docs/semantics.md")
    assert len(blocks) > 4
    for block in blocks:
        module = types.ModuleType("semantics")
        monkeypatch.setitem(sys.modules, module.__name__, module)  # by which annotations find what they name
        space: dict[str, Any] = module.__dict__
        exec(compile(block, "docs/semantics.md", "exec"), space)
        asyncio.run(space["test"]())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    names = set(re.findall(r"[\w/]+\.py\b", text)) | set(re.findall(r"`([a-z]+/(?:[a-z_]+/)*)`", text))
    assert len(names) > 30
    missing = [name for name in names if not any((ROOT / base / name).exists() for base in ("", "streamflow"))]
    assert missing == []


def test_the_documents_speak_of_the_project_alone() -> None:
    for document in [*DOCUMENTS, ROOT / "Makefile"]:
        found = re.search(
            r"/work/|\bagents?\b|\b(this|my|our) session\b|issue #?\d", document.read_text(), re.IGNORECASE
        )
        assert found is None, f"{document.name}: {found}"
