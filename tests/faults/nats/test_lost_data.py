"""The world goes back: a broker with less data, an older state file. Refused or exact, never wrong in silence."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import NatsServer
from tests.faults.feeder import Feeder
from tests.faults.flow import Trap
from tests.faults.nats.outside import Outsider, make_stream
from tests.faults.nats.trial import (
    KINDS,
    MSGID,
    QUEUES,
    Kind,
    Trial,
    at_once,
)
from tests.faults.oracle import check_at_least_once
from tests.faults.process import copy_state

WINDOW_SECONDS = 1.0
AWAY_SECONDS = 2.5
PUBLISHED_NOT_NOTED = Trap("publish.done", 2)


async def ends_with(trial: Trial, error: str, words: str = "") -> None:
    """Starts the flow, which must refuse to go on and name a way out."""
    trial.flow.start()
    await refuses(trial, error, words)


async def refuses(trial: Trial, error: str, words: str = "") -> None:
    last = await trial.flow.ended()
    assert last["error"] == error, trial.flow.account()
    assert words in last["message"]
    assert last["hint"]


async def started(trial: Trial) -> None:
    """Waits until the flow runs, and its source is open if it was quick."""
    await trial.flow.until(lambda: trial.flow.said("started"), "the start")
    await asyncio.sleep(0.5)


async def killed_with_something_unnoted(trial: Trial, feeder: Feeder) -> None:
    """Runs the flow up to a publish that the broker has and the store does not know of."""
    await feeder.feed(300)
    trial.flow.start(PUBLISHED_NOT_NOTED)
    await trial.flow.until(lambda: trial.flow.said("published"), "the first publish")
    await feeder.feed(300)
    await trial.flow.killed(PUBLISHED_NOT_NOTED)


# -- away for long ---------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_the_server_is_away_longer_than_any_window(tmp_path: Path) -> None:
    """Killed in the middle of a publish; when it is back it has forgotten every message id."""
    kinds = (*KINDS, *QUEUES)
    async with NatsServer() as server:
        trials = [Trial(server, tmp_path, kind, window_seconds=WINDOW_SECONDS) for kind in kinds]
        feeders = [trial.feeder(bursts=(1300,)) for trial in trials]
        for trial, feeder in zip(trials, feeders, strict=True):
            await trial.__aenter__()
            trial.flow.start(Trap("publish.part", action="hold", gate=trial.folder / "gate"))
            await started(trial)
            await feeder.__aenter__()
        try:
            await asyncio.gather(*(trial.flow.held(trial.folder / "gate") for trial in trials))
            await server.kill_async()
            for trial in trials:
                (trial.folder / "gate").unlink()
            await asyncio.sleep(AWAY_SECONDS)
            await server.start_async()
            for feeder in feeders:
                await feeder.stop()
            for trial, feeder in zip(trials, feeders, strict=True):
                await trial.check(feeder)
        finally:
            for trial in trials:
                trial.flow.stop()
        assert server.starts == 2


async def doubled_after(server: NatsServer, folder: Path, seconds: float) -> int:
    """How many results are there twice when the flow was away for so long; none may be missing."""
    async with Trial(server, folder, MSGID, window_seconds=WINDOW_SECONDS) as trial:
        feeder = trial.feeder()
        await killed_with_something_unnoted(trial, feeder)
        await asyncio.sleep(seconds)
        trial.flow.start()
        await trial.wait_for(feeder)
        await asyncio.sleep(0.5)
        return check_at_least_once(feeder.sent, await trial.results(), "msgid")


@pytest.mark.long
async def test_mode_msgid_is_exact_within_the_window_only(server: NatsServer, tmp_path: Path) -> None:
    """That is why it is called at-least-once."""
    assert await doubled_after(server, tmp_path, 0) == 0
    assert await doubled_after(server, tmp_path, AWAY_SECONDS) > 0


# -- the sink's stream has less than before ---------------------------------------------------------------------------


@pytest.mark.long
@at_once(*KINDS, MSGID)
async def test_the_results_are_purged_while_nothing_is_on_its_way(
    server: NatsServer, tmp_path: Path, kind: Kind
) -> None:
    async with Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        await feeder.feed(500)
        await trial.run_through(feeder)
        before = await purge(trial, feeder)
        await feeder.feed(500)
        trial.flow.start()
        await trial.check(feeder, before)


async def purge(trial: Trial, feeder: Feeder, **options: Any) -> Counter[str]:
    """Purges the results, and says what had been sent by then."""
    async with Outsider(trial.server) as outsider:
        await outsider.js.purge_stream(trial.sink, **options)
        feeder.taken_away = feeder.total - await outsider.count(trial.sink)
    return Counter(feeder.sent)


@pytest.mark.long
@at_once(*KINDS)
async def test_a_purge_that_hides_what_arrived_is_refused(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    async with Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        await killed_with_something_unnoted(trial, feeder)
        await purge(trial, feeder)
        await ends_with(trial, "ProgressUnknown")
        assert await trial.results() == []


@pytest.mark.long
@at_once(*KINDS)
async def test_a_purge_that_keeps_the_last_message_tells_enough(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    async with Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        await killed_with_something_unnoted(trial, feeder)
        arrived = await trial.results()
        assert arrived
        await purge(trial, feeder, keep=1)
        left = await trial.results()
        await feeder.feed(100)
        trial.flow.start()
        feeder.taken_away = len(arrived) - len(left)
        before = Counter(each["key"] for each in arrived)
        before.subtract(each["key"] for each in left)
        await trial.check(feeder, before)


@pytest.mark.long
@at_once(*KINDS)
async def test_the_results_are_purged_under_the_running_flow(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """Between two publishes. Mode chain goes on; mode batch has lost its marker, opens the sink anew, and goes on."""
    async with Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        trial.flow.start()
        await feeder.feed(500)
        await trial.wait_for(feeder)
        await asyncio.sleep(1)
        before = await purge(trial, feeder)
        await feeder.feed(500)
        await trial.check(feeder, before)


@pytest.mark.long
@at_once(*KINDS)
async def test_the_stream_of_results_is_made_anew(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    async with Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        await feeder.feed(200)
        await trial.run_through(feeder)
        async with Outsider(server) as outsider:
            await outsider.js.delete_stream(trial.sink)
        await trial.make_sink_stream()
        await ends_with(trial, "ProgressUnknown", "was made at")


async def restore_stream(trial: Trial, name: str, feeder: Feeder, **changed: Any) -> None:
    """Runs the flow, keeps the stream's files, runs it on, and puts the old files back."""
    server = trial.server
    await feeder.feed(300)
    await trial.run_through(feeder)
    await server.stop_async()
    (files,) = (server.folder / "data").glob(f"**/streams/{name}")
    kept = trial.folder / "kept"
    shutil.copytree(files, kept)
    await server.start_async()
    await feeder.feed(300)
    await trial.run_through(feeder)
    await server.stop_async()
    shutil.rmtree(files)
    shutil.copytree(kept, files)
    await server.start_async()


