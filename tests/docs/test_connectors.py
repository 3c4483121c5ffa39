"""The page on connectors: its flow runs, and its connector passes the kit as the page says."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.docs.pages import run_page
from tests.docs.test_docs import ROOT, python_blocks

pytestmark = pytest.mark.allow_blocking("the page is imported, and its tests are run by a process of their own")


async def test_the_page_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    await run_page("connectors", monkeypatch)["test_a_flow_over_it"]()


async def test_its_connector_passes_the_conformance_kit(tmp_path: Path) -> None:
    """In a process of its own, as a third party runs it: nothing of this project's settings is there."""
    module = tmp_path / "test_log.py"
    module.write_text("\n\n".join(python_blocks(ROOT / "docs/connectors.md")))
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-rs", str(module)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    told = output.decode()
    assert process.returncode == 0, told
    passed = re.search(r"(\d+) passed", told)
    assert passed is not None, told
    assert int(passed[1]) >= 35, told
