"""Every example gives its expected result: clean, through crashes, and for real on files."""

import importlib.util
import shutil
import sys
from types import ModuleType

import pytest

from streamflow.testing.harness import FlowTest
from tests.golden.cases import CASES, EXAMPLE_CASES, Case, rows, rows_in
from tests.golden.crashing import feed, with_random_crashes, with_three_crashes
from tests.golden.inputs import EXAMPLES

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_example = pytest.mark.parametrize("case", EXAMPLE_CASES, ids=lambda case: case.name)


def check(t: FlowTest, case: Case) -> None:
    """What the sink's broker holds is right."""
    case.check(rows(t.sink(case.sink)))


@every_case
async def test_clean(case):
    async with case.flow.test() as t:
        await feed(t, case, case.payloads())
        check(t, case)
        assert len(t.out(case.output)) == len(t.sink(case.sink))
        assert t.crashes == 0


@every_case
@pytest.mark.parametrize("work_turns", [0, 4, 12, 25, 50])
async def test_three_crashes_on_the_way(case, work_turns):
    async with case.flow.test() as t:
        await with_three_crashes(t, case, work_turns)
        check(t, case)
        assert t.crashes == 3
        assert t.engine.checkpoint.generation == 4


@every_case
@pytest.mark.parametrize("seed", range(2))
async def test_twenty_random_crashes_on_the_way(case, seed):
    async with case.flow.test() as t:
        await with_random_crashes(t, case, 20, seed)
        check(t, case)
        assert t.crashes == 20


@pytest.fixture
def copied(tmp_path):
    """Loads an example from a copy of the folder, so that its state and its output are the test's own."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__", "*.db*", "*.jsonl.*"))
    shutil.rmtree(tmp_path / "examples/out")
    (tmp_path / "examples/out").mkdir()
    loaded = []

    def load(name: str) -> ModuleType:
        unique = f"copied_{name}"
        spec = importlib.util.spec_from_file_location(unique, tmp_path / "examples" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module  # dataclasses look their annotations up there
        loaded.append(unique)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


@every_example
async def test_for_real_on_files(case, copied, tmp_path):
    out = tmp_path / "examples/out" / f"{case.sink}.jsonl"
    await copied(case.module).flow.run()
    case.check(rows_in(out))

    # run again: the input was read to its end, so nothing is added
    before = out.read_bytes()
    await copied(case.module).flow.run()
    assert out.read_bytes() == before


@every_example
def test_no_example_does_anything_on_import(case, copied, tmp_path):
    copied(case.module)
    assert list((tmp_path / "examples/out").iterdir()) == []
