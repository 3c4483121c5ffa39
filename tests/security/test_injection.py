"""Injection (S14): nothing that a record or a setting says can become a command, a header or a subject of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
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


@contextlib.asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[Any]:
    client = await nats_py.connect(server.url)
    try:
        yield client
    finally:
        await client.close()


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


PLACES: dict[str, dict[str, Any]] = {
    "subject": {"subject": lambda value: f"subject.{value}"},
    "header": {"headers": lambda value: {"name": value}},
    "name": {"headers": lambda value: {value: "v"}},
    "key": {"key": lambda value: value},
}


@pytest.mark.parametrize("place", PLACES)
async def test_what_records_say_stays_in_its_place(tmp_path: Path, place: str) -> None:
    """Subjects, keys and headers made of hostile records, on a real server: only what is legal arrives, as it was."""
    elsewhere: list[str] = []

    async def note(message: Any) -> None:
        if not message.subject.startswith(("$", "_INBOX", f"{place}.")):
            elsewhere.append(message.subject)

    async with NatsServer() as server, connected(server) as client:
        stream = client.jetstream()
        await stream.add_stream(name="S", subjects=[f"{place}.>"])
        await client.subscribe(">", cb=note)
        words: sf.MemoryTopic[str] = sf.MemoryTopic("in")  # values as they are, surrogates too
        words.send_all([*EVIL, "fine"])
        words.close_input()
        options = {"subject": lambda value: f"{place}.x", **PLACES[place]}
        spec: Any = Nats(server.url).stream("S", value=Repr())
        flow = sf.Flow("evil", state=tmp_path / "evil.db")
        flow.source(words).map(lambda word: word, name="same").to(spec, on_error=sf.skip, name="out", **options)
        async with asyncio.timeout(15):
            await flow.run()
        last = (await stream.stream_info("S")).state.last_seq
        received = [await stream.get_msg("S", seq) for seq in range(1, last + 1)]
    assert elsewhere == []
    arrived = {eval(message.data): message for message in received}
    assert "fine" in arrived
    if place == "subject":
        assert set(arrived) == {"other", "fine", "$SYS.REQ"}
        assert {message.subject for message in received} == {f"subject.{word}" for word in arrived}
        return
    assert {message.subject for message in received} == {f"{place}.x"}
    if place == "header":
        assert set(arrived) == {value for value in [*EVIL, "fine"] if not set(value) & set("\r\n\0\ud800")}
        assert all((message.headers or {})["name"] == value for value, message in arrived.items())
    elif place == "name":
        # a header's name is a token: most of what is evil elsewhere cannot be one
        assert set(arrived) == {"*", ".", "a.*", "a..b", "$SYS.REQ", "other", "fine"}
    else:
        assert set(arrived) == {*EVIL, "fine"} - {"\ud800"}
        assert (arrived["x\r"].headers or {})["sf-key"] == '"x\\r"', "a key is JSON where it is not plain text"


class Repr:
    """Any text as ASCII, so that the value itself never fails."""

    name = "repr"

    def encode(self, value: str) -> bytes:
        return ascii(value).encode()

    def decode(self, data: bytes) -> str:
        return str(eval(data))


@pytest.mark.parametrize("bad", [None, 7, ["a"], "text", {"a": None}, {1: "a"}])
async def test_headers_that_are_none_stop_the_flow_by_name(tmp_path: Path, bad: Any) -> None:
    async with NatsServer() as server, connected(server) as client:
        await client.jetstream().add_stream(name="S", subjects=["s"])
        words = sf.MemoryTopic("in", value=str)
        words.send("a")
        words.close_input()
        flow = sf.Flow("headers", state=tmp_path / "headers.db")
        flow.source(words).to(Nats(server.url).stream("S", value=str), headers=lambda value: bad, name="out")
        with pytest.raises(EncodeError, match="sink 'out' cannot encode 'a'"):
            async with asyncio.timeout(10):
                await flow.run()
        assert (await client.jetstream().stream_info("S")).state.messages == 0
