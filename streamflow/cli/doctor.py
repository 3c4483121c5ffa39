"""``streamflow doctor``: looks at the machine and says what would trouble a flow, and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

import click

from streamflow.cli.options import with_json, with_traceback

PYTHON_MIN: Final = (3, 11)
YEAR_MIN: Final = 2025
"""A clock that shows an earlier year was never set."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    hint: str = ""


@click.command("doctor", short_help="Look at this machine.")
@with_traceback
@with_json
def command(as_json: bool) -> None:
    """Looks at Python, SQLite, the connectors, the event loop, the disk and the clock of this machine.

    Always exits with 0: a warning says what to do if you need it.
    """
    from streamflow.cli.output import echo_json

    lines = list(examine())
    if as_json:
        echo_json([asdict(line) for line in lines])
        return
    width = max(len(line.what) for line in lines)
    for line in lines:
        verdict = click.style("ok  ", fg="green") if line.ok else click.style("warn", fg="yellow")
        click.echo(f"{verdict}  {line.what.ljust(width)}  {line.found}")
        if line.hint:
            click.echo(f"      {' ' * width}  {'hint: ' if not line.ok else ''}{line.hint}")


def examine() -> Iterator[Line]:
    """Looks at everything."""
    yield _python()
    yield _sqlite()
    yield from _connectors()
    yield _uvloop()
    yield _disk()
    yield _clock()


def _python() -> Line:
    import platform
    import sys

    name = platform.python_implementation()
    found = f"{name} {platform.python_version()} on {platform.system()} {platform.machine()}"
    good = sys.version_info >= PYTHON_MIN and name == "CPython"
    return Line("python", good, found, "" if good else "Use CPython 3.11 or newer.")


def _sqlite() -> Line:
    from streamflow.state.library import library_note, library_problem, library_version

    problem = library_problem()
    if problem:
        return Line("sqlite", False, problem, "Use a Python that is built with a newer SQLite.")
    return Line("sqlite", True, library_version(), library_note())


def _connectors() -> Iterator[Line]:
    from importlib.metadata import entry_points

    points = sorted(entry_points(group="streamflow.connectors"), key=lambda point: point.name)
    for point in points:
        missing = _missing(point.name)
        try:
            point.load()
        except Exception as error:  # somebody else's package: whatever it raises is what is wrong with it
            yield Line(f"connector {point.name}", False, f"cannot be imported: {error}", _install(point.name))
            continue
        if missing:
            yield Line(f"connector {point.name}", False, f"{', '.join(missing)} not installed", _install(point.name))
        else:
            yield Line(f"connector {point.name}", True, f"{point.value} {_version(point.dist)}".rstrip())
    if not points:
        yield Line("connectors", False, "none is installed", "pip install 'streamflow-asyncio[all]'")


def _missing(extra: str) -> list[str]:
    """Distributions that an extra asks for and that are not installed."""
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    missing = []
    for requirement in requires("streamflow-asyncio") or ():
        wanted, _, marker = requirement.partition(";")
        if not re.search(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""", marker):
            continue
        name = re.split(r"[^\w.-]", wanted.strip(), maxsplit=1)[0]
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


def _version(distribution: object) -> str:
    return str(getattr(distribution, "version", ""))


def _install(extra: str) -> str:
    return f"pip install 'streamflow-asyncio[{extra}]'"


def _uvloop() -> Line:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("uvloop")
    except PackageNotFoundError:
        return Line("event loop", True, "asyncio", f"uvloop is faster: {_install('uvloop')}")
    return Line("event loop", True, f"uvloop {found}")


def _disk() -> Line:
    import os
    from pathlib import Path

    from streamflow.state.lock import NETWORK_FILE_SYSTEMS, file_system

    here = Path.cwd()
    kind = file_system(here)
    if kind in NETWORK_FILE_SYSTEMS:
        return Line(
            "disk",
            False,
            f"{here} lies on a network file system ({kind})",
            "Put state files on a local disk: Flow(..., state=...).",
        )
    if kind in ("tmpfs", "ramfs"):
        return Line("disk", False, f"{here} lies in memory ({kind})", "State kept here is gone after a restart.")
    if not os.access(here, os.W_OK):
        return Line("disk", False, f"{here} may not be written", "Work in a folder of your own.")
    return Line("disk", True, f"{here} on {kind or 'a file system that is not named'}")


def _clock() -> Line:
    import datetime
    import time

    now = datetime.datetime.now().astimezone()
    if now.year < YEAR_MIN:
        return Line("clock", False, f"shows {now:%Y-%m-%d %H:%M}", "Set it: timers and `ttl` go by it.")
    if not time.get_clock_info("monotonic").monotonic:
        return Line("clock", False, "the monotonic clock can be set back", "Use another operating system.")
    return Line("clock", True, f"{now:%Y-%m-%d %H:%M:%S %Z}")
