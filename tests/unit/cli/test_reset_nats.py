"""Adopting a head on a real broker: a foreign message, a stream made anew, and what cannot be adopted."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.cli.asserts import assert_refused

nats_py = pytest.importorskip("nats")
pytest.importorskip("streamflow_nats")

FLOW = """
import streamflow as sf
from streamflow_nats import Nats

flow = sf.Flow("to-nats", state="to-nats.db")
flow.source(sf.lines("in.txt"), name="lines").to(Nats("{url}").stream("{stream}", value=str), name="out")
"""


class Outside:
    """A stream, and the hands of an outsider on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stream = f"CLI-{uuid.uuid4().hex[:12]}"

    def __call__(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        async def go() -> Any:
            client = await nats_py.connect(self.url)
            try:
                return await work(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(go())

    def make(self) -> None:
        self(lambda js: js.add_stream(name=self.stream, subjects=[self.stream]))

    def delete(self) -> None:
        self(lambda js: js.delete_stream(self.stream))

    def publish(self, payload: bytes) -> None:
        self(lambda js: js.publish(self.stream, payload))

    def messages(self) -> list[str]:
        async def read(js: Any) -> list[str]:
            state = (await js.stream_info(self.stream)).state
            seqs = range(state.first_seq, state.last_seq + 1) if state.messages else ()
            return [(await js.get_msg(self.stream, seq)).data.decode() for seq in seqs]

        found: list[str] = self(read)
        return found


@pytest.fixture
def outside(nats_url):
    hands = Outside(nats_url)
    hands.make()
    yield hands
    hands.delete()


@pytest.fixture
def module(project, outside) -> str:
    project.path("in.txt").write_text("one\ntwo\n")
    name: str = project.write(FLOW.format(url=outside.url, stream=outside.stream))
    assert project("run", name).exit_code == 0
    assert outside.messages() == ["one", "two"]
    return name


def accept(project, module: str) -> dict[str, Any]:
    result = project("reset", module, "--sink", "out", "--accept-head", "--yes", "--json")
    assert result.exit_code == 0, result.output
    outcome: dict[str, Any] = json.loads(result.stdout)
    return outcome


def more(project) -> None:
    with project.path("in.txt").open("a") as file:
        file.write("three\n")


def test_a_foreign_message_is_accepted(project, outside, module):
    outside.publish(b"foreign")
    assert_refused(project("run", module), 5, outside.stream, "--accept-head")
    outcome = accept(project, module)
    assert (outcome["changed"], outcome["dropped"], outcome["next_seq"]) == (True, 0, 3)
    more(project)
    assert project("run", module).exit_code == 0
    assert outside.messages() == ["one", "two", "foreign", "three"]


def test_a_stream_made_anew_is_accepted(project, outside, module):
    outside.delete()
    outside.make()
    assert_refused(project("run", module), 5, outside.stream, "--accept-head")
    assert accept(project, module)["changed"]
    more(project)
    assert project("run", module).exit_code == 0
    assert outside.messages() == ["three"]


def test_a_head_that_agrees_is_left_alone(project, outside, module):
    assert not accept(project, module)["changed"]
    more(project)
    assert project("run", module).exit_code == 0
    assert outside.messages() == ["one", "two", "three"]


def test_reset_fences_the_stream_and_the_next_run_begins_anew(project, outside, module):
    result = project("reset", module, "--yes", "--json")
    assert json.loads(result.stdout)["fenced"] == ["out"]
    assert project("run", module).exit_code == 0
    assert outside.messages() == ["one", "two", "one", "two"]
