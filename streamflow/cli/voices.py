"""Voices: the three ways in which `streamflow run` speaks. What is wrong goes to stderr, all else to stdout."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from streamflow.cli.output import json_value, one_line
from streamflow.runtime.mishaps import LEFT_OUT

if TYPE_CHECKING:
    from types import TracebackType

    from rich.live import Live


class PlainVoice:
    """Log lines, for services, files and pipes.

    Args:
        quiet: Leave out all that is not wrong.
    """

    live = False

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        if not self._quiet:
            click.echo(f"{_now()} {text}")

    def warn(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        click.echo(f"{_now()} warning: {text}", err=True)

    def show(self, text: str, facts: Mapping[str, Any]) -> None:
        self.say("progress", text, facts)

    def __enter__(self) -> PlainVoice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Has nothing to let go of."""


class JsonVoice(PlainVoice):
    """One JSON object per line on stdout, warnings included."""

    def say(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        if not self._quiet:
            self._write(event, facts)

    def warn(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        self._write(event, {"warning": text, **facts})

    def _write(self, event: str, facts: Mapping[str, Any]) -> None:
        click.echo(json.dumps({"event": event, "at": round(time.time(), 3), **facts}, default=json_value))


class TerminalVoice(PlainVoice):
    """A live line at the bottom of a terminal, other lines above it."""

    live = True

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._live: Live = Live(console=self._console, auto_refresh=False, transient=True)

    def say(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        self._console.print(f"{_now()} {text}", markup=False)

    def warn(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        self._console.print(f"{_now()} {text}", markup=False, style="yellow")

    def show(self, text: str, facts: Mapping[str, Any]) -> None:
        from rich.text import Text

        self._live.update(Text.assemble(("● ", "green"), text), refresh=True)

    def __enter__(self) -> TerminalVoice:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def choose_voice(*, quiet: bool, as_json: bool) -> PlainVoice:
    """The voice that fits where the output goes."""
    if as_json:
        return JsonVoice(quiet=quiet)
    if quiet or not sys.stdout.isatty():
        return PlainVoice(quiet=quiet)
    return TerminalVoice()


class VoiceHandler(logging.Handler):
    """Hands what `streamflow` logs, warnings and worse, to a voice, which `Progress` has told what was left out."""

    def __init__(self, voice: PlainVoice) -> None:
        super().__init__(logging.WARNING)
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        """Tells one log record."""
        if record.name == LEFT_OUT:
            return
        text = one_line(record.getMessage())
        self._voice.warn("log", text, {"logger": record.name, "level": record.levelname})


def _now() -> str:
    return time.strftime("%H:%M:%S")
