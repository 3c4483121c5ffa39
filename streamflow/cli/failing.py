"""How a failure ends: what, where and the way out, in three lines, and an exit code."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Final

import click

import streamflow
from streamflow.cli.output import one_line
from streamflow.connect.secret import redact
from streamflow.errors import SettingsError, StreamflowError

LINE_CHARACTERS_MAX: Final = 600
USAGE: Final = 2

_NOT_THE_USERS: Final = tuple(
    str(path)
    for path in {
        Path(streamflow.__file__).parent,
        *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)
_CONNECTORS: Final = "streamflow_"


class UsageError(SettingsError):
    """What was typed on the command line does not fit what is there."""

    exit_code = USAGE


def tell_failure(error: Exception, *, whole: bool = False) -> int:
    """Prints an error and returns the exit code that belongs to it.

    Args:
        error: What ended the command.
        whole: Print the traceback first.
    """
    if whole:
        click.echo(redact("".join(traceback.format_exception(error))), err=True, nl=False)
    what, where, hint, code = _described(error)
    click.echo(f"{click.style('error:', fg='red', bold=True)} {_cut(what)}", err=True)
    if where:
        click.echo(f"   at: {_cut(where)}", err=True)
    if hint:
        click.echo(f" hint: {_cut(hint)}", err=True)
    return code


def _described(error: Exception) -> tuple[str, str, str, int]:
    if isinstance(error, StreamflowError):
        return error.message, place_of(error), error.hint, error.exit_code
    if isinstance(error, click.ClickException):
        ctx = getattr(error, "ctx", None)
        hint = f"See: {ctx.command_path} --help" if ctx is not None else ""
        return error.format_message(), "", hint, error.exit_code
    return (
        f"unexpected {type(error).__name__}: {error}",
        place_of(error) or _frame(traceback.extract_tb(error.__traceback__)[-1:]),
        "Run it again with --traceback. If the place is not in your code, report it.",
        1,
    )


def place_of(error: BaseException) -> str:
    """The innermost line of the user's own code that an error came through; empty if it did not."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__
    for one in reversed(chain):
        if isinstance(one, SyntaxError) and one.filename:
            return f"{_short(one.filename)}, line {one.lineno}"
        place = _frame([part for part in traceback.extract_tb(one.__traceback__) if _is_users(part.filename)])
        if place:
            return place
    return ""


def _frame(frames: list[traceback.FrameSummary]) -> str:
    if not frames:
        return ""
    last = frames[-1]
    inside = f", in {last.name}" if last.name not in ("<module>", "<lambda>") else ""
    return f"{_short(last.filename)}, line {last.lineno}{inside}"


def _is_users(file: str) -> bool:
    if not Path(file).is_absolute() or file == sys.argv[0]:
        return False
    return not file.startswith((*_NOT_THE_USERS, *_connector_folders()))


def _connector_folders() -> list[str]:
    """Where the connectors in use are: not below site-packages in an editable installation."""
    packages = [
        module for name, module in list(sys.modules.items()) if name.startswith(_CONNECTORS) and "." not in name
    ]
    return [f"{folder}{os.sep}" for package in packages for folder in getattr(package, "__path__", ())]


def _short(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= LINE_CHARACTERS_MAX else line[: LINE_CHARACTERS_MAX - 4] + " ..."
