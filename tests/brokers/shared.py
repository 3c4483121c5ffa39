"""The shared broker: what already listens is used, else Docker Compose, else a native process.

Nothing here ever kills a broker that it did not start: `down` acts only on what `up` recorded, and only while
the recorded pid is still the recorded process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.brokers.compose import compose_down, compose_up, engine_answers
from tests.brokers.kind import LOOPBACK_HOSTS, BrokerError, BrokerKind, NothingListensError, host_and_port
from tests.brokers.process import POLL_SECONDS, identity, start_detached, stop_pid

READY_SECONDS = 60.0
FOLDER_VARIABLE = "STREAMFLOW_BROKERS_DIR"


@dataclass(frozen=True, slots=True)
class Shared:
    """A shared broker that answers.

    Attributes:
        url: Where it listens.
        how: `found`, `docker` or `native`.
        detail: What it says about itself.
        started_now: Whether this very call started it.
        log_path: The log of a native one.
    """

    url: str
    how: str
    detail: str
    started_now: bool
    log_path: Path | None = None


@dataclass(frozen=True, slots=True)
class _Record:
    """What `up` writes down for `down`; `pid` and `identity` only for native ones."""

    how: str
    url: str
    pid: int = 0
    identity: str = ""


def up(kind: BrokerKind) -> Shared:
    """Make sure that the broker answers at its URL, starting it if need be.

    Args:
        kind: Which broker.

    Raises:
        BrokerError: Something else listens there, or the broker could not be started.
    """
    url = kind.url
    try:
        detail = kind.probe(url)
    except NothingListensError as nobody:
        if host_and_port(url, 0)[0] not in LOOPBACK_HOSTS:
            raise BrokerError(f"{nobody}; brokers are started only on this machine") from nobody
    else:
        record = _read_record(kind)
        how = record.how if record and record.url == url else "found"
        return Shared(url, how, detail, started_now=False, log_path=_log_path(kind) if how == "native" else None)
    if engine_answers():
        return _up_docker(kind, url)
    return _up_native(kind, url)


def down(kind: BrokerKind) -> str:
    """Stop what `up` started, and return a line that says what happened."""
    record = _read_record(kind)
    if record is None:
        return "not started from here, left alone"
    if record.how == "docker":
        compose_down(kind)
        said = "container stopped"
    else:
        stopped = stop_pid(record.pid, record.identity)
        said = f"stopped (pid {record.pid})" if stopped else f"had already ended (pid {record.pid})"
    shutil.rmtree(_folder(kind), ignore_errors=True)
    return said


def status(kind: BrokerKind) -> tuple[bool, str]:
    """Return whether the broker answers, and a line about it."""
    try:
        detail = kind.probe(kind.url)
    except BrokerError as error:
        return False, str(error)
    record = _read_record(kind)
    origin = "found, not started from here" if record is None else record.how
    log = f", log {_log_path(kind)}" if record is not None and record.how == "native" else ""
    return True, f"{kind.url}: {detail} ({origin}{log})"


@contextlib.contextmanager
def use_broker(kind: BrokerKind) -> Iterator[Shared]:
    """Yield the shared broker; stop it at the end only if it was started here and now."""
    shared = up(kind)
    try:
        yield shared
    finally:
        if shared.started_now:
            down(kind)


def _up_docker(kind: BrokerKind, url: str) -> Shared:
    _write_record(kind, _Record("docker", url))
    try:
        compose_up(kind)
        return Shared(url, "docker", _wait_until_ready(kind, url), started_now=True)
    except BaseException:
        with contextlib.suppress(BrokerError):
            down(kind)
        raise


def _up_native(kind: BrokerKind, url: str) -> Shared:
    folder = _folder(kind)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    process = start_detached(kind.native_command(url, folder), _log_path(kind))
    started_as = identity(process.pid)
    try:
        if started_as is not None:
            _write_record(kind, _Record("native", url, process.pid, started_as))
        detail = _wait_until_ready(kind, url, has_ended=lambda: process.poll() is not None)
    except BaseException:
        process.kill()
        process.wait()
        (folder / "record.json").unlink(missing_ok=True)
        raise
    # It goes on without us; told so, Python does not warn about a child that was not waited for.
    process.returncode = 0
    return Shared(url, "native", detail, started_now=True, log_path=_log_path(kind))


def _wait_until_ready(kind: BrokerKind, url: str, has_ended: Callable[[], bool] = lambda: False) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        if has_ended():
            raise BrokerError(f"{kind.name} ended before it was ready; its log: {_log_path(kind)}")
        try:
            return kind.probe(url)
        except BrokerError as error:
            if time.monotonic() > deadline:
                raise BrokerError(f"{kind.name} is not ready after {READY_SECONDS:.0f} s: {error}") from error
            time.sleep(POLL_SECONDS)


def _folder(kind: BrokerKind) -> Path:
    base = os.environ.get(FOLDER_VARIABLE) or f"{tempfile.gettempdir()}/streamflow-brokers-{os.getuid()}"
    return Path(base) / kind.name


def _log_path(kind: BrokerKind) -> Path:
    return _folder(kind) / f"{kind.name}.log"


def _write_record(kind: BrokerKind, record: _Record) -> None:
    folder = _folder(kind)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "record.json").write_text(json.dumps(asdict(record)))


def _read_record(kind: BrokerKind) -> _Record | None:
    try:
        return _Record(**json.loads((_folder(kind) / "record.json").read_text()))
    except FileNotFoundError:
        return None
