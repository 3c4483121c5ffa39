"""Debian's packages: installed without a question and without starting a service, or a line that says what to do."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.brokers.kind import BrokerError

UPDATE_SECONDS: Final = 120
INSTALL_SECONDS: Final = 300
GRACE_SECONDS: Final = 30
"""So much later the script is given up that is to keep the time."""
LISTS: Final = Path("/var/lib/apt/lists")
POLICY: Final = Path("/usr/sbin/policy-rc.d")
APT_GET: Final = Path(__file__).with_name("apt_get.sh")
_SAID_LETTERS_MAX: Final = 1000


def install(package: str, file: Path) -> None:
    """Install a package, one process at a time; nothing is done where its file is there.

    Args:
        package: Its name.
        file: What it is wanted for.

    Raises:
        BrokerError: Not allowed, no such package, or no apt-get.
    """
    wanted = f"{package} is not installed; as root: apt-get install --no-install-recommends {package}"
    for tool in ("apt-get", *as_root()[:1]):
        if shutil.which(tool) is None:
            raise BrokerError(f"{wanted}\n(there is no {tool} to do it by itself)")
    with (Path(tempfile.gettempdir()) / f"streamflow-install-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return
        problem = _install(package)
        if not problem and not file.exists():
            problem = f"the package brought no {file}"
        if problem:
            raise BrokerError(f"{wanted}\n{problem}")
        if Path("/run/systemd/system").exists():
            # Else it listens on every address from the next start of the machine on.
            run([*as_root(), "systemctl", "disable", package], INSTALL_SECONDS)


def apt_get(*arguments: str) -> str:
    """Run apt-get; return the end of what it said if it failed, else nothing."""
    seconds = UPDATE_SECONDS if "update" in arguments else INSTALL_SECONDS
    command = [*as_root(), "/bin/sh", str(APT_GET), str(POLICY), str(seconds), *arguments]
    return run(command, seconds + GRACE_SECONDS)


def as_root() -> list[str]:
    """What stands before a command that only root may run; it never asks for a password."""
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def run(command: list[str], seconds: float) -> str:
    """Run a command; return the end of what it said if it failed, else nothing."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if not done.returncode:
        return ""
    return f"{done.stderr or done.stdout}\n(exit code {done.returncode})".strip()[-_SAID_LETTERS_MAX:]


def _install(package: str) -> str:
    arguments = ("install", "--no-install-recommends", package)
    # The lists of a bare machine are missing; old ones name versions that are gone.
    if not any(LISTS.glob("*_Packages*")):
        return apt_get("update") or apt_get(*arguments)
    return apt_get(*arguments) and (apt_get("update") or apt_get(*arguments))
