"""Injection (S14): nothing that a record or a setting says can become a command, a header or a subject of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats as nats_py
import pytest

import streamflow as sf
from streamflow.errors import EncodeError, SettingsError
from streamflow_nats import Nats
from tests.brokers import NatsServer

EVIL = [
    "x\r\nPUB other 4\r\nevil", "x\nPUB other 4", "x\r", "a b", "a\tb", "*", ">", "a.>", "a.*", ".", "", "a..b", "\0",
    "$SYS.REQ", "\ud800", "x" * 2000, "other",
]  # fmt: skip


@pytest.mark.parametrize("value", EVIL[:-1], ids=ascii)
def test_settings_are_checked_when_they_are_made(value: str) -> None:
    makers: list[Callable[[], object]] = [
        lambda: Nats().stream(value or " "),
        lambda: Nats().stream("S", durable=value or " "),
        lambda: Nats(domain=value or " "),
        lambda: Nats(inbox_prefix=value),
    ]
    if value not in ("*", ">", "a.>", "a.*", ""):
        makers.append(lambda: Nats().stream("S", subject=value))
    for make in makers:
        with pytest.raises(SettingsError) as caught:
            make()
        assert caught.value.hint
        assert "\n" not in str(caught.value)


def test_plain_settings_are_taken() -> None:
    nats = Nats(domain="hub", inbox_prefix="_INBOX.team-a")
    assert (nats.domain, nats.inbox_prefix) == ("hub", "_INBOX.team-a")


async def test_what_records_say_stays_in_its_place(tmp_path: Path) -> None:
    """Subjects, keys and headers made of hostile records, on a real server: only what is legal arrives, as it was."""
    async with NatsServer() as server:
        client = await nats_py.connect(server.url)
        stream = client.jetstream()
        await stream.add_stream(name="S", subjects=["s.>"])
        elsewhere: list[Any] = []

        async def note(message: Any) -> None:
            if not message.subject.startswith(("$", "_INBOX", "s.")):
                elsewhere.append(message)

        await client.subscribe(">", cb=note)
        spec = Nats(server.url).stream("S", value=str, subject="s.>")
        places: dict[str, dict[str, Any]] = {
            "subject": {"subject": lambda value: value if value == "s.fine" else f"s.{value}"},
            "header": {"headers": lambda value: {"name": value}, "subject": lambda value: "s.h"},
            "header-name": {"headers": lambda value: {value: "v"}, "subject": lambda value: "s.n"},
            "key": {"key": lambda value: value, "subject": lambda value: "s.k"},
        }
        for place, options in places.items():
            words: sf.MemoryTopic[str] = sf.MemoryTopic("in")  # values as they are, surrogates too
            words.send_all([*EVIL, "s.fine"])
            words.close_input()
            flow = sf.Flow(f"evil-{place}", state=tmp_path / f"{place}.db")
            flow.source(words).map(lambda word: word, name="same").to(
                Nats(server.url).stream("S", value=Repr(), subject="s.>", mode="batch"),  # type: ignore[arg-type]
                on_error=sf.skip,
                name="out",
                **options,
            )
            async with asyncio.timeout(30):
                await flow.run()
        info = await stream.stream_info("S")
        received = [await stream.get_msg("S", seq) for seq in range(1, info.state.last_seq + 1)]
        of_flow = [message for message in received if message.data and b"generation" not in message.data]
        by_subject: dict[str, list[Any]] = {}
        for message in of_flow:
            by_subject.setdefault(message.subject or "", []).append(message)
        assert set(by_subject) == {"s.fine", "s.other", "s.h", "s.n", "s.k"}, set(by_subject)
        for message in of_flow:
            headers = message.headers or {}
            assert not any("\r" in part or "\n" in part for pair in headers.items() for part in pair)
        values = {eval(message.data) for message in by_subject["s.h"]}
        assert "x\r" not in values and "x\nPUB other 4" not in values
        assert {"a b", "*", "s.fine"} <= values
        keys = [(message.headers or {}).get("sf-key") for message in by_subject["s.k"]]
        assert '"x\\r\\nPUB other 4\\r\\nevil"' in keys, "a key is JSON where it is not plain text"
        assert elsewhere == []
        assert spec.name == "S"
        await client.close()


class Repr:
    """Any text as ASCII, so that the value itself never fails."""

    name = "repr"

    def encode(self, value: str) -> bytes:
        return ascii(value).encode()

    def decode(self, data: bytes) -> str:
        return str(eval(data))


@pytest.mark.parametrize("bad", [None, 7, ["a"], "text", {"a": None}, {1: "a"}])
async def test_headers_that_are_none_stop_the_flow_by_name(tmp_path: Path, bad: Any) -> None:
    async with NatsServer() as server:
        client = await nats_py.connect(server.url)
        await client.jetstream().add_stream(name="S", subjects=["s"])
        words = sf.MemoryTopic("in", value=str)
        words.send("a")
        words.close_input()
        flow = sf.Flow("headers", state=tmp_path / "headers.db")
        flow.source(words).to(Nats(server.url).stream("S", value=str), headers=lambda value: bad, name="out")
        with pytest.raises(EncodeError, match="sink 'out' cannot encode 'a'"):
            async with asyncio.timeout(20):
                await flow.run()
        assert (await client.jetstream().stream_info("S")).state.messages == 0
        await client.close()
