"""A table from a changelog topic: keys of the broker, null values that remove, over a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import streamflow as sf
from streamflow.flow import TableView
from tests.connectors.kafka.broker import Broker


def key(message: sf.Message[str | None]) -> str:
    assert message.key is not None
    return message.key.decode()


async def until(view: TableView[str, str], content: dict[str, str]) -> None:
    async with asyncio.timeout(20):
        while dict(await view.items()) != content:
            await asyncio.sleep(0.02)


async def test_null_values_remove_keys_of_a_table(broker: Broker, tmp_path: Path) -> None:
    topic = await broker.topic()
    flow = sf.Flow("table", state=tmp_path / "table.db")
    changes = flow.source(broker.kafka.topic(topic, value=str, nulls=True), name="changes", message=True)
    table = changes.key_by(key).map(lambda message: message.value).to_table(name="table", of=str)
    for name, value in [("a", b"1"), ("b", b"2"), ("a", None), ("c", b""), ("b", b"3")]:
        await broker.feed(topic, value, key=name.encode())
    async with flow.running() as run:
        await until(run.table(table), {"b": "3", "c": ""})
    await broker.feed(topic, None, key=b"b")
    async with flow.running() as run:
        await until(run.table(table), {"c": ""})
        assert await run.table(table).get("b") is None
