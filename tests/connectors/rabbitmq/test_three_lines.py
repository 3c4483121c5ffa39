"""A RabbitMQ that cannot be used, as the command line tells of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.errors import SettingsError
from streamflow_rabbitmq import RabbitMQ, link
from streamflow_rabbitmq.link import Link
from tests.brokers import RabbitServer
from tests.brokers.server import free_port
from tests.connectors.rabbitmq.outsider import Outsider, fresh
from tests.connectors.rabbitmq.streams_outside import SEGMENT_BYTES, Streams
from tests.connectors.three_lines import tell
from tests.unit.runtime.test_engine import until

PROGRAM = """
import streamflow as sf
from streamflow_rabbitmq import RabbitMQ, UserPassword
rabbit = RabbitMQ("{url}", auth=UserPassword("guest", "{word}"), stream_port={stream_port})
flow = sf.Flow("told", state="{{state}}")
"""
READS = 'flow.source({what}, name="in").to(sf.jsonl("{{state}}.jsonl", value=str))\n'


def program(url: str, kind: str, name: str, stream_port: int, *, word: str = "guest") -> str:
    """A flow that reads one thing."""
    head = PROGRAM.format(url=url, word=word, stream_port=stream_port)
    return head + READS.format(what=f'rabbit.{kind}("{name}", value=str)')


async def test_nobody_answers(tmp_path: Path) -> None:
    port, stream_port = free_port(), free_port()
    url = f"amqp://127.0.0.1:{port}"
    text = program(url, "queue", "q", stream_port)
    text += (
        'flow.source(rabbit.stream("s", value=str), name="too").to(sf.jsonl("{state}.too", value=str), name="too")\n'
    )
    others = [f"stream port cannot be reached at amqp://127.0.0.1:{stream_port}: connection refused"]
    await tell(tmp_path, text, f"no RabbitMQ answers at {url}: connection refused", others=others)


async def test_a_wrong_password(outsider: Outsider, tmp_path: Path) -> None:
    server = outsider.server
    text = program(server.url, "queue", "any", server.stream_port, word="wrong-canary")
    text += (
        'flow.source(rabbit.stream("some", value=str), name="too").to(sf.jsonl("{state}.too", value=str), name="too")\n'
    )
    words = "refuses", "guest may log in from the broker's own machine only"
    await tell(tmp_path, text, *words, others=["source in: RabbitMQ at", "source too: RabbitMQ at"])


async def test_what_is_missing(outsider: Outsider, tmp_path: Path) -> None:
    server = outsider.server
    text = program(server.url, "queue", "missing", server.stream_port)
    for number, kind in enumerate(("stream", "super_stream")):
        source = f'rabbit.{kind}("missing{number}", value=str), name="from-{kind}"'
        text += f'flow.source({source}).to(sf.jsonl("{{state}}.{kind}", value=str), name="to-file-{kind}")\n'
    text += 'more = flow.source(sf.MemoryTopic("in", value=str), name="memory")\n'
    for number, kind in enumerate(("queue", "stream", "super_stream", "exchange"), 2):
        guarantee = "exactly_once" if "stream" in kind else "effectively_once"
        text += f'more.to(rabbit.{kind}("missing{number}", value=str), name="to-{kind}", guarantee="{guarantee}")\n'
    others = [f"{kind} missing{number}" for number, kind in enumerate(("stream", "super stream", "queue", "stream"))]
    others += ["super stream missing4", "exchange missing5"]
    await tell(tmp_path, text, "queue missing", others=others)


@pytest.mark.timeout(60)
async def test_a_broker_without_streams(tmp_path: Path) -> None:
    """Its stream plugin is not enabled: the hint says how to do that."""
    async with RabbitServer(streams=False) as server:
        text = program(server.url, "stream", "orders", server.stream_port)
        await tell(tmp_path, text, "stream port cannot be reached", "rabbitmq-plugins enable rabbitmq_stream")


async def test_a_broker_that_is_too_old(outsider: Outsider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any real one would be, were the oldest that is taken a newer one."""
    monkeypatch.setattr(link, "VERSION_MIN", (99, 0))
    with pytest.raises(SettingsError, match=r"is version 3\.\d+\.\d+; 99\.0 or newer is needed") as caught:
        await Link.connect(outsider.rabbit, "test")
    assert caught.value.hint == "Upgrade the broker."
    queue = await outsider.queue()
    probe = await outsider.rabbit.queue(queue, value=str).source().probe()
    assert not probe.ok and "or newer is needed" in probe.problem and probe.hint


async def test_a_stream_that_was_truncated_or_made_anew(outsider: Outsider, tmp_path: Path) -> None:
    """The state knows what was read; `check` compares, too. A queue has no positions to compare."""
    server, name = outsider.server, fresh("stream")
    text = program(server.url, "stream", name, server.stream_port)
    async with Streams(server) as streams:
        await streams.make(name, stream_max_segment_size_bytes=SEGMENT_BYTES)
        await streams.available(name)
        await streams.feed(name, [b"1", b"2", b"3"], singly=True)
        flow, out = sf.Flow("told", state=tmp_path / "flow.db"), tmp_path / "flow.db.jsonl"
        rabbit = RabbitMQ(server.url, stream_port=server.stream_port)
        flow.source(rabbit.stream(name, value=str), name="in").to(sf.jsonl(out, value=str))
        async with flow.running():
            await until(lambda: out.exists() and len(out.read_text().splitlines()) == 3)
        await streams.feed(name, [b"4", b"5", b"6"], singly=True)
        for path in sorted(streams.folder(name).glob("*.*"))[:8]:
            path.unlink()
        words = "comes next: what lay between was deleted unread", "streamflow reset"
        await tell(tmp_path, text, f"stream {name}", *words, run_code=5)
        await streams.delete(name)
        await streams.make(name)
        await streams.available(name)
        await asyncio.sleep(0.1)
    await tell(tmp_path, text, "the one read before", "streamflow reset", run_code=5)
