"""What an operator sees of a broker that cannot be used: the same few lines from `streamflow check` and `run`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LINES_MAX = 3
RUN_SECONDS = 60


async def tell(folder: Path, program: str, *words: str, others: Sequence[str] = (), run_code: int = 4) -> None:
    """Runs both commands on a program; each must fail, and say these words and a way out.

    Args:
        folder: For the program, and its state in ``flow.db``.
        program: Makes ``flow``; ``{state}`` stands for the state file.
        words: Parts of what must be said, each in one line.
        others: What only ``check`` says, which looks at every connector.
        run_code: The exit code of ``run``; that of ``check`` is 4.
    """
    path = folder / "told.py"
    path.write_text(program.format(state=folder / "flow.db"))
    checked, ran = await asyncio.gather(*(_told(command, path) for command in ("check", "run")))
    for command, code, (ended, lines) in (("check", 4, checked), ("run", run_code, ran)):
        said = "\n".join(lines)
        assert ended == code, f"{command} ended with {ended}:\n{said}"
        for each in (*words, *others) if command == "check" else words:
            assert any(each in line for line in lines), f"{command} does not say {each!r}:\n{said}"
        assert any("hint: " in line for line in lines), f"{command} names no way out:\n{said}"
    assert len(ran[1]) <= LINES_MAX, "\n".join(ran[1])


async def _told(command: str, program: Path) -> tuple[int, list[str]]:
    arguments = [sys.executable, "-c", "from streamflow.cli import main; main()", command, f"{program}:flow"]
    started = await asyncio.create_subprocess_exec(
        *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=program.parent
    )
    async with asyncio.timeout(RUN_SECONDS):
        said, _ = await started.communicate()
    assert started.returncode is not None
    return started.returncode, [line for line in said.decode().splitlines() if line.strip()]
