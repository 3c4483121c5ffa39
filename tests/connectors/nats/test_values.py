"""Values and headers end to end on a real server: Avro by a registry in and out, and the trace context beside it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamflow as sf
from tests.connectors.nats.broker import Broker
from tests.connectors.registry.double import RegistryDouble

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Order:
    user: str
    amount: int


@dataclass
class Total:
    user: str
    total: int


async def test_avro_and_trace_context_from_stream_to_stream(broker: Broker, tmp_path: Path) -> None:
    incoming, outgoing = await broker.stream("{}.x"), await broker.stream("{}.x")
    async with RegistryDouble() as double:
        registry = sf.HttpSchemaRegistry(double.url)
        writer: Any = sf.avro(Order, registry=registry, subject="orders")
        await writer.prepare_encoding("")
        headers = [{"Traceparent": PARENT, "tracestate": "a=1"}, None, {"traceparent": PARENT.upper()}]
        for amount, given in enumerate(headers, start=1):
            await broker.js.publish(f"{incoming}.x", writer.encode(Order("ann", amount)), headers=given)
        nats = broker.nats
        flow = sf.Flow("values", state=tmp_path / "values.db")
        orders = flow.source(nats.stream(incoming, subject=f"{incoming}.x", value=sf.avro(Order, registry=registry)))

        @orders.key_by(lambda order: order.user).process(state=int)
        def totals(ctx: sf.Context[str, int], order: Order) -> list[Total]:
            ctx.state += order.amount
            return [Total(ctx.key, ctx.state)]

        totals.to(nats.stream(outgoing, subject=f"{outgoing}.x", value=sf.avro(Total, registry=registry)))
        async with flow.running():
            async with asyncio.timeout(20):
                while len(messages := await broker.all(outgoing)) < 3:
                    await asyncio.sleep(0.05)
        reader: Any = sf.avro(Total, registry=registry)
        await reader.prepare_decoding([message.data for message in messages])
        assert [reader.decode(message.data).total for message in messages] == [1, 3, 6]
        found = [(m.headers.get("traceparent"), m.headers.get("tracestate")) for m in messages]
        assert found == [(PARENT, "a=1"), (None, None), (None, None)]
        # one look per schema, however many records
        assert double.requests.count("GET /registry/schemas/ids/1") == 1
