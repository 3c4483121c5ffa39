"""A FastAPI service with a flow inside: payments come in by HTTP, and what users spent is kept exactly, whatever dies.

Shows: the flow in the application's lifespan; `push` in an endpoint that answers once the payment is durable; `table`
in one that reads committed state; `subscribe` as server-sent events; `health` for the load balancer.

    uvicorn examples.fastapi_service:app            (pip install fastapi uvicorn) then in another terminal:
    curl -X POST localhost:8000/payments -H 'content-type: application/json' -d '{"user": "ann", "amount": 70}'
    curl localhost:8000/accounts/ann
    curl -N localhost:8000/alerts
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, PositiveInt

import streamflow as sf

HERE = Path(__file__).parent
LIMIT = 100


class Payment(BaseModel):
    user: str
    amount: PositiveInt


class Account(BaseModel):
    spent: int = 0


class Alert(BaseModel):
    user: str
    spent: int


flow = sf.Flow("payments", state=HERE / "out/payments.db")
payments = flow.source(sf.MemoryTopic("payments", value=Payment))  # no broker: everything enters by push


@payments.key_by(lambda payment: payment.user).process(state=Account)
def accounts(ctx: sf.Context[str, Account], payment: Payment) -> Iterator[Alert]:
    before = ctx.state.spent
    ctx.state.spent += payment.amount
    if before <= LIMIT < ctx.state.spent:
        yield Alert(user=ctx.key, spent=ctx.state.spent)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with flow.running() as run:
        app.state.run = run
        yield


app = FastAPI(lifespan=lifespan)


def running(request: Request) -> sf.Running:
    run: sf.Running = request.app.state.run
    if not run.alive:
        raise HTTPException(503, "the flow has ended")
    return run


Run = Annotated[sf.Running, Depends(running)]


@app.post("/payments", status_code=201)
async def pay(payment: Payment, run: Run) -> Account:
    """Answers once the payment is durable: a client that got no answer may not know, and one that got it does."""
    await run.push(payments, payment)
    return await account(payment.user, run)


@app.get("/accounts/{user}")
async def account(user: str, run: Run) -> Account:
    found = await run.table(accounts).get(user)
    if found is None:
        raise HTTPException(404, f"{user} has spent nothing")
    return found


@app.get("/alerts")
async def alerts(run: Run) -> StreamingResponse:
    """Alerts from now on, as server-sent events; a client that reads too slowly misses the oldest, and is told."""

    async def events() -> AsyncIterator[str]:
        async with run.subscribe(accounts, on_slow="drop", records_max=1000) as found:
            yield ": listening\n\n"
            missed = 0
            async for alert in found:
                if found.dropped > missed:
                    yield f"event: missed\ndata: {json.dumps(found.dropped - missed)}\n\n"
                    missed = found.dropped
                yield f"data: {alert.model_dump_json()}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/health")
async def health(run: Run) -> dict[str, str]:
    wrong = {name: problem for name, problem in (await run.health()).items() if problem}
    if wrong:
        raise HTTPException(503, wrong)
    return {"status": "ok"}
