"""``streamflow new``: writes a small project that runs at once, with a test that passes."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from typing import Final

import click

from streamflow.cli.options import with_traceback

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@click.command("new", short_help="Begin a project.")
@click.argument("name")
@with_traceback
def command(name: str) -> None:
    """Makes the folder NAME with a flow that counts words, a test of it, a pyproject.toml and a README.

    It needs no broker. An existing folder is never touched.
    """
    from streamflow.cli.failing import UsageError
    from streamflow.cli.scaffold import files

    module = module_name(name)
    folder = Path(name)
    try:
        folder.mkdir()
    except FileExistsError:
        raise UsageError(f"{folder} exists already", hint="Choose another name: nothing is overwritten.") from None
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}", hint="Work in a folder of your own.") from None
    for path, text in files(name, module).items():
        file = folder / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    click.echo(f"Made {name}/. Try it:")
    click.echo("")
    click.echo(f"    cd {name}")
    click.echo(f"    streamflow run {module}")
    click.echo("    python -m pytest")


def module_name(name: str) -> str:
    """The import name for a project's name.

    Raises:
        UsageError: It cannot be one.
    """
    from streamflow.cli.failing import UsageError

    module = name.lower().replace("-", "_")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a project",
            hint="Use up to 64 letters, digits, - and _, beginning with a letter.",
        )
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in ("streamflow", "tests"):
        raise UsageError(f"{name!r} would hide a module of that name", hint="Choose another name.")
    return module
