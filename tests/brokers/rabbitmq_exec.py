"""Becomes a RabbitMQ server whose name service (epmd) of its own dies with it.

Usage: rabbitmq_exec.py EPMD_PORT SERVER_SCRIPT. The Erlang VM takes this process over, so its pid is the one to
kill; epmd is its child, tied to it by the kernel, and listens on the loopback only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TIED_EXEC = Path(__file__).with_name("tied_exec.py")


def main() -> None:
    """Start epmd, then become the server; its settings are in the environment."""
    epmd_port, server_script = sys.argv[1], sys.argv[2]
    epmd = [sys.executable, "-I", "-S", str(TIED_EXEC), str(os.getpid()), "/usr/bin/env"]
    subprocess.Popen([*epmd, "epmd", "-address", "127.0.0.1", "-port", epmd_port])
    os.execv(server_script, [server_script])


main()
