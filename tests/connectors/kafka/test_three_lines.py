"""A Kafka that cannot be used, as the command line tells of it; wrong logins stand in test_login.py."""

from __future__ import annotations

from pathlib import Path

import streamflow as sf
from streamflow_kafka import Kafka
from tests.brokers.server import free_port
from tests.connectors.kafka.broker import QUICK, Broker
from tests.connectors.kafka.older import METADATA, Older
from tests.connectors.three_lines import tell
from tests.unit.runtime.test_engine import until

OFFSET_FETCH = 9
PROGRAM = """
import streamflow as sf
from streamflow_kafka import Kafka
kafka = Kafka("URL")
flow = sf.Flow("told", state="{state}")
"""
READS = PROGRAM + 'flow.source(kafka.topic("TOPIC", value=str)).to(sf.jsonl("{state}.jsonl", value=str))\n'
WRITES = PROGRAM + 'flow.source(sf.MemoryTopic("in", value=str)).to(kafka.topic("TOPIC", value=str))\n'
BOTH = PROGRAM + 'flow.source(kafka.topic("TOPIC", value=str)).to(kafka.topic("TOPIC-too", value=str))\n'


def at(program: str, url: str, topic: str) -> str:
    return program.replace("URL", url).replace("TOPIC", topic)


async def test_nobody_answers(tmp_path: Path):
    url = f"127.0.0.1:{free_port()}"
    words = f"no Kafka broker answers at {url}: connection refused"
    await tell(tmp_path, at(BOTH, url, "orders"), words, others=[f"sink orders-too: {words}"])


async def test_a_topic_that_is_missing(broker: Broker, tmp_path: Path):
    words = f"Kafka at {broker.server.url} has no topic missing"
    hint = "kafka-topics.sh --create --topic missing"
    await tell(tmp_path, at(BOTH, broker.server.url, "missing"), words, hint, others=[f"{words}-too", f"{hint}-too"])


async def test_a_broker_that_is_too_old(broker: Broker, tmp_path: Path):
    topic = await broker.topic()
    async with Older(broker.server, {METADATA: 4}) as older:
        words = f"Kafka at {older.url} is too old or too new for MetadataRequest", "from Kafka 2.1 on"
        await tell(tmp_path, at(READS, older.url, topic), *words)
        assert older.lowered
    async with Older(broker.server, {OFFSET_FETCH: 5}) as older:
        await tell(tmp_path, at(WRITES, older.url, topic), "is too old or too new for OffsetFetch", "from 2.5 on")
        assert older.lowered


async def test_a_topic_that_was_truncated_or_made_anew(broker: Broker, tmp_path: Path):
    """The state knows what was read; `check` compares, too."""
    topic = await broker.topic()
    program = at(READS, broker.server.url, topic)
    await broker.feed(topic, b"1", b"2", b"3")
    flow, out = sf.Flow("told", state=tmp_path / "flow.db"), tmp_path / "flow.db.jsonl"
    flow.source(Kafka(broker.server.url, options=QUICK).topic(topic, value=str)).to(sf.jsonl(out, value=str))
    async with flow.running():
        await until(lambda: out.exists() and len(out.read_text().splitlines()) == 3)
    await broker.feed(topic, b"4", b"5")
    await broker.delete_records(topic, 4)
    await tell(
        tmp_path, program, "begins at 4, but 3 comes next: what lay between was deleted", "streamflow reset", run_code=5
    )
    await broker.delete(topic)
    await broker.topic(name=topic)
    await tell(tmp_path, program, "it was deleted and made again", "streamflow reset", run_code=5)