@pytest.mark.long
@at_once(*KINDS)
async def test_an_older_copy_of_the_results_is_refused(shared: NatsServer, tmp_path: Path, kind: Kind) -> None:
    async with NatsServer() as server, Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        await restore_stream(trial, trial.sink, feeder)
        await ends_with(trial, "ProgressUnknown")


# -- the source's stream has less than before -------------------------------------------------------------------------


@pytest.mark.long
async def test_an_older_copy_of_the_input_is_refused(tmp_path: Path) -> None:
    async with NatsServer() as server, Trial(server, tmp_path) as trial:
        await restore_stream(trial, trial.source, trial.feeder())
        await ends_with(trial, "PositionAhead")


@pytest.mark.long
@at_once(*QUEUES)
async def test_an_older_copy_of_a_queue_gives_nothing_twice(shared: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """It holds messages that were committed and acknowledged: they are known by their ids."""
    async with NatsServer() as server, Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        trial.flow.start()
        await started(trial)
        await feeder.feed(300)
        await trial.flow.until(lambda: trial.flow.said("published"), "a publish")
        trial.flow.kill()
        await server.stop_async()
        (files,) = (server.folder / "data").glob(f"**/streams/{trial.source}")
        shutil.copytree(files, trial.folder / "kept")
        await server.start_async()
        await trial.run_through(feeder)
        await server.stop_async()
        shutil.rmtree(files)
        shutil.copytree(trial.folder / "kept", files)
        await server.start_async()
        trial.flow.start()
        await trial.check(feeder)


@pytest.mark.long
async def test_the_input_is_made_anew(server: NatsServer, tmp_path: Path) -> None:
    """While the flow is down, and while it runs."""
    async with Trial(server, tmp_path) as trial:
        feeder = trial.feeder()
        await feeder.feed(200)
        trial.flow.start()
        await trial.wait_for(feeder)
        trial.flow.freeze()  # or it might find no stream at all
        async with Outsider(server) as outsider:
            await outsider.js.delete_stream(trial.source)
            await make_stream(server, trial.source)
        trial.flow.thaw()
        await refuses(trial, "SourceReplaced")
        await ends_with(trial, "SourceReplaced")


@pytest.mark.long
@at_once(*QUEUES)
async def test_a_queue_made_anew_is_read_from_its_beginning(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """Its sequences begin at 1 again; the new messages are not taken for the old ones."""
    async with Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        trial.flow.start()
        await started(trial)
        await feeder.feed(200)
        await trial.wait_for(feeder)
        async with Outsider(server) as outsider:
            await outsider.js.delete_stream(trial.source)
            await make_stream(server, trial.source, retention=kind.source)
            await trial.flow.until(lambda: len(trial.flow.events("started")) > 1, "the restart")
            for _ in range(100):
                if await outsider.js.consumers_info(trial.source):
                    break
                await asyncio.sleep(0.1)
        await feeder.feed(200)
        await trial.check(feeder)


@pytest.mark.long
async def test_the_input_is_purged_before_it_was_read(server: NatsServer, tmp_path: Path) -> None:
    async with Trial(server, tmp_path) as trial:
        feeder = trial.feeder()
        await feeder.feed(200)
        await trial.run_through(feeder)
        async with Outsider(server) as outsider:
            await outsider.js.purge_stream(trial.source)
            await trial.run_through(feeder)  # all of it was read: nothing is missing
            await feeder.feed(10)
            await outsider.js.purge_stream(trial.source)
        await ends_with(trial, "RetentionGap")


@pytest.mark.long
async def test_retention_passes_the_position(server: NatsServer, tmp_path: Path) -> None:
    options = {"max_msgs": 500}
    async with Trial(server, tmp_path, stream_options=options) as trial:
        feeder = trial.feeder()
        await feeder.feed(400)
        await trial.run_through(feeder)
        await feeder.feed(501)
        await ends_with(trial, "RetentionGap")
        assert len(await trial.results()) == 400


# -- an older state file ----------------------------------------------------------------------------------------------


async def restore_state(trial: Trial, feeder: Feeder) -> None:
    """Runs the flow, keeps its store, runs it on, and puts the old store back, its witness too."""
    state = trial.flow.setup.state
    await feeder.feed(300)
    await trial.run_through(feeder)
    kept = copy_state(state, trial.folder / "kept")
    await feeder.feed(300)
    await trial.run_through(feeder)
    for path in state.parent.glob(f"{state.name}*"):
        path.unlink()
    for path in kept.parent.iterdir():
        shutil.copy2(path, state.parent / path.name)


@at_once(*KINDS)
async def test_an_older_state_is_refused(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    async with Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        await restore_state(trial, feeder)
        await feeder.feed(100)
        await ends_with(trial, "SinkAhead")
        assert len(await trial.results()) == 600


@pytest.mark.long
@at_once(*QUEUES[:2])
async def test_an_older_state_eats_nothing_of_a_queue(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """It is refused before one message is acknowledged: the newer state still finds all of them."""
    async with Trial(server, tmp_path, kind) as trial:
        feeder = trial.feeder()
        state = trial.flow.setup.state
        await feeder.feed(300)
        await trial.run_through(feeder)
        kept = copy_state(state, trial.folder / "kept")
        await feeder.feed(300)
        await trial.run_through(feeder)
        await feeder.feed(300)
        for _ in range(3):
            trial.flow.start(state=kept)
            last = await trial.flow.ended()
            # from the second start on it may hold records of its own, under numbers that the stream has
            assert last["error"] in ("SinkAhead", "Fenced"), trial.flow.account()
            assert last["hint"]
            async with Outsider(server) as outsider:
                assert await outsider.count(trial.source) == 300
        trial.flow.start()
        await trial.check(feeder)


@pytest.mark.long
async def test_an_older_state_with_the_newer_witness_is_refused_at_once(server: NatsServer, tmp_path: Path) -> None:
    async with Trial(server, tmp_path) as trial:
        feeder = trial.feeder()
        state = trial.flow.setup.state
        witness = state.with_name(state.name + ".epoch")
        await feeder.feed(300)
        await trial.run_through(feeder)
        kept = copy_state(state, trial.folder / "kept")
        await feeder.feed(300)
        await trial.run_through(feeder)
        shutil.copy2(kept, state)
        assert witness.read_bytes() != kept.with_name(witness.name).read_bytes()
        await ends_with(trial, "EpochWentBack")
        assert not trial.flow.said("started")
