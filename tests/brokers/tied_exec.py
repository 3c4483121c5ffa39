"""Becomes another program that the kernel kills when its parent dies (Linux; elsewhere just becomes it).

Usage: tied_exec.py PARENT_PID PROGRAM [ARGUMENT ...]. A pre-exec hook in the parent would do the same, but
Python forbids those in a process that has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the program."""
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    # A Ctrl-C in the terminal is for the parent: it stops its brokers itself, and in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before the kernel was told to watch it
            sys.exit(1)
    os.execv(command[0], command)


main()
