"""What exactly-once costs: NATS to NATS, mode chain against mode msgid, and a loop on nats-py beside them."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from nats.js.api import AckPolicy, ConsumerConfig

import streamflow as sf
from benchmarks.streams import Outsider, Took, Until, outsider
from streamflow.runtime.process import own_collector
from streamflow_nats import Nats
from streamflow_nats.settings import Mode
from tests.brokers import NatsServer

KEYS: Final = 1_000
ROUNDS: Final = 5
COST_MAX: Final = 0.10
COMMIT_SECONDS: Final = 0.1
"""How often the loop on nats-py commits."""


@dataclass(frozen=True)
class Setting:
    """Settings of server and streams, the same for all, and how many records are worth a run."""

    sync: str
    allow_atomic: bool
    records: int

    def __str__(self) -> str:
        return f"sync_interval {self.sync}, allow_atomic {str(self.allow_atomic).lower()}, {self.records:,} records"


SETTINGS: Final = (
    Setting("2m", True, 50_000),
    Setting("2m", False, 50_000),
    Setting("always", True, 10_000),
    Setting("always", False, 6_000),
)
PLAIN_SHARE: Final = 5
"""The loop on nats-py, which is slower, handles a fifth of the records."""


@dataclass(frozen=True)
class Order:
    """What comes in."""

    user: str
    amount: int
    id: int


@dataclass(frozen=True)
class Spent:
    """What goes out for each order."""

    user: str
    id: int
    orders: int
    amount: int


@dataclass
class Account:
    """What is kept of a user."""

    orders: int = 0
    amount: int = 0


def payloads(records: int) -> list[bytes]:
    rng = random.Random(1)
    encode = msgspec.json.Encoder().encode
    return [encode(Order(f"u{rng.randrange(KEYS)}", n % 100, n)) for n in range(records)]


def make_flow(url: str, state: Path, mode: Mode) -> sf.Flow:
    nats = Nats(url)
    flow = sf.Flow("bench", state=state)
    orders = flow.source(nats.stream("IN", value=Order))

    @orders.key_by(lambda order: order.user).process(state=Account)
    def spent(ctx: sf.Context[str, Account], order: Order) -> Iterator[Spent]:
        account = ctx.state
        account.orders += 1
        account.amount += order.amount
        yield Spent(order.user, order.id, account.orders, account.amount)

    spent.to(nats.stream("OUT", value=Spent, mode=mode), guarantee=None if mode == "chain" else "at_least_once")
    return flow


async def through_flow(server: NatsServer, records: int, mode: Mode) -> Took:
    """Runs the flow until the last result is published."""
    with tempfile.TemporaryDirectory() as folder:
        until = Until(records)
        async with make_flow(server.url, Path(folder) / "bench.db", mode).running(until):
            return await until.reached()


class PlainLoop:
    """The same job on nats-py alone: publish, wait for the acknowledgements, then commit positions and state.

    At-least-once: what was published since the last commit is published again after a crash.

    Args:
        hands: A connection.
        path: Where positions and state are committed.
    """

    def __init__(self, hands: Outsider, path: Path) -> None:
        self._jetstream = hands.jetstream
        self._accounts: dict[str, Account] = {}
        self._changed: dict[str, Account] = {}
        self._decode = msgspec.json.Decoder(Order).decode
        self._encode = msgspec.json.Encoder().encode
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
            "CREATE TABLE position(one INTEGER PRIMARY KEY, at INTEGER);"
            "CREATE TABLE account(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;"
        )

    async def run(self, records: int) -> Took:
        """Handles the first ``records`` messages of IN."""
        config = ConsumerConfig(ack_policy=AckPolicy.NONE)
        source = await self._jetstream.pull_subscribe("in", stream="IN", config=config)
        began = Took(time.perf_counter(), time.process_time())
        done, committed = 0, began.wall
        with closing(self._database):
            while done < records:
                messages = await source.fetch(1000, timeout=5)
                waiting = [await self._jetstream.publish_async("out", self._step(message.data)) for message in messages]
                await asyncio.gather(*waiting)
                done += len(messages)
                if done == records or time.perf_counter() - committed > COMMIT_SECONDS:
                    self._commit(messages[-1].metadata.sequence.stream)
                    committed = time.perf_counter()
        return Took(time.perf_counter() - began.wall, time.process_time() - began.cpu)

    def _step(self, payload: bytes) -> bytes:
        order = self._decode(payload)
        account = self._accounts.get(order.user)
        if account is None:
            account = self._accounts[order.user] = Account()
        account.orders += 1
        account.amount += order.amount
        self._changed[order.user] = account
        return self._encode(Spent(order.user, order.id, account.orders, account.amount))

    def _commit(self, position: int) -> None:
        rows = [(key, self._encode(account)) for key, account in self._changed.items()]
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("INSERT OR REPLACE INTO position VALUES (1, ?)", (position,))
        self._database.executemany("INSERT OR REPLACE INTO account VALUES (?, ?)", rows)
        self._database.execute("COMMIT")
        self._changed.clear()


async def through_plain_loop(hands: Outsider, records: int) -> Took:
    with tempfile.TemporaryDirectory() as folder:
        return await PlainLoop(hands, Path(folder) / "plain.db").run(records)


Run = Callable[[int], Awaitable[Took]]


async def measured(hands: Outsider, setting: Setting, run: Run, records: int) -> Took:
    """Runs once into a new stream OUT, and looks whether every result is there; returns what a record took."""
    await hands.make("OUT", allow_atomic=setting.allow_atomic)
    gc.collect()
    took = await run(records)
    found = await hands.count("OUT")
    assert found >= records, f"{found} results of {records}"
    return Took(took.wall / records, took.cpu / records)


async def compare(setting: Setting) -> None:
    """Prints interleaved runs of the three, and the medians of their ratios."""
    print(setting)
    rounds: list[dict[str, Took]] = []
    with NatsServer(sync=setting.sync) as server:
        async with outsider(server.url) as hands:
            await hands.make("IN", allow_atomic=setting.allow_atomic)
            await hands.feed("IN", payloads(setting.records))
            runs: dict[str, Run] = {
                "msgid": lambda records: through_flow(server, records, "msgid"),
                "chain": lambda records: through_flow(server, records, "chain"),
                "nats-py": lambda records: through_plain_loop(hands, records),
            }
            await measured(hands, setting, runs["chain"], setting.records)  # a first run imports and compiles
            for turn in range(ROUNDS):
                took: dict[str, Took] = {}
                for name in (list(runs), list(reversed(runs)))[turn % 2]:
                    records = setting.records // (PLAIN_SHARE if name == "nats-py" else 1)
                    took[name] = await measured(hands, setting, runs[name], records)
                rounds.append(took)
                each = "   ".join(
                    f"{name} {1 / took[name].wall:>7,.0f}/s {took[name].cpu * 1e6:4.1f} us" for name in runs
                )
                print(f"  round {turn + 1}: {each}", flush=True)
    conclude(rounds)


def conclude(rounds: Sequence[Mapping[str, Took]]) -> None:
    """Prints what chain takes more than each of the others."""
    for other, goal in (("msgid", f"; to stay below {COST_MAX:.0%}"), ("nats-py", "")):
        wall = sorted(took["chain"].wall / took[other].wall - 1 for took in rounds)
        cpu = statistics.median(took["chain"].cpu / took[other].cpu - 1 for took in rounds)
        spread = f"{wall[0]:+.0%} to {wall[-1]:+.0%}"
        print(f"  chain against {other}: {statistics.median(wall):+.1%} time ({spread}), {cpu:+.1%} CPU{goal}")


def main() -> None:
    print("records/s, and CPU of the flow's process per record; chain is exactly-once, the others at-least-once")
    own_collector()
    for setting in SETTINGS:
        asyncio.run(compare(setting))


if __name__ == "__main__":
    main()
