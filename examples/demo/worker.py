"""The flow's process: `streamflow run`, as anyone would start it; to be killed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.brokers.process import start_tied

COMMAND = "streamflow run examples.demo.flow:flow"

_STOP_SECONDS = 30.0
_LOG_LINES = 12
_ROOT = Path(__file__).parents[2]


class FlowDied(Exception):
    """The flow's process ended although nobody killed it, or did not end as it should."""


class FlowProcess:
    """The process that runs the flow: one after the other, each on the state that the one before left.

    GUARANTEE: none outlives this process, not even when this one is killed by SIGKILL (on Linux).

    Args:
        url: The NATS server.
        folder: Where the state and the log go.
    """

    def __init__(self, url: str, folder: Path) -> None:
        program, *arguments = COMMAND.split()
        self._log = folder / "flow.log"
        self._command = [
            shutil.which("env") or "/usr/bin/env",
            f"PYTHONPATH={_ROOT}",
            f"DEMO_NATS={url}",
            f"DEMO_STATE={folder / 'demo.db'}",
            str(Path(sys.executable).with_name(program)),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Starts a process; what it says goes to the log."""
        self._process = await asyncio.to_thread(start_tied, self._command, self._log)

    def check(self) -> None:
        """Raises FlowDied if the process has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise FlowDied(self._ended(self._process.returncode))

    async def kill(self) -> None:
        """Sends SIGKILL and returns when the process is gone.

        Raises:
            FlowDied: It had ended before, so nothing was killed.
        """
        assert self._process is not None, "the flow is started before it is killed"
        self._process.kill()
        code = await asyncio.to_thread(self._process.wait)
        if code != -signal.SIGKILL:
            raise FlowDied(self._ended(code))
        self._process = None

    async def stop(self) -> None:
        """Stops the process in order (SIGTERM).

        Raises:
            FlowDied: It did not stop, or not with exit code 0.
        """
        assert self._process is not None, "the flow is started before it is stopped"
        self._process.terminate()
        try:
            code = await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise FlowDied(f"the flow did not stop within {_STOP_SECONDS:.0f} s of SIGTERM{self._tail()}") from None
        if code != 0:
            raise FlowDied(self._ended(code))
        self._process = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def _ended(self, code: int) -> str:
        return f"the flow ended by itself with exit code {code}{self._tail()}"

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if self._log.exists() else []
        return "; the end of its log:\n" + "\n".join(f"    {line}" for line in lines)
