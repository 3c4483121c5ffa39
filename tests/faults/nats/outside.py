"""Whoever is outside of the flow: makes streams, feeds numbered records, reads results, all with plain nats-py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig

from tests.brokers import NatsServer
from tests.faults.feeder import PAUSE_SECONDS, Feeder

UNKNOWN_SECONDS = 10.0


async def make_stream(server: NatsServer, name: str, **config: Any) -> None:
    """Makes a stream; its subjects are its name in small letters, and what mode batch needs for its markers."""
    subjects = [name.lower(), f"{name}._sf.>"] if config.get("allow_atomic") else [name.lower()]
    async with Outsider(server) as outsider:
        # nats-py 2.16 does not know allow_atomic; the server's own API does
        answer = await outsider.api(
            f"STREAM.CREATE.{name}", {"name": name, "subjects": subjects, "storage": "file", **config}
        )
        assert "error" not in answer, answer


class Outsider:
    """A plain nats-py client, as somebody else would use it."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self.client: Client

    async def __aenter__(self) -> Self:
        self.client = await _connect(self._server.url)
        self.js = self.client.jetstream(timeout=5)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()

    async def api(self, what: str, request: Any = None) -> Any:
        payload = b"" if request is None else json.dumps(request).encode()
        return json.loads((await self.client.request(f"$JS.API.{what}", payload, timeout=5)).data)

    async def count(self, stream: str) -> int:
        """Messages in a stream, the markers of mode batch left out."""
        answer = await self.api(f"STREAM.INFO.{stream}", {"subjects_filter": stream.lower()})
        return int((answer["state"].get("subjects") or {}).get(stream.lower(), 0))

    async def last_seq(self, stream: str) -> int:
        answer = await self.api(f"STREAM.INFO.{stream}")
        return int(answer["state"]["last_seq"])

    async def results(self, stream: str) -> list[dict[str, Any]]:
        """Reads a stream from its first message to its last."""
        total = await self.count(stream)
        found: list[dict[str, Any]] = []
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        reader = await self.js.pull_subscribe(stream.lower(), stream=stream, config=config)
        while len(found) < total:
            found += [json.loads(message.data) for message in await reader.fetch(1000, timeout=5)]
        return found


class NatsFeeder(Feeder):
    """Publishes to a stream.

    It is the only publisher: after a lost connection the stream's last sequence tells what landed, and the rest is
    published again. (Message ids alone would not do: a server that was killed forgets those of messages that had left a
    queue.)
    """

    def __init__(self, server: NatsServer, stream: str, results: str, seed: int, bursts: Sequence[int]) -> None:
        super().__init__(seed, bursts)
        self._last_seq = 0
        self._server, self._stream, self._results = server, stream, results

    async def feed(self, count: int) -> None:
        """Publishes records now, instead of by itself while a block lasts."""
        async with Outsider(self._server) as outsider:
            await _publish(outsider.client, self._stream.lower(), [self._record() for _ in range(count)])
        self.acknowledged = self.total

    async def _feed(self) -> None:
        pending: list[tuple[str, bytes]] = []
        while not self._stopping or pending:
            try:
                async with Outsider(self._server) as outsider:
                    last_seq = await outsider.last_seq(self._stream)
                    del pending[: last_seq - self._last_seq]
                    self._last_seq = last_seq
                    while not self._stopping or pending:
                        if not pending and await self._may_feed(outsider):
                            pending = self._burst()
                        await _publish(outsider.client, self._stream.lower(), pending)
                        pending.clear()
                        self.acknowledged = self.total
                        self._last_seq = await outsider.last_seq(self._stream)
                        await asyncio.sleep(PAUSE_SECONDS)
            except (OSError, NatsError, TimeoutError):
                await asyncio.sleep(0.05)

    async def _may_feed(self, outsider: Outsider) -> bool:
        return await self._is_near(lambda: outsider.count(self._results))


async def _connect(url: str) -> Client:
    return await nats.connect(url, allow_reconnect=False, connect_timeout=1, error_cb=_ignore, closed_cb=_ignore)


async def _ignore(*_: object) -> None:
    """A lost connection is noticed by the calls that need it."""


async def _publish(client: Client, subject: str, records: list[tuple[str, bytes]]) -> None:
    """Publishes records on one connection, in order, and waits for the acknowledgement of each.

    Where the connection ends, what landed is a beginning of them: none lands behind a hole.
    """
    if not records:
        return
    inbox, acknowledged, all_are = client.new_inbox(), set[str](), asyncio.Event()

    async def on_ack(message: Any) -> None:
        answer = json.loads(message.data)
        assert "error" not in answer, answer
        acknowledged.add(message.subject)
        if len(acknowledged) == len(records):
            all_are.set()

    subscription = await client.subscribe(f"{inbox}.*", cb=on_ack)
    for number, (message_id, payload) in enumerate(records):
        await client.publish(subject, payload, f"{inbox}.{number}", {"Nats-Msg-Id": message_id})
    async with asyncio.timeout(UNKNOWN_SECONDS):
        while not all_are.is_set():
            if not client.is_connected:
                raise NatsError("the connection is lost")
            await asyncio.sleep(0.01)
    await subscription.unsubscribe()
