"""Resources: opened before the sources and closed behind the last call, in order; health, circuit breakers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import CircuitOpen, DefinitionError, StreamflowError
from streamflow.runtime.resources import Breaker, BreakerSpec
from tests.unit.operators.test_async_map import flow_in, send, topics
from tests.unit.runtime.test_engine import until


class Client:
    """A client that notes what is done with it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.down = False
        log.append(f"make {name}")

    async def __aenter__(self) -> Client:
        self.log.append(f"open {self.name}")
        return self

    async def __aexit__(self, *about: object) -> None:
        self.log.append(f"close {self.name}")

    async def get(self, v: int) -> int:
        await asyncio.sleep(0.001)
        if self.down:
            raise ConnectionError("down")
        self.log.append(f"call {self.name}")
        return v * 2


class Pool:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def aclose(self) -> None:
        self.log.append("aclose pool")


async def test_opened_in_order_before_the_sources_and_closed_in_reverse_behind_the_last_call(tmp_path):
    source, sink = topics()
    log: list[str] = []
    flow = flow_in(tmp_path)

    async def pool() -> Pool:
        log.append("make pool")
        return Pool(log)

    @asynccontextmanager
    async def generated() -> AsyncIterator[str]:
        log.append("open generated")
        yield "text"
        log.append("close generated")

    first = flow.resource(lambda: Client("first", log), name="first")
    second = flow.resource(pool)
    third = flow.resource(generated)
    assert log == []  # defining a flow does nothing

    @flow.source(source).map(concurrency=2)
    async def fetched(v: int) -> int:
        assert isinstance(second(), Pool)
        assert third() == "text"
        return await first().get(v)

    fetched.to(sink)
    with pytest.raises(StreamflowError, match="'first' is not open"):
        first()
    send(source, 1, 2)
    async with flow.running() as run:
        assert log[:4] == ["make first", "open first", "make pool", "open generated"]
        await until(lambda: sink.values == [2, 4])
        assert await run.health() == {"first": "", "pool": "", "generated": ""}
    assert log[4:] == ["call first", "call first", "close generated", "aclose pool", "close first"]
    with pytest.raises(StreamflowError, match="not open"):
        second()


async def test_they_are_closed_when_the_flow_dies_and_no_call_outlives_them(tmp_path):
    source, sink = topics()
    log: list[str] = []
    flow = flow_in(tmp_path)
    client = flow.resource(lambda: Client("client", log))

    @flow.source(source).map(concurrency=4)
    async def fetched(v: int) -> int:
        if v == 2:
            raise ValueError(v)
        try:
            await asyncio.sleep(0 if v == 1 else 5)
        finally:
            log.append(f"call {v} ends, {client().name} open")
        return v

    fetched.to(sink)
    send(source, 1, 2, 3)
    with pytest.raises(StreamflowError, match="ValueError: 2"):
        await flow.run()
    assert log[2:] == ["call 1 ends, client open", "call 3 ends, client open", "close client"]


async def test_one_that_cannot_be_opened_is_named_and_those_before_it_are_closed(tmp_path):
    source, sink = topics()
    log: list[str] = []
    flow = flow_in(tmp_path)
    flow.resource(lambda: Client("first", log))

    async def broken() -> Pool:
        raise OSError("no route")

    flow.resource(broken)
    flow.source(source).to(sink)
    with pytest.raises(StreamflowError, match="resource 'broken' cannot be opened: OSError: no route"):
        await flow.run()
    assert log == ["make first", "open first", "close first"]


async def test_a_restart_of_the_shard_opens_them_anew():
    log: list[str] = []
    flow = sf.Flow("f")
    client = flow.resource(lambda: Client("c", log))
    source = flow.source(sf.MemoryTopic("in", value=int))
    got = source.map(lambda v: client().get(v), concurrency=2, name="got")
    async with flow.test() as t:
        await t.send(source, 1)
        await t.crash()
        await t.send(source, 2)
        assert t.out(got) == [2, 4]
    assert [line for line in log if line != "call c"] == ["make c", "open c", "close c"] * 2


async def test_a_test_gives_its_own():
    flow = sf.Flow("f")
    client = flow.resource(lambda: Client("real", []))
    source = flow.source(sf.MemoryTopic("in", value=int))
    got = source.map(lambda v: client().get(v), concurrency=2, name="got")
    log: list[str] = []
    with client.replaced(Client("fake", log)):
        async with flow.test() as t:
            await t.send(source, 4)
            assert t.out(got) == [8]
    assert log == ["make fake", "call fake"]


