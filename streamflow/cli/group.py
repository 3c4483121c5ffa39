"""The group of all commands: loads a command when it is used, and ends every failure in three lines."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final, Never

import click

COMMANDS: Final = {
    "run": "streamflow.cli.run",
    "explain": "streamflow.cli.explain",
    "check": "streamflow.cli.check",
    "checkpoints": "streamflow.cli.checkpoints",
    "state": "streamflow.cli.state",
    "dead": "streamflow.cli.dead",
    "reset": "streamflow.cli.reset",
    "doctor": "streamflow.cli.doctor",
    "new": "streamflow.cli.new",
}
"""Command -> the module that holds it as ``command``."""

INTERRUPTED: Final = 130


class Commands(click.Group):
    """Finds commands by name; every way out is an exit code of the house style.

    GUARANTEE: an error prints at most three lines on stderr, or its traceback too with ``--traceback``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(invoke_without_command=True, callback=_help, **settings)
        self.params.append(
            click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version)
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Never:
        """Runs a command and exits with its code."""
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(arguments, prog_name or "streamflow", complete_var, standalone_mode=False, **extra)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        except Exception as error:
            from streamflow.cli.failing import tell_failure

            sys.exit(tell_failure(error, whole="--traceback" in arguments))
        sys.exit(code if isinstance(code, int) else 0)


def _help() -> None:
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"streamflow {version('streamflow-asyncio')}")
        context.exit()
