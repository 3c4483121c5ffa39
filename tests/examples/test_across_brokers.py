"""The example across brokers, on the shared ones: killed on its way, each alert is there once."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from examples import across_brokers
from tests.brokers import BROKERS, use_broker
from tests.brokers.required import need

EXPLAINED = """
orders     source   kafka topic shop-orders
ordered    map
→ entries

payments   source   nats stream SHOP_PAYMENTS
paid       map
entries    merge
key_by     key_by
accounts   process  state 'accounts': Account per key
alerts     sink     rabbitmq stream shop-alerts

guarantees
  orders → alerts    exactly_once
  payments → alerts  exactly_once

because
  source orders    exactly_once      every partition is read again from the position in the checkpoint"""
"""From the second line on, and up to the first of the reasons."""


@pytest.fixture
def brokers() -> Iterator[None]:
    """All three shared ones: what listens already is used."""
    with ExitStack() as stack:
        for kind in BROKERS.values():
            need(kind)
            stack.enter_context(use_broker(kind))
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example, with a state of its own."""
    shutil.copy(across_brokers.__file__, tmp_path)
    return tmp_path


def run(folder: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("streamflow")), "run", "across_brokers:flow"]
    return subprocess.Popen(command, cwd=folder)


@pytest.mark.timeout(120)
async def test_each_alert_is_there_once_although_the_flow_is_killed(brokers: None, folder: Path) -> None:
    wanted = await across_brokers.feed(100)
    before = len(await across_brokers.read_alerts(0.3))
    process = run(folder)
    feeding = asyncio.create_task(across_brokers.feed(3_000))
    try:
        await come(process, before + len(wanted) + 1)
        assert not feeding.done(), "it was to be killed on its way"
    finally:
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    wanted |= await feeding
    assert len(wanted) == 3_100 / across_brokers.WRONG
    process = run(folder)
    try:
        await come(process, before + len(wanted))
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    alerts = [alert for alert in await across_brokers.read_alerts() if alert.order in wanted]
    assert Counter(alert.order for alert in alerts) == Counter(wanted)
    assert all(alert.due - alert.paid == 1 for alert in alerts)


async def come(process: subprocess.Popen[bytes], count: int) -> None:
    """Waits until so many alerts are there."""
    async with asyncio.timeout(40):
        while len(await across_brokers.read_alerts(0.3, count)) < count:
            assert process.poll() is None, "it ended by itself"


def test_explain_tells_the_guarantee_of_each_path_across_the_brokers(folder: Path) -> None:
    command = [str(Path(sys.executable).with_name("streamflow")), "explain", "across_brokers:flow"]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=30).stdout
    first, _, rest = told.partition("\n")
    assert first == f"flow across-brokers, state in {folder}/out/across_brokers.db"
    assert rest.startswith(EXPLAINED)
