"""Operating-system processes of brokers: started, recognised again, and never left behind."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

TIED_EXEC = Path(__file__).with_name("tied_exec.py")
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02

_SpawnJob = tuple[Callable[[], "subprocess.Popen[bytes]"], "Future[subprocess.Popen[bytes]]"]
_spawn_jobs: queue.SimpleQueue[_SpawnJob] = queue.SimpleQueue()
_spawner_lock = threading.Lock()
_spawner: threading.Thread | None = None


def start_tied(command: Sequence[str], log_path: Path) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one, even when this one is killed by SIGKILL.

    Linux ties a child to the *thread* that started it, so a worker thread of an event loop would take
    the broker along when the loop closes; one daemon thread that lives as long as the process starts all.

    Args:
        command: The program and its arguments.
        log_path: Where standard output and error are appended.
    """
    tied = [sys.executable, "-I", "-S", str(TIED_EXEC), str(os.getpid()), *command]
    return _spawn_in_long_lived_thread(lambda: _spawn(tied, log_path, detached=False))


def start_detached(command: Sequence[str], log_path: Path) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one, out of reach of the terminal's Ctrl-C.

    Args:
        command: The program and its arguments.
        log_path: Where standard output and error are appended.
    """
    return _spawn(command, log_path, detached=True)


def identity(pid: int) -> str | None:
    """Return what tells this process from a later one with the same pid, or None if it does not run."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        state, started = fields[0], fields[19]
        return None if state in "ZX" else f"started {started}"
    # macOS has no /proc.
    listed = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    state, _, started = listed.partition(" ")
    return None if not listed or state.startswith("Z") else f"started {started.strip()}"


def stop_pid(pid: int, expected_identity: str) -> bool:
    """Stop a process by pid: SIGTERM, then SIGKILL. Return False if it is no longer the same process.

    Args:
        pid: The recorded pid.
        expected_identity: What `identity` said when the pid was recorded.
    """
    for stop_signal in (signal.SIGTERM, signal.SIGKILL):
        if identity(pid) != expected_identity:
            return stop_signal is signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, stop_signal)
        deadline = time.monotonic() + STOP_SECONDS
        while identity(pid) == expected_identity and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    return True


def freeze(pid: int) -> None:
    """Stop a child process by SIGSTOP and return when none of its threads runs any more.

    The signal alone stops a process of several threads only when the kernel gets round to each: until then
    it may still answer.

    Args:
        pid: A child of this process.

    Raises:
        TimeoutError: It does not stop; it may have ended.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + STOP_SECONDS
    while os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not stop at SIGSTOP")
        time.sleep(POLL_SECONDS / 10)


def _spawn(command: Sequence[str], log_path: Path, *, detached: bool) -> subprocess.Popen[bytes]:
    with log_path.open("ab") as log:
        return subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=detached
        )


def _spawn_in_long_lived_thread(spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    global _spawner  # noqa: PLW0603 - one thread per process is the point
    with _spawner_lock:
        if _spawner is None or not _spawner.is_alive():
            _spawner = threading.Thread(target=_run_spawn_jobs, name="broker-spawner", daemon=True)
            _spawner.start()
    started: Future[subprocess.Popen[bytes]] = Future()
    _spawn_jobs.put((spawn, started))
    return started.result()


def _run_spawn_jobs() -> None:
    while True:
        spawn, started = _spawn_jobs.get()
        try:
            started.set_result(spawn())
        except OSError as error:
            started.set_exception(error)
