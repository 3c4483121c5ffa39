"""A copy of the examples per test, so that state and output are the test's own."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.golden.inputs import EXAMPLES


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Loads an example, by name, from a copy of the folder in ``tmp_path``; again, as another process would."""
    folder = tmp_path / "examples"
    (folder / "out").mkdir(parents=True)
    shutil.copytree(EXAMPLES / "data", folder / "data")

    def load(name: str) -> ModuleType:
        shutil.copy(EXAMPLES / f"{name}.py", folder)
        spec = importlib.util.spec_from_file_location(f"copied_{name}", folder / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their annotations up there
        spec.loader.exec_module(module)
        return module

    return load
