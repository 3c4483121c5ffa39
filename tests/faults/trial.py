"""A fault trial on a real NATS: feeds numbered records, kills what it is told to, and checks every single record."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig

from tests.brokers import NatsServer

KEYS = 20
WINDOW = 200
RUN = "import asyncio; from tests.faults.flow import flow; asyncio.run(flow.run())"


class Feeder:
    """Publishes records to the stream IN, per key numbered from 1, until it is told to stop.

    A publish whose outcome is unknown is repeated under the same message id, which the server knows for minutes.
    """

    def __init__(self, url: str) -> None:
        self.sent: Counter[str] = Counter()
        self._url = url
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Feeder:
        self._task = asyncio.create_task(self._feed())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        assert self._task is not None
        await self._task

    async def _feed(self) -> None:
        pending: list[tuple[str, bytes]] = []
        rng = random.Random(7)
        while not self._stopping or pending:
            try:
                client = await nats.connect(
                    self._url, allow_reconnect=False, connect_timeout=1, error_cb=_ignore, closed_cb=_ignore
                )
            except (OSError, NatsError):
                await asyncio.sleep(0.05)
                continue
            try:
                while not self._stopping or pending:
                    if not pending:
                        pending = [self._record(rng) for _ in range(WINDOW)]
                    await _publish(client, pending)
                    pending = []
                    await asyncio.sleep(0.01)
            except (OSError, NatsError, TimeoutError):
                await asyncio.sleep(0.05)
            finally:
                await client.close()

    def _record(self, rng: random.Random) -> tuple[str, bytes]:
        key = f"k{rng.randrange(KEYS)}"
        self.sent[key] += 1
        return f"{key}-{self.sent[key]}", json.dumps({"key": key, "n": self.sent[key]}).encode()


async def _ignore(*_: object) -> None:
    """The feeder notices a lost connection by its own calls."""


async def _publish(client: Client, records: list[tuple[str, bytes]]) -> None:
    """Publishes records one behind the other, so that a lost one leaves no later one in front of it."""
    jetstream = client.jetstream(timeout=2)
    for message_id, payload in records:
        await jetstream.publish("in", payload, headers={"Nats-Msg-Id": message_id})


class FlowProcess:
    """The flow in a process of its own, started again after each kill."""

    def __init__(self, url: str, state: Path, log: Path) -> None:
        self.lives = 0
        self._environment = {
            **os.environ,
            "STREAMFLOW_FAULTS_URL": url,
            "STREAMFLOW_FAULTS_STATE": str(state),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.lives += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-c", RUN], env=self._environment, stderr=log, stdout=log)

    def kill(self) -> None:
        """SIGKILL; asserts that it hit a process that was alive."""
        assert self._process is not None
        assert self._process.poll() is None, f"the flow ended by itself:\n{self._log.read_text()[-3000:]}"
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


async def make_streams(server: NatsServer) -> None:
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="IN", subjects=["in"])
    await jetstream.add_stream(name="OUT", subjects=["out"])
    await client.close()


async def results(server: NatsServer, expected: int, seconds: float = 90) -> list[dict[str, object]]:
    """Waits until OUT holds as many messages, and a moment longer, then reads them all back with plain nats-py."""
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    for _ in range(int(seconds * 10)):
        if (await jetstream.stream_info("OUT")).state.messages >= expected:
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    total = (await jetstream.stream_info("OUT")).state.messages
    found: list[dict[str, object]] = []
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    reader = await jetstream.subscribe("out", ordered_consumer=True, config=config, pending_msgs_limit=-1)
    while len(found) < total:
        found.append(json.loads((await reader.next_msg(timeout=5)).data))
    await client.close()
    return found


def check(sent: Counter[str], found: list[dict[str, object]]) -> None:
    """The oracle: per key record 1 to the last, each once, in order, with the count that belongs to it."""
    per_key: dict[object, list[dict[str, object]]] = {}
    for result in found:
        per_key.setdefault(result["key"], []).append(result)
    for key, count in sent.items():
        got = [(result["n"], result["count"], result["gap"]) for result in per_key.pop(key, [])]
        assert got == [(n, n, 1) for n in range(1, count + 1)], f"{key}: {count} sent, results begin {got[:3]}"
    assert not per_key, f"results for keys that nobody sent: {list(per_key)[:3]}"
