"""What sources and sinks must have in common: specs without I/O, probes that never raise, safe closing."""

from __future__ import annotations

import asyncio
import builtins
import os
import socket
import uuid
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import pytest
import pytest_asyncio

from streamflow.connect.contracts import Connector, Level
from streamflow.errors import NotFound, Unavailable


class ConnectorConformance:
    """Hooks and tests that sources and sinks share; use `SourceConformance` and `SinkConformance`.

    pytest makes one instance per test, so a hook may keep what belongs to the test in attributes of ``self``.
    """

    pytestmark = pytest.mark.asyncio

    timeout_seconds: float = 20.0
    """How long the broker may take for any one thing before the test fails."""

    quiet_seconds: float = 0.2
    """How long nothing must come before a test believes that nothing comes."""

    secret: str = ""
    """A password or token that `spec` is made with; it must never be shown."""

    environment: Any = None
    """What the fixture of the same name gave."""

    # Hooks.

    @pytest.fixture(name="environment")
    def _environment(self) -> Any:
        """Override under the name ``environment`` to ask pytest for fixtures: a folder, the address of a broker."""
        return None

    async def start(self) -> None:
        """Makes a fresh, empty stream, topic or file for one test."""

    async def stop(self) -> None:
        """Removes what `start` made."""

    def spec(self) -> Any:
        """Returns the settings under test, for what `start` made; does no I/O."""
        raise NotImplementedError

    def missing_spec(self) -> Any:
        """Returns settings for something that does not exist at a broker that does."""
        unsupported("missing_spec", "nothing can be missing here")

    async def take_down(self) -> None:
        """Makes the broker unreachable, best by killing it."""
        unsupported("take_down", "the broker cannot be taken down")

    async def bring_up(self) -> None:
        """Undoes `take_down`: the same broker, with what it had made durable."""
        unsupported("bring_up", "the broker cannot be brought up")

    async def replace(self) -> None:
        """Deletes the stream, topic or file and makes a new, empty one under the same name."""
        unsupported("replace", "it cannot be replaced")

    def make(self, spec: Any) -> Connector:
        """Makes an unopened connector; the kit's own business."""
        raise NotImplementedError

    async def open(self, connector: Any) -> None:
        """Opens a connector with a context; the kit's own business."""
        raise NotImplementedError

    # Stage.

    @pytest_asyncio.fixture(autouse=True)
    async def _stage(self, environment: Any) -> AsyncIterator[None]:
        self.environment = environment
        self.incarnation = uuid.uuid4().hex[:12]
        self._made: list[Connector] = []
        await self.start()
        try:
            yield
        finally:
            async with asyncio.timeout(self.timeout_seconds):
                for connector in self._made:
                    await connector.close()
                await self.stop()

    def made(self, spec: Any) -> Any:
        """Makes a connector that is closed when the test ends."""
        connector = self.make(spec)
        self._made.append(connector)
        return connector

    # Tests.

    async def test_building_a_spec_does_no_io(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A flow may be imported anywhere: settings and unopened connectors touch neither network, file nor loop."""

        def refuse(*args: Any, **kwargs: Any) -> NoReturn:
            raise AssertionError(f"I/O while building a spec: {args}")

        def build() -> None:
            with monkeypatch.context() as patched:
                for owner, name in [
                    (socket.socket, "connect"),
                    (socket, "getaddrinfo"),
                    (os, "open"),
                    (builtins, "open"),
                ]:
                    patched.setattr(owner, name, refuse)
                self._made.append(self.make(self.spec()))

        await asyncio.to_thread(build)

    async def test_secrets_are_not_shown(self) -> None:
        """Neither the description, nor the repr, nor the guarantee, nor a probe shows a secret."""
        if not self.secret:
            pytest.skip("secret: the spec has none")
        spec = self.spec()
        connector = self.made(spec)
        shown = [spec.describe(), repr(spec), str(spec), repr(connector), connector.guarantee.reason]
        shown.append(repr(await connector.probe()))
        assert not [text for text in shown if self.secret in text]

    async def test_guarantee_is_stated_with_its_reason(self) -> None:
        """What it gives is said before it runs, and an opened connector gives no less than its spec says."""
        spec = self.spec()
        guarantee = self.made(spec).guarantee
        stated = self.stated_guarantee(spec)
        assert isinstance(stated.level, Level)
        assert stated.reason
        assert list(Level).index(guarantee.level) <= list(Level).index(stated.level)
        assert spec.describe()

    def stated_guarantee(self, spec: Any) -> Any:
        """Reads the guarantee off a spec; the kit's own business."""
        raise NotImplementedError

    async def test_probe_finds_it(self) -> None:
        """A probe of what exists is ok and states facts, before and after opening."""
        probe = await self.made(self.spec()).probe()
        assert probe.ok, probe.problem
        connector = self.made(self.spec())
        await self.open(connector)
        assert (await connector.probe()).ok

    async def test_probe_of_something_missing_says_so(self) -> None:
        """A probe does not raise: it names the problem and the way out."""
        probe = await self.made(self.missing_spec()).probe()
        assert not probe.ok
        assert probe.problem
        assert probe.hint

    async def test_open_of_something_missing_is_refused(self) -> None:
        """Opening what does not exist raises NotFound with a hint, and closing is safe afterwards."""
        connector = self.made(self.missing_spec())
        with pytest.raises(NotFound) as caught:
            await self.open(connector)
        assert caught.value.hint
        await connector.close()

    async def test_a_broker_that_is_down(self) -> None:
        """A probe says so, opening raises Unavailable, and neither hangs; a new connector opens once it is back."""
        connector = self.made(self.spec())
        await self.take_down()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                probe = await connector.probe()
            assert not probe.ok
            assert probe.problem
            assert probe.hint
            with pytest.raises(Unavailable):
                async with asyncio.timeout(self.timeout_seconds):
                    await self.open(connector)
            await connector.close()
        finally:
            await self.bring_up()
        await self.open(self.made(self.spec()))

    async def test_closes_twice(self) -> None:
        """Closing is safe before opening, after it, and twice."""
        unopened = self.made(self.spec())
        await unopened.close()
        await unopened.close()
        opened = self.made(self.spec())
        await self.open(opened)
        await opened.close()
        await opened.close()

    async def test_close_is_final_for_the_broker_only(self) -> None:
        """What one connector closed, a fresh one from the same spec opens again."""
        spec = self.spec()
        for _ in range(3):
            connector = self.made(spec)
            await self.open(connector)
            await connector.close()


def unsupported(hook: str, reason: str) -> NoReturn:
    """Skips a test whose hook the connector does not offer."""
    pytest.skip(f"{hook}: {reason}")