async def test_a_circuit_opens_and_one_attempt_closes_it(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    log: list[str] = []
    attempts: list[int] = []
    client = flow.resource(
        lambda: Client("c", log),
        name="c",
        breaker=sf.circuit_breaker(failures=3, reset="60ms"),
        health=lambda c: asyncio.sleep(0) if not c.down else c.get(0),
    )

    @flow.source(source).map(concurrency=1, on_error=sf.retry(100, backoff="5ms"))
    async def fetched(v: int) -> int:
        async with client.use() as c:
            attempts.append(v)
            return await c.get(v)

    fetched.to(sink)
    async with flow.running() as run:
        client().down = True
        send(source, 1)
        await until(lambda: client.circuit == "open")
        assert len(attempts) == 3
        assert await run.health() == {"c": "ConnectionError: down"}
        client().down = False
        assert await run.health() == {"c": f"its circuit is {client.circuit}"}
        await until(lambda: sink.values == [2])
        assert client.circuit == "closed"
    assert len(attempts) == 4


def test_a_breaker_case_by_case():
    now = 0.0
    breaker = Breaker(BreakerSpec(2, 10), "r", lambda: now)
    breaker.failed(breaker.enter())
    breaker.succeeded(breaker.enter())
    breaker.failed(breaker.enter())
    assert breaker.state == "closed"
    breaker.failed(breaker.enter())
    assert breaker.state == "open"
    with pytest.raises(CircuitOpen, match="left alone after 2 failures"):
        breaker.enter()
    now = 10.0
    assert breaker.state == "half-open"
    trial = breaker.enter()
    with pytest.raises(CircuitOpen):  # one at a time
        breaker.enter()
    breaker.failed(trial)
    assert breaker.state == "open"
    now = 20.0
    breaker.succeeded(breaker.enter())
    breaker.enter()
    assert breaker.state == "closed"


def test_a_call_that_began_before_the_circuit_opened_changes_nothing():
    now = 0.0
    breaker = Breaker(BreakerSpec(2, 10), "r", lambda: now)
    before = [breaker.enter() for _ in range(6)]
    for ticket in before[:2]:
        breaker.failed(ticket)
    breaker.succeeded(before[2])  # long after the failures, but not of a call that began behind them
    assert breaker.state == "open"
    now = 10.0
    trial = breaker.enter()
    breaker.failed(before[3])
    assert breaker.state == "half-open"
    breaker.left(before[4])
    with pytest.raises(CircuitOpen):  # the trial is still under way
        breaker.enter()
    breaker.succeeded(trial)
    assert breaker.state == "closed"
    breaker.failed(before[5])
    breaker.failed(breaker.enter())
    assert breaker.state == "closed"  # one failure in a row


def test_a_trial_that_is_given_up_leaves_its_place_to_another():
    now = 0.0
    breaker = Breaker(BreakerSpec(1, 10), "r", lambda: now)
    breaker.failed(breaker.enter())
    now = 10.0
    breaker.left(breaker.enter())
    assert breaker.state == "half-open"
    breaker.succeeded(breaker.enter())
    assert breaker.state == "closed"


async def test_a_call_that_ends_well_behind_the_failures_of_others_does_not_close_the_circuit(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    client = flow.resource(object, name="c", breaker=sf.circuit_breaker(failures=3, reset="30s"))
    gate = asyncio.Event()
    ended: list[int] = []

    @flow.source(source).map(concurrency=10, on_error=sf.skip)
    async def called(v: int) -> int:
        try:
            async with client.use():
                await asyncio.sleep(0)
                if v:
                    raise ConnectionError("down")
                await gate.wait()
                return v
        finally:
            ended.append(v)

    called.to(sink)
    async with flow.running():
        send(source, 0, 1, 2, 3)
        await until(lambda: len(ended) == 3)
        assert client.circuit == "open"
        gate.set()
        await until(lambda: sink.values == [0])
        assert client.circuit == "open"


@pytest.mark.parametrize("limit", ["timeout", "deadline", ""])
async def test_a_call_over_its_time_limit_is_a_failure_and_one_that_is_cancelled_otherwise_is_not(tmp_path, limit):
    source, sink = topics()
    flow = flow_in(tmp_path)
    client = flow.resource(object, name="c", breaker=sf.circuit_breaker(failures=1, reset="30s"))
    cancelled = 0

    async def hang(v: int) -> int:
        nonlocal cancelled
        try:
            async with client.use():
                await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return v

    async def called(v: int) -> int:
        if not limit:
            task = asyncio.create_task(hang(v))
            await asyncio.sleep(0.01)
            task.cancel()  # somebody else was faster
            await asyncio.wait([task])
            return v
        return await hang(v)

    limits: dict[str, Any] = {limit: "20ms"} if limit else {}
    flow.source(source).map(called, on_error=sf.skip, **limits).to(sink)
    async with flow.running():
        send(source, 1)
        await until(lambda: cancelled == 1)
        assert client.circuit == ("open" if limit else "closed")


@pytest.mark.parametrize("failures", [0, "many", 1.5])
def test_bounds_of_a_breaker(failures: Any):
    with pytest.raises(DefinitionError):
        sf.circuit_breaker(failures=failures)
