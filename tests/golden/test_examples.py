"""Every example gives its expected result: clean, through crashes, and for real on files."""

import pytest

from streamflow.testing.harness import FlowTest
from tests.golden.cases import CASES, EXAMPLE_CASES, Case, rows, rows_in
from tests.golden.crashing import feed, with_random_crashes, with_three_crashes

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
