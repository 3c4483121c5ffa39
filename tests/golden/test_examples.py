"""Every example gives its expected result: clean, through crashes, and for real on files."""

import pytest

from streamflow.testing.harness import FlowTest
from tests.golden.cases import CASES, EXAMPLE_CASES, Case, rows, rows_in
from tests.golden.crashing import arrive, feed, with_random_crashes, with_three_crashes
from tests.golden.playing import WORK_TURNS, played, turns

RECORDS = 3000
"""More than two numbers of the log hold."""

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_example = pytest.mark.parametrize("case", EXAMPLE_CASES, ids=lambda case: case.name)


def check(t: FlowTest, case: Case) -> None:
    """What the sink's broker holds is right."""
    case.check(rows(t.sink(case.sink)))


@every_case
async def test_clean(case):
    async def feed_all(t, _crashes):
        await feed(t, case, case.payloads())
        check(t, case)
        assert len(t.out(case.output)) == len(t.sink(case.sink))

    await played(case.flow, feed_all, 0, case.output)


@every_case
@pytest.mark.parametrize("work_turns", [0, 7, 8, 12])
async def test_three_crashes_on_the_way(case, work_turns):
    async def through_crashes(t, crashes):
        if crashes:
            await with_three_crashes(t, case, work_turns)
            assert t.engine.checkpoint.generation == 4
        else:
            await feed(t, case, case.payloads())
        check(t, case)

    await played(case.flow, through_crashes, 3, case.output)


async def test_the_turns_of_the_loop_reach_every_stage_of_the_work():
    """Else the crashes above would all be at rest."""
    case = next(case for case in CASES if case.name == "sequence_window")
    seen = set()
    for count in range(WORK_TURNS):
        async with case.flow.test() as t:
            arrive(t, case, case.payloads()[:RECORDS])
            await turns(count)
            committed, published = len(t.out(case.output)), len(t.sink(case.sink))
            seen.add((committed > 0, published > 0, published == RECORDS))
    assert seen >= {
        (False, False, False),  # nothing committed
        (True, False, False),  # committed, nothing published
        (True, True, False),  # published in part
        (True, True, True),  # done
    }


@every_case
async def test_twenty_random_crashes_on_the_way(case, long_run, longest_run):
    for seed in range(20 if longest_run else 4 if long_run else 1):

        async def through_crashes(t, crashes, seed=seed):
            if crashes:
                await with_random_crashes(t, case, crashes, seed)
            else:
                await feed(t, case, case.payloads())
            check(t, case)

        await played(case.flow, through_crashes, 20, case.output)


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
