"""Across brokers: orders from Kafka meet payments from NATS; what does not agree goes to a RabbitMQ stream, once.

Shows: sources and a sink on three brokers in one flow, exactly-once by one commit to one state file. Kill it whenever
you like: each alert is there once.

    make brokers-up
    pip install rstream                               the client that makes and reads the stream of alerts
    python -m examples.across_brokers feed            makes topic and streams, sends 1,000 orders and their payments
    streamflow run examples.across_brokers:flow       until Ctrl-C
    python -m examples.across_brokers alerts          prints the alerts that there are
"""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow_kafka import Kafka
from streamflow_nats import Nats
from streamflow_rabbitmq import RabbitMQ

HERE = Path(__file__).parent
KAFKA_URL = os.environ.get("STREAMFLOW_KAFKA_URL", "127.0.0.1:9092")
NATS_URL = os.environ.get("STREAMFLOW_NATS_URL", "nats://127.0.0.1:4222")
RABBITMQ_URL = os.environ.get("STREAMFLOW_RABBITMQ_URL", "amqp://127.0.0.1:5672")
STREAM_PORT = int(os.environ.get("STREAMFLOW_RABBITMQ_STREAM_PORT", "5552"))
WRONG = 10  # one payment of so many is of another amount than its order


@dataclass(frozen=True)
class Order:
    id: str
    amount: int


@dataclass(frozen=True)
class Payment:
    order: str
    amount: int


@dataclass(frozen=True)
class Entry:
    """One side of an order's account."""

    order: str
    due: int = 0
    paid: int = 0


@dataclass(frozen=True)
class Alert:
    order: str
    due: int
    paid: int


@dataclass
class Account:
    due: int = 0
    paid: int = 0


flow = sf.Flow("across-brokers", state=HERE / "out/across_brokers.db")
orders = flow.source(Kafka(KAFKA_URL).topic("shop-orders", value=Order), name="orders")
payments = flow.source(Nats(NATS_URL).stream("SHOP_PAYMENTS", value=Payment), name="payments")


@orders.map
def ordered(order: Order) -> Entry:
    return Entry(order.id, due=order.amount)


@payments.map
def paid(payment: Payment) -> Entry:
    return Entry(payment.order, paid=payment.amount)


@ordered.merge(paid, name="entries").key_by(lambda entry: entry.order).process(state=Account)
def accounts(ctx: sf.Context[str, Account], entry: Entry) -> Iterator[Alert]:
    account = ctx.state
    account.due += entry.due
    account.paid += entry.paid
    if account.due and account.paid and account.due != account.paid:
        yield Alert(ctx.key, account.due, account.paid)


alerts = RabbitMQ(RABBITMQ_URL, stream_port=STREAM_PORT).stream("shop-alerts", value=Alert)
accounts.to(alerts, name="alerts")


# What follows is the world outside of the flow, with the plain client of each broker; rstream is no part of an extra.


async def feed(count: int = 1000) -> set[str]:
    """Makes what is missing, sends orders and payments; returns the orders that an alert must come for."""
    first, run = 100, secrets.token_hex(4)
    amounts = {f"{run}-{number}": first + number for number in range(count)}
    wrong = {order for order, amount in amounts.items() if amount % WRONG == 0}
    await make_alerts()
    await asyncio.gather(
        send_orders([Order(order, amount) for order, amount in amounts.items()]),
        send_payments([Payment(order, amount - (order in wrong)) for order, amount in amounts.items()]),
    )
    return wrong


async def send_orders(orders: list[Order]) -> None:
    import aiokafka
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.errors import TopicAlreadyExistsError

    admin: Any = AIOKafkaAdminClient(bootstrap_servers=KAFKA_URL)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("shop-orders", 3, 1)])
    except TopicAlreadyExistsError:
        pass
    finally:
        await admin.close()
    producer: Any = aiokafka.AIOKafkaProducer(bootstrap_servers=KAFKA_URL, enable_idempotence=True)
    async with producer:
        for order in orders:
            await producer.send("shop-orders", json.dumps(asdict(order)).encode(), key=order.id.encode())


async def send_payments(payments: list[Payment]) -> None:
    import nats

    client = await nats.connect(NATS_URL)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="SHOP_PAYMENTS", subjects=["shop.payments"])
    for payment in payments:
        await jetstream.publish_async("shop.payments", json.dumps(asdict(payment)).encode())
    await jetstream.publish_async_completed()
    await client.close()


async def make_alerts() -> None:
    import rstream

    async with rstream.Producer(**stream_login()) as producer:
        await producer.create_stream("shop-alerts", exists_ok=True)


async def read_alerts(seconds: float = 1.0, count_max: int = sys.maxsize) -> list[Alert]:
    """Reads the stream of alerts from its beginning, until none has come for some time."""
    import rstream

    found: asyncio.Queue[Alert] = asyncio.Queue()

    def take(message: Any, _: Any) -> None:
        found.put_nowait(Alert(**json.loads(bytes(message.body))))

    read: list[Alert] = []
    async with rstream.Consumer(**stream_login()) as consumer:
        first = rstream.ConsumerOffsetSpecification(rstream.OffsetType.FIRST, None)
        await consumer.subscribe("shop-alerts", take, decoder=rstream.amqp_decoder, offset_specification=first)
        try:
            while len(read) < count_max:
                read.append(await asyncio.wait_for(found.get(), seconds))
        except TimeoutError:
            pass
    return read


def stream_login() -> dict[str, Any]:
    host = RABBITMQ_URL.rpartition("/")[2].rpartition(":")[0]
    return {"host": host, "port": STREAM_PORT, "username": "guest", "password": "guest"}


async def main(what: str) -> None:
    if what == "feed":
        print(f"1,000 orders and 1,000 payments sent; {len(await feed())} alerts must come")
    elif what == "alerts":
        found = await read_alerts()
        for alert in found:
            print(f"order {alert.order}: {alert.due} due, {alert.paid} paid")
        print(f"{len(found)} alerts, {len(found) - len(set(found))} of them twice")
    else:
        raise SystemExit("say feed or alerts")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else ""))
