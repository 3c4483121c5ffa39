"""`explain` on a flow that reads and writes all three brokers: each path, its guarantee, and the reasons."""

from __future__ import annotations

from tests.unit.cli.asserts import assert_refused

FLOW = """
import streamflow as sf
from streamflow_kafka import Kafka
from streamflow_nats import Nats
from streamflow_rabbitmq import RabbitMQ

kafka, nats, rabbit = Kafka("127.0.0.1:9092"), Nats("nats://127.0.0.1:4222"), RabbitMQ("amqp://127.0.0.1:5672")
flow = sf.Flow("three", state="three.db")
orders = flow.source(kafka.topic("orders", value=int), name="orders")
payments = flow.source(nats.stream("PAYMENTS", value=int), name="payments")
clicks = flow.source(rabbit.stream("clicks", value=int), name="clicks")
jobs = flow.source(rabbit.queue("jobs", value=int), name="jobs")
every = orders.merge(payments, clicks, jobs, name="every")
every.to(kafka.topic("to-kafka", value=int), name="kafka")
every.to(nats.stream("TO_NATS", value=int), name="nats")
every.to(rabbit.stream("to-rabbit", value=int), name="stream")
every.to(rabbit.queue("queue", value=int), name="queue"{accepted})
"""
ACCEPTED = ', guarantee="effectively_once"'
PICTURE = """\
flow three, state in three.db

orders     source  kafka topic orders
→ every

payments   source  nats stream PAYMENTS
→ every

clicks     source  rabbitmq stream clicks
→ every

jobs       source  rabbitmq queue jobs
every      merge
├─ kafka   sink    kafka topic to-kafka
├─ nats    sink    nats stream TO_NATS
├─ stream  sink    rabbitmq stream to-rabbit
└─ queue   sink    rabbitmq queue queue

guarantees
  orders → kafka     exactly_once
  payments → kafka   exactly_once
  clicks → kafka     exactly_once
  jobs → kafka       exactly_once
  orders → nats      exactly_once
  payments → nats    exactly_once
  clicks → nats      exactly_once
  jobs → nats        exactly_once
  orders → stream    exactly_once
  payments → stream  exactly_once
  clicks → stream    exactly_once
  jobs → stream      exactly_once
  orders → queue     effectively_once
  payments → queue   effectively_once
  clicks → queue     effectively_once
  jobs → queue       effectively_once

because
"""
BECAUSE = """\
  source orders    exactly_once      every partition is read again from the position in the checkpoint
  source payments  exactly_once      the stream is read again from the position in the checkpoint
  source clicks    exactly_once      the stream is read again from the offset in the checkpoint
  source jobs      exactly_once      acknowledged after the commit
  sink kafka       exactly_once      records and a marker of the last epoch become visible in one transaction
  sink nats        exactly_once      every message names the stream sequence it must follow
  sink stream      exactly_once      the stream remembers the last number published under this sink's name
  sink queue       effectively_once  every message is confirmed, and what is published twice after a crash has the same
"""
"""How each line begins; the connectors say more."""


def test_each_path_across_the_brokers_is_named_with_its_guarantee(project):
    module = project.write(FLOW.format(accepted=ACCEPTED))
    result = project("explain", module)
    assert result.exit_code == 0
    picture, because, reasons = result.stdout.replace("->", "→").partition("because\n")
    assert picture + because == PICTURE
    beginnings, lines = BECAUSE.splitlines(), reasons.splitlines()
    assert len(lines) == len(beginnings)
    assert all(line.startswith(beginning) for line, beginning in zip(lines, beginnings, strict=True)), reasons


def test_a_weaker_path_that_was_not_accepted_is_refused_by_name(project):
    result = project("explain", project.write(FLOW.format(accepted="")))
    assert_refused(result, 3, "orders -> queue gives effectively_once, not exactly_once")
    assert "BROKEN" in result.stdout
