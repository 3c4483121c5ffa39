"""Embedded: a plain asyncio server that keeps what its users spent in a flow running inside the same process.

Shows: `flow.running()` beside your own code, `push` (durable when it returns), `table` (committed state) and
`subscribe` (committed outputs). Stop the server at any point, also with kill -9: what it has answered is kept.

    python -m examples.embedded                      then in another terminal:
    echo "ann 70" | nc -N 127.0.0.1 8765
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import streamflow as sf

HERE = Path(__file__).parent
LIMIT = 100


@dataclass(frozen=True)
class Payment:
    user: str
    amount: int


@dataclass
class Account:
    spent: int = 0


@dataclass(frozen=True)
class Alert:
    user: str
    spent: int


flow = sf.Flow("embedded", state=HERE / "out/embedded.db")
payments = flow.source(sf.MemoryTopic("payments", value=Payment))  # no broker: everything enters by push


@payments.key_by(lambda payment: payment.user).process(state=Account)
def accounts(ctx: sf.Context[str, Account], payment: Payment) -> Iterator[Alert]:
    before = ctx.state.spent
    ctx.state.spent += payment.amount
    if before <= LIMIT < ctx.state.spent:
        yield Alert(ctx.key, ctx.state.spent)


class Service:
    """Answers each line ``user amount`` with what the user has spent."""

    def __init__(self, run: sf.Running) -> None:
        self.run = run
        self.alerts: list[Alert] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode():
            writer.write(f"{await self.pay(line)}\n".encode())
            await writer.drain()
        writer.close()

    async def pay(self, line: str) -> str:
        try:
            user, amount = line.split()
            payment = Payment(user, int(amount))
        except ValueError:
            return f"not 'user amount': {line.strip()}"
        await self.run.push(payments, payment)
        account = await self.run.table(accounts).get(user)
        return f"{user} has spent {account.spent if account else 0}"

    async def watch(self) -> None:
        async for alert in self.run.subscribe(accounts):
            self.alerts.append(alert)
            print(f"{alert.user} is over the limit: {alert.spent}", flush=True)


async def serve(port: int = 8765) -> None:
    async with flow.running() as run, asyncio.TaskGroup() as tasks:
        service = Service(run)
        tasks.create_task(service.watch())
        async with await asyncio.start_server(service.answer, "127.0.0.1", port) as server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
