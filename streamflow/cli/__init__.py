"""The command line, ``streamflow``: one file per command, heavy imports inside the commands."""

from streamflow.cli.group import Commands

main = Commands(
    name="streamflow",
    help="Exactly-once stream processing for asyncio. TARGET is module:attribute, or path/to/file.py:attribute.",
)

__all__ = ["main"]
