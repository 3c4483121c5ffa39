"""The services of docs/embedding.md, each on a real server and asked by a real HTTP client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn
from aiohttp import web

import streamflow as sf
from streamflow.errors import StepError
from tests.docs.pages import run_page
from tests.docs.test_docs import ROOT, python_blocks

pytestmark = pytest.mark.allow_blocking("servers and frameworks look modules up while they start")


class Host(NamedTuple):
    """A service that runs.

    Args:
        client: Asks it.
        run: Its flow.
        ended: Gives the error of the task that the flow's body runs in, once that is over.
    """

    client: httpx.AsyncClient
    run: sf.Running
    ended: asyncio.Future[BaseException | None]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return run_page("embedding", monkeypatch)


@asynccontextmanager
async def asked(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        yield client


@asynccontextmanager
async def by_uvicorn(app: Any) -> AsyncIterator[Host]:
    """Serves an ASGI application, and sees how its lifespan ends, as uvicorn does."""
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        try:
            await app(scope, receive, send)
        except BaseException as error:
            ended.set_result(error)
            raise
        ended.set_result(None)

    config = uvicorn.Config(watched, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()  # what `serve` does, but for the signal handlers: the test has its own
    assert not server.should_exit, "it could not start"
    main = asyncio.create_task(server.main_loop())
    try:
        async with asked(server.servers[0].sockets[0].getsockname()[1]) as client:
            yield Host(client, app.state.run, ended)
    finally:
        server.should_exit = True
        await main
        await server.shutdown()


@asynccontextmanager
async def by_aiohttp(app: web.Application, key: web.AppKey[sf.Running]) -> AsyncIterator[Host]:
    """Serves an aiohttp application from a task, as `web.run_app` does."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[int] = loop.create_future()
    ended: asyncio.Future[BaseException | None] = loop.create_future()
    stop = asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            ready.set_result(runner.addresses[0][1])
            await stop.wait()
        finally:
            await runner.cleanup()

    task = asyncio.create_task(serve())
    task.add_done_callback(lambda done: ended.set_result(done.exception()))
    try:
        async with asked(await ready) as client:
            yield Host(client, app[key], ended)
    finally:
        stop.set()
        await asyncio.wait([task])


def served(framework: str, page: dict[str, Any]) -> AbstractAsyncContextManager[Host]:
    if framework == "aiohttp":
        return by_aiohttp(page["make_app"](), page["RUN"])
    return by_uvicorn(page[f"{framework}_app"])


FRAMEWORKS = pytest.mark.parametrize("framework", ["starlette", "litestar", "aiohttp"])


@FRAMEWORKS
async def test_a_service_pushes_reads_stops_and_finds_its_state_again(framework: str, page: dict[str, Any]) -> None:
    async with served(framework, page) as host:
        answers = [await host.client.post("/payments", json={"user": 7, "amount": amount}) for amount in (70, 40)]
        assert [answer.status_code for answer in answers] == [201, 201], answers[0].text
        assert (await host.client.get("/users/7")).json() == 110
        assert (host.run.alive, host.ended.done()) == (True, False)
    assert not host.run.alive
    assert await host.ended is None
    await host.run.wait()  # it ended cleanly
    async with served(framework, page) as host:
        assert (await host.client.get("/users/7")).json() == 110


@FRAMEWORKS
async def test_the_body_is_cancelled_when_the_flow_dies_and_ends_with_its_error(
    framework: str, page: dict[str, Any]
) -> None:
    async with served(framework, page) as host:
        try:
            answer = await host.client.post("/payments", json={"user": 7})  # has no amount: the step raises
            assert answer.status_code == 500
        except httpx.RemoteProtocolError:
            assert framework == "aiohttp"  # its server closes with the flow
        error = await asyncio.wait_for(host.ended, 10)
        if framework == "litestar":  # it runs its lifespan in a task group
            assert isinstance(error, ExceptionGroup)
            (error,) = error.exceptions
        assert isinstance(error, StepError)
        assert "KeyError: 'amount'" in str(error)
        assert not host.run.alive
        if framework != "aiohttp":  # uvicorn goes on: the endpoint says what is wrong
            answer = await host.client.get("/users/7")
            assert (answer.status_code, answer.json()["detail"]) == (503, "the flow has ended")


async def test_run_app_of_aiohttp_ends_with_the_flows_error(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    told = "def told(text):\n    print(text, flush=True)\n\n\n"
    run = "web.run_app(make_app(), host='127.0.0.1', port=0, print=told)\n"
    program.write_text("\n\n".join([*python_blocks(ROOT / "docs/embedding.md"), told + run]))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    url = line.split("on ")[1].split()[0]
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        assert (await client.post("/payments", json={"user": 7, "amount": 5})).status_code == 201
        with suppress(httpx.RemoteProtocolError):
            await client.post("/payments", json={"user": 7})
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1, said
    assert b"StepError" in said
    assert b"KeyError: 'amount'" in said
