"""The FastAPI example, served by a real uvicorn in this process and asked by a real HTTP client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from examples import fastapi_service as example
from tests.unit.runtime.test_engine import until

pytestmark = pytest.mark.allow_blocking("uvicorn and FastAPI look modules up while they start")


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Serves an application on a free port of this machine."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()  # what `serve` does, but for the signal handlers: the test has its own
    assert not server.should_exit, "it could not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    main = asyncio.create_task(server.main_loop())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        server.should_exit = True
        await main
        await server.shutdown()


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(example.flow, "state_path", tmp_path / "payments.db")
    return example.flow


async def pay(client: httpx.AsyncClient, user: str, amount: int) -> int:
    answer = await client.post("/payments", json={"user": user, "amount": amount})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["spent"])


async def test_payments_accounts_and_alerts(flow: Any) -> None:
    heard: list[dict[str, Any]] = []

    async def listen(client: httpx.AsyncClient, ready: asyncio.Event) -> None:
        async with client.stream("GET", "/alerts") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for line in answer.aiter_lines():
                ready.set()
                if line.startswith("data:"):
                    heard.append(json.loads(line.removeprefix("data:")))

    async with served(example.app) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.get("/accounts/ann")).status_code == 404
        ready = asyncio.Event()
        listening = asyncio.create_task(listen(client, ready))
        await ready.wait()
        assert await pay(client, "ann", 70) == 70
        assert await asyncio.gather(*(pay(client, "bob", 10) for _ in range(20)))
        assert await pay(client, "ann", 40) == 110
        await until(lambda: len(heard) == 2)
        assert heard == [{"user": "bob", "spent": 110}, {"user": "ann", "spent": 110}]
        assert (await client.get("/accounts/bob")).json() == {"spent": 200}
        assert (await client.post("/payments", json={"user": "ann", "amount": -1})).status_code == 422
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    async with served(example.app) as client:
        assert (await client.get("/accounts/ann")).json() == {"spent": 110}, "it was kept"


async def test_a_flow_that_dies_is_seen_by_the_load_balancer(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(example.app) as client:
        assert (await client.get("/health")).status_code == 200
        engine = example.app.state.run.engine
        engine._tasks.spawn(die(), "death")
        await until(lambda: not example.app.state.run.alive)
        for path in ("/health", "/accounts/ann"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"detail": "the flow has ended"})


async def die() -> None:
    raise RuntimeError("the disk is full")
