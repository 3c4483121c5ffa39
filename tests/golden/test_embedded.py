"""The embedded example: a server whose answers are durable, killed by cancellation and by crashes."""

import asyncio
import socket
from contextlib import asynccontextmanager

from examples.embedded import Account, Alert, Payment, accounts, flow, payments


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def serving(module):
    """The example's server on a free port, and a function that asks it; cancelled at the end, as by Ctrl-C."""
    port = free_port()
    server = asyncio.create_task(module.serve(port))

    async def ask(*lines: str) -> list[str]:
        reader, writer = await _connected(server, port)
        writer.write("".join(f"{line}\n" for line in lines).encode())
        writer.write_eof()
        answers = (await reader.read()).decode().splitlines()
        writer.close()
        return answers

    try:
        yield ask
    finally:
        server.cancel()
        assert isinstance((await asyncio.gather(server, return_exceptions=True))[0], asyncio.CancelledError)


async def _connected(server: asyncio.Task[None], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(10):
        while not server.done():
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
        raise AssertionError(f"the server ended: {server}")


async def test_it_answers_alerts_and_goes_on_where_it_was_stopped(copied, capsys):
    async with serving(copied("embedded")) as ask:
        assert await ask("ann 70", "bob 5", "ann 50", "nonsense") == [
            "ann has spent 70",
            "bob has spent 5",
            "ann has spent 120",
            "not 'user amount': nonsense",
        ]
    assert capsys.readouterr().out == "ann is over the limit: 120\n"

    async with serving(copied("embedded")) as ask:
        assert await ask("ann 1", "bob 1") == ["ann has spent 121", "bob has spent 6"]
    assert capsys.readouterr().out == ""


async def test_many_clients_at_once_lose_nothing(copied):
    async with serving(copied("embedded")) as ask:
        answers = await asyncio.gather(*(ask(*["ann 1"] * 10) for _ in range(8)))
        # what is answered may already hold payments of others, but never goes back for one client
        for own in answers:
            spent = [int(answer.split()[-1]) for answer in own]
            assert spent == sorted(spent)
        assert await ask("ann 0") == ["ann has spent 80"]


async def test_three_crashes_on_the_way():
    async with flow.test() as t:
        for total in (40, 80, 120):
            await t.send(payments, Payment("ann", 40))
            await t.crash()
            assert t.state(accounts) == {"ann": Account(total)}
        await t.send(payments, Payment("ann", 40))
        assert t.crashes == 3
        assert t.out(accounts) == [Alert("ann", 120)]
