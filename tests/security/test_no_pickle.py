"""Pickle (S1): nothing here unpickles, and nothing that is read can choose which code runs."""

from __future__ import annotations

import ast
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DecodeError
from tests.unpickling import UnpicklingDetector, UnpicklingError

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg", "multiprocessing",
    "yaml", "jsonpickle",
}  # fmt: skip
"""Modules that turn bytes into objects of the bytes' own choosing, or that use one of those."""
POOL = ROOT / "streamflow/runtime/workers.py"
"""Where `map_process` makes its process pool; the rest of ``multiprocessing`` is forbidden there, too."""
FILES = sorted([*(ROOT / "streamflow").rglob("*.py"), *(ROOT / "connectors").rglob("*.py")])
COMPILES = {ROOT / f"streamflow/operators/{name}.py" for name in ("fused", "aggregators")}
"""What compiles text: loops that the planner wrote, and several aggregators at once; users give identifiers only."""


def loaded_names(tree: ast.AST) -> set[str]:
    """Modules imported anywhere in a file, by statement or by name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value).partition(".")[0])
    return found


def test_no_file_imports_what_unpickles() -> None:
    assert len(FILES) > 100
    found = {file: loaded_names(ast.parse(file.read_text())) & FORBIDDEN for file in FILES}
    assert {file: names for file, names in found.items() if names} == {POOL: {"multiprocessing"}}
    text = POOL.read_text()
    assert "loads" not in text and "Connection" not in text and "Listener" not in text
    assert loaded_names(ast.parse("import os\ndef f():\n    from pickle import loads")) == {"os", "pickle"}


def test_text_is_compiled_in_two_places_only() -> None:
    found = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                found.add(file)
    assert found == COMPILES


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("it went off",))


def test_the_detector_hears_both_unpicklers_and_refuses(no_unpickling: UnpicklingDetector) -> None:
    bomb = pickle.dumps(Bomb())
    in_python: Any = vars(pickle)["_Unpickler"]  # the one without C; it has no public name
    loads: list[Callable[[], object]] = [lambda: pickle.loads(bomb), lambda: in_python(io.BytesIO(bomb)).load()]
    for load in loads:
        with pytest.raises(UnpicklingError, match=r"builtins.print"):
            load()
    assert no_unpickling.violations == ["builtins.print"] * 2
    no_unpickling.violations.clear()


def test_a_process_pools_own_pipes_are_its_own(no_unpickling: UnpicklingDetector) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(Path, "a").result(timeout=60) == Path("a")
    assert no_unpickling.violations == []


@pytest.mark.parametrize("kind", [str, bytes, dict, list[int]])
async def test_a_pickle_is_bytes_like_any_other(kind: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topic: sf.MemoryTopic[object] = sf.MemoryTopic("in", value=kind)
    topic.send_bytes(pickle.dumps(Bomb()))
    topic.close_input()
    out = sf.MemoryTopic("out", value=int)
    flow = sf.Flow("pickles", state=tmp_path / "pickles.db")
    flow.source(topic).map(lambda value: 1).to(out)
    if kind is bytes:
        await flow.run()
    else:
        with pytest.raises(DecodeError):
            await flow.run()
    assert "it went off" not in capsys.readouterr().out
