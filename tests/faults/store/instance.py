"""One instance of a store in a process of its own, told what to do line by line.

Run as ``python -m tests.faults.store.instance <state file>``; answers each command with one line.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from streamflow.batch import Progress
from streamflow.errors import StreamflowError
from streamflow.state.sqlite import SqliteStore
from tests.unit.state.given import MANIFEST, chunk, full_epoch


async def obey(store: SqliteStore, command: str, epoch: int) -> str:
    """Does one thing; returns what came of it."""
    try:
        if command == "open":
            found = await store.open(MANIFEST)
            return f"epoch {found.epoch} generation {found.generation}"
        if command == "commit":
            await store.commit(full_epoch(epoch))
        elif command == "note":
            await store.note({}, {"alerts": Progress(0, 1)})
        elif command == "spill":
            await store.spill([chunk(epoch, epoch)])
        elif command == "fold":
            await store.fold()
        elif command == "close":
            await store.close()
    except StreamflowError as error:
        return f"{type(error).__name__}: {error.message} | {error.hint}"
    return "done"


async def main() -> None:
    store = SqliteStore(Path(sys.argv[1]))
    for line in sys.stdin:
        command, _, epoch = line.strip().partition(" ")
        print(await obey(store, command, int(epoch or 0)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
