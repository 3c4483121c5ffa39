"""The example across brokers, on shared ones: killed on its way, each alert is there once."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import BROKERS, use_broker
from tests.brokers.rabbitmq import STREAM_PORT_VARIABLE
from tests.brokers.required import need
from tests.brokers.server import free_port
from tests.brokers.shared import FOLDER_VARIABLE

EXAMPLE = Path(__file__).parents[2] / "examples/across_brokers.py"
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
def brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All three as `make brokers-up` starts them natively, on ports of their own: nobody else takes them down."""
    monkeypatch.setattr("tests.brokers.shared.engine_answers", lambda: False)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "brokers"))
    monkeypatch.setenv(STREAM_PORT_VARIABLE, str(free_port()))
    with ExitStack() as stack:
        for kind in BROKERS.values():
            need(kind)
            monkeypatch.setenv(kind.url_variable, f"{kind.url_default.rpartition(':')[0]}:{free_port()}")
            stack.enter_context(use_broker(kind))
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example, with a state of its own."""
    (tmp_path / "example").mkdir()
    shutil.copy(EXAMPLE, tmp_path / "example")
    return tmp_path / "example"


@pytest.fixture
def example(brokers: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The copy, imported where the environment names the brokers."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, EXAMPLE.stem, raising=False)
    module = importlib.import_module(EXAMPLE.stem)
    monkeypatch.delitem(sys.modules, EXAMPLE.stem)
    monkeypatch.setitem(sys.modules, EXAMPLE.stem, module)
    return module


def run(folder: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("streamflow")), "run", "across_brokers:flow"]
    return subprocess.Popen(command, cwd=folder)


@pytest.mark.timeout(120)
async def test_each_alert_is_there_once_although_the_flow_is_killed(
    example: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = await example.feed(100)
    before = len(await example.read_alerts(0.3))
    fed_enough = asyncio.Event()

    async def feed() -> None:
        while not fed_enough.is_set():
            wanted.update(await example.feed(500))

    process = run(folder)
    feeding = asyncio.create_task(feed())
    try:
        await come(example, process, before + len(wanted) + 1)
        assert not feeding.done(), "it was to be killed on its way"
    finally:
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
        fed_enough.set()
    await feeding
    assert len(wanted) > 100 / example.WRONG
    process = run(folder)
    # the first may have been killed behind its last alert: these are for the second, which runs once they are there
    wanted.update(await example.feed(100))
    try:
        await come(example, process, before + len(wanted))
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    alerts = [alert for alert in await example.read_alerts() if alert.order in wanted]
    assert Counter(alert.order for alert in alerts) == Counter(wanted)
    assert all(alert.due - alert.paid == 1 for alert in alerts)
    await example.main("alerts")
    assert capsys.readouterr().out.endswith(f"\n{len(wanted)} alerts, 0 of them twice\n")


async def come(example: Any, process: subprocess.Popen[bytes], count: int) -> None:
    """Waits until so many alerts are there."""
    async with asyncio.timeout(40):
        while len(await example.read_alerts(0.3, count)) < count:
            assert process.poll() is None, "it ended by itself"


def test_explain_tells_the_guarantee_of_each_path_across_the_brokers(folder: Path) -> None:
    command = [str(Path(sys.executable).with_name("streamflow")), "explain", "across_brokers:flow"]
    (folder / "rstream.py").write_text("raise ImportError('no extra brings it: the flow must do without')")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    told = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    first, _, rest = told.partition("\n")
    assert first == f"flow across-brokers, state in {folder}/out/across_brokers.db"
    assert rest.startswith(EXPLAINED)
