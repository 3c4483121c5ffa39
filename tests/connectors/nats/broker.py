"""A NATS server as an outsider sees it: streams made, fed and read with plain nats-py."""

from __future__ import annotations

import itertools
import json
from typing import Any

import nats as nats_py

from streamflow_nats import Nats
from tests.brokers import NatsServer

_names = itertools.count(1)


class Broker:
    """A server, and the hands of an outsider on it."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.nats = Nats(server.url, timeout_seconds=6)
        self.client: Any = None
        self.js: Any = None

    async def connect(self) -> None:
        self.client = await nats_py.connect(
            self.server.url, allow_reconnect=False, max_reconnect_attempts=1, error_cb=_quiet
        )
        self.js = self.client.jetstream()

    async def close(self) -> None:
        if self.client is not None:
            await self.client.close()

    async def stream(self, *subjects: str, **config: Any) -> str:
        """Makes a stream with a name of its own; ``{}`` in a subject stands for the name."""
        name = f"S{next(_names)}"
        await self.make(name, [subject.format(name) for subject in subjects], **config)
        return name

    async def make(self, name: str, subjects: list[str], **config: Any) -> None:
        # nats-py 2.16 does not know allow_atomic; the server's own API does.
        request = {"name": name, "subjects": subjects, "storage": "file", "retention": "limits", **config}
        answer = await self.api(f"STREAM.CREATE.{name}", request)
        assert "error" not in answer, answer

    async def api(self, what: str, request: Any = None) -> Any:
        payload = b"" if request is None else json.dumps(request).encode()
        return json.loads((await self.client.request(f"$JS.API.{what}", payload, timeout=5)).data)

    async def feed(self, subject: str, *payloads: bytes) -> None:
        for payload in payloads:
            await self.js.publish(subject, payload)

    async def all(self, stream: str) -> list[Any]:
        """Every message of a stream, in order."""
        state = (await self.js.stream_info(stream)).state
        found = []
        for seq in range(max(1, state.first_seq), state.last_seq + 1):
            try:
                found.append(await self.js.get_msg(stream, seq))
            except nats_py.js.errors.NotFoundError:
                continue
        return found

    async def values(self, stream: str) -> list[str]:
        """The payloads of a stream as text, markers left out."""
        return [
            message.data.decode() for message in await self.all(stream) if "sf-marker" not in (message.headers or {})
        ]


async def _quiet(error: Exception) -> None:
    pass
