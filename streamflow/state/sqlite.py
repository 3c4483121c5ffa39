"""The SQLite store: one file, one writable connection, one function per transaction."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from streamflow.batch import Chunk, Progress, Taken
from streamflow.clock import Clock, SystemClock
from streamflow.errors import CheckpointError, EpochWentBack, Fenced, StateError
from streamflow.keys import HASH_NAME, PLAIN_SUB
from streamflow.state import commit as writing
from streamflow.state.executor import Executor, ThreadExecutor
from streamflow.state.fold import Folder
from streamflow.state.ledger import Ledger
from streamflow.state.lock import FileLock, check_place
from streamflow.state.manifest import apply_manifest
from streamflow.state.opening import (
    as_checkpoint_error,
    as_state_error,
    check_integrity,
    connect_readable,
    connect_writable,
    drop_connection,
    is_new,
    is_passing,
    make_durable,
    make_schema,
    transaction,
    value_of,
)
from streamflow.state.recovery import load_entries, read_checkpoint
from streamflow.state.rows import Point, text
from streamflow.state.store import Checkpoint, Epoch, Install, Manifest
from streamflow.state.views import make_views
from streamflow.state.wal import WalKeeper
from streamflow.state.witness import Witness, read_witness

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("streamflow.state")


def _new_incarnation() -> str:
    return secrets.token_hex(6)


def _no_point(name: str) -> None:
    """Production has no crash points."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What a store is given besides its path.

    Args:
        clock: Tells when an epoch was committed.
        force_place: Take a network file system all the same.
        point: Called at ``commit.begun``, ``commit.written`` (before COMMIT), ``commit.done`` (before the witness),
            ``spill.done`` and ``fold.written``; simulation raises there.
        new_incarnation: Makes the id of a new store.
    """

    clock: Clock = field(default_factory=SystemClock)
    force_place: bool = False
    point: Point = _no_point
    new_incarnation: Callable[[], str] = _new_incarnation


class SqliteStore:
    """A shard's state file.

    GUARANTEE: what `commit` returned from is on the disk, whole, and found by the next open; an instance that was
    replaced cannot write.

    BOUND: deltas wait for the fold, of which `fold_debt_bytes` tells; the WAL stays under `wal.WAL_BYTES_MAX`.

    Args:
        path: The state file; made if it is missing.
        executor: Where its functions run; a thread of its own by default.
        options: All else.
    """

    def __init__(
        self, path: str | Path, *, executor: Executor | None = None, options: StoreOptions | None = None
    ) -> None:
        self.path = Path(path)
        self._options = options or StoreOptions()
        self._executor: Executor = executor or ThreadExecutor()
        self._lock = FileLock(self._beside(".lock"))
        self._witness = Witness(self._beside(".epoch"), self._options.clock.monotonic)
        self._wal = WalKeeper(self.path)
        self._ledger = Ledger()
        self._folder = Folder(self._ledger)
        self._connection: sqlite3.Connection | None = None
        self._broken = ""
        self._life = "new"
        self._reading = asyncio.Lock()

    @property
    def fold_debt_bytes(self) -> int:
        """Bytes of committed deltas that are not folded into rows yet."""
        return self._ledger.debt_bytes

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    # -- opening -----------------------------------------------------------------------------------------------------

    async def open(self, manifest: Manifest) -> Checkpoint:
        """Locks, opens, verifies and claims the store; on an error everything is let go, and nothing was changed."""
        assert self._life == "new", "a store object is opened once"
        self._life = "open"
        try:
            await self._executor.start(self._connect)
            return await self._executor.run(self._open, manifest)
        except BaseException:
            self.abandon()
            raise

    def _connect(self) -> sqlite3.Connection:
        check_place(self.path, force=self._options.force_place)
        self._lock.acquire()
        try:
            if not self.path.exists() or not self.path.stat().st_size:
                self._check_gone()
            self._connection = connect_writable(self.path)
        except sqlite3.Error as error:
            raise as_state_error(error, self.path) from error
        except OSError as error:
            raise StateError(f"{self.path} cannot be opened: {error}", hint="Check owner and mode.") from error
        return self._connection

    def _check_gone(self) -> None:
        seen = read_witness(self._witness.path)
        if seen is not None and seen.epoch > 0:
            raise EpochWentBack(
                f"{self.path} is gone or empty, and its witness says that epoch {seen.epoch} was committed",
                hint="Bring the file back, or run `streamflow reset` to begin anew.",
            )

    def _open(self, manifest: Manifest) -> Checkpoint:
        connection, ledger = self._open_connection(), self._ledger
        try:
            if is_new(connection, self.path):
                self._check_gone()
                make_durable(connection)
            else:
                make_durable(connection)
                clean = value_of(connection, "SELECT value FROM meta WHERE key = 'clean'")
                check_integrity(connection, self.path, thorough=clean != 1)
                self._check_witness(connection, accept_missing=manifest.accept_missing)
            with transaction(connection):
                self._claim(connection, manifest)
            checkpoint = read_checkpoint(connection, ledger)
        except sqlite3.Error as error:
            raise as_state_error(error, self.path) from error
        self._tell_witness()
        return checkpoint

    def _check_witness(self, connection: sqlite3.Connection, *, accept_missing: bool) -> None:
        incarnation = value_of(connection, "SELECT value FROM meta WHERE key = 'incarnation'")
        epoch = value_of(connection, "SELECT coalesce(max(epoch), 0) FROM epoch")
        seen = read_witness(self._witness.path)
        if seen is None or seen.incarnation != incarnation:
            if epoch == 0 and seen is None:
                return
            if not accept_missing:
                what = "is missing or unreadable" if seen is None else "belongs to another store"
                raise EpochWentBack(
                    f"the witness {self._witness.path} {what}, so {self.path} (epoch {epoch}) may be an older copy",
                    hint="Bring the witness back, or start with --accept-missing if you know the store is the newest.",
                )
            self._witness.path.unlink(missing_ok=True)
        elif epoch < seen.epoch:
            raise EpochWentBack(
                f"{self.path} is at epoch {epoch}, and its witness says that epoch {seen.epoch} was committed",
                hint="It is an older copy, or its -wal file is gone: bring the newest back, or run `streamflow reset`.",
            )

    def _claim(self, connection: sqlite3.Connection, manifest: Manifest) -> None:
        """Makes this instance the newest one: the opening transaction."""
        ledger = self._ledger
        if is_new(connection, self.path):
            make_schema(connection)
            writing.write_rows(
                connection,
                "INSERT INTO meta(key, value)",
                "(?, ?)",
                [
                    *(("flow", manifest.flow), ("incarnation", self._options.new_incarnation())),
                    *(("generation", 0), ("hash", HASH_NAME), ("fingerprint", manifest.fingerprint)),
                    *(("clean", 0), ("created_ms", self._options.clock.now_ms())),
                ],
            )
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
        connection.execute("UPDATE meta SET value = 0 WHERE key = 'clean'")
        connection.execute("DELETE FROM outbox WHERE epoch > (SELECT coalesce(max(epoch), 0) FROM epoch)")
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        ledger.generation, ledger.incarnation = meta["generation"], meta["incarnation"]
        apply_manifest(connection, manifest, ledger)
        make_views(connection, ledger.steps, {name: shape.kind for name, shape in manifest.tables.items()})

    async def load(self, install: Install) -> None:
        """Hands every live entry to ``install`` on the store's thread."""
        await self._executor.run(self._load, install)

    def _load(self, install: Install) -> None:
        try:
            load_entries(self._open_connection(), self._ledger, install)
        except sqlite3.Error as error:
            raise as_state_error(error, self.path) from error

    # -- writing -----------------------------------------------------------------------------------------------------

    async def commit(self, epoch: Epoch) -> None:
        """Writes one epoch in one transaction: THE commit point.

        A caller that is cancelled meanwhile does not stop it: the function runs to its end on the store's thread.
        After a CheckpointError that came from the disk it can turn out at the next open that the epoch was stored
        all the same; nothing of it was published, so both are right. This object then refuses to write any more.
        """
        await self._executor.run(self._commit, epoch)

    def _commit(self, epoch: Epoch) -> None:
        ledger, connection = self._ledger, self._open_connection()
        epoch = replace(epoch, deltas=list(writing.joined(epoch.deltas)))
        self._options.point("commit.begun")
        self._write(
            f"the commit of epoch {epoch.epoch}",
            lambda: writing.write_epoch(connection, ledger, epoch, self._options.clock.now_ms()),
            "commit.written",
        )
        writing.note_epoch(ledger, epoch)
        self._options.point("commit.done")
        self._tell_witness()
        try:
            self._wal.after_commit(connection)
        except sqlite3.Error as error:
            # the epoch is durable: the next write is the one to fail
            self._broken = str(error)

    async def note(self, taken: Mapping[str, Taken], progress: Mapping[str, Progress]) -> None:
        """Writes positions and progress without an epoch."""
        assert not any(took.ids for took in taken.values()), "ids belong to an epoch"
        if taken or progress:
            await self._executor.run(self._note, taken, progress)

    def _note(self, taken: Mapping[str, Taken], progress: Mapping[str, Progress]) -> None:
        ledger, connection = self._ledger, self._open_connection()

        def write() -> None:
            writing.check_generation(connection, ledger)
            writing.write_taken(connection, ledger.epoch, taken)
            writing.write_progress(connection, progress)

        self._write("writing progress", write)
        ledger.adopt({sink: known.next_seq for sink, known in progress.items()})

    async def spill(self, chunks: Sequence[Chunk]) -> None:
        """Writes outbox chunks of the epoch in the making; they count once that epoch is committed."""
        if chunks:
            await self._executor.run(self._spill, chunks)

    def _spill(self, chunks: Sequence[Chunk]) -> None:
        ledger, connection = self._ledger, self._open_connection()

        def write() -> None:
            writing.check_generation(connection, ledger)
            writing.write_chunks(connection, ledger, chunks)

        self._write("spilling outputs", write)
        writing.note_chunks(ledger, chunks)
        ledger.spilled_bytes += sum(len(chunk.payload) for chunk in chunks)
        self._options.point("spill.done")

    def _write(self, doing: str, write: Callable[[], None], point: str = "") -> None:
        """Runs one transaction, and refuses to run another once the disk has failed.

        After a failed fsync the pages in memory no longer say what is on the disk: only reopening tells.
        """
        self._check_usable()
        try:
            with transaction(self._open_connection()):
                write()
                if point:
                    self._options.point(point)
        except sqlite3.Error as error:
            raise self._failed(error, doing) from error

    def _failed(self, error: sqlite3.Error, doing: str) -> CheckpointError:
        if not is_passing(error):
            self._broken = str(error)
        return as_checkpoint_error(error, self.path, doing)

    def _check_usable(self) -> None:
        if self._broken:
            raise CheckpointError(
                f"{self.path} is not written to any more since it failed: {self._broken}",
                hint="Start again: the store is verified when it is opened.",
            )

    def _tell_witness(self) -> None:
        try:
            self._witness.write(self._ledger.incarnation, self._ledger.epoch)
        except OSError as error:
            # the epoch itself is durable, so this write does not fail; the next one does
            log.error("the witness %s cannot be written: %s", self._witness.path, error)
            self._broken = str(error)

    # -- between commits -----------------------------------------------------------------------------------------------

    async def fold(self, *, idle: bool = True) -> bool:
        """Merges one slice of deltas into rows, or writes the WAL back; returns False when nothing is left.

        Args:
            idle: Fold everything there is. Otherwise only tables whose deltas outweigh their rows are due, so that
                a key changed by many epochs is written once.
        """
        return await self._executor.run(self._fold, idle=idle)

    def _fold(self, *, idle: bool) -> bool:
        self._check_usable()
        connection = self._open_connection()
        try:
            # a short log first: folding makes it longer
            if self._wal.between_commits(connection, idle=False):
                return True
            if self._folder.slice(connection, idle=idle):
                self._options.point("fold.written")
                return True
            return idle and self._wal.between_commits(connection, idle=True)
        except sqlite3.Error as error:
            self._folder = Folder(self._ledger)
            raise self._failed(error, "folding") from error

    # -- reading -------------------------------------------------------------------------------------------------------

    async def get(self, table: str, key: bytes) -> bytes | None:
        """Reads one committed plain value by its key's JSON; None if absent, or expired at the last epoch.

        Costs one look-up in the rows, and a search through the bytes of the table's unfolded deltas, newest first,
        by SQLite on the reader's thread: about 1 ms per MiB of `fold_debt_bytes`.
        """
        step = self._ledger.step(table)
        # only the connecting of the reader must not happen twice at once
        async with self._reading:
            rows = await self._executor.read(
                lambda: connect_readable(self.path), *_get_query(step, key, self._ledger.now_ms)
            )
        ((entry, value),) = rows
        if entry is None:
            return None if value is None else bytes(value)
        fields = msgspec.json.decode(entry, type=list[msgspec.Raw])
        if len(fields) == 2 or not _visible(bytes(fields[3]), self._ledger.now_ms):
            return None
        return bytes(fields[2])

    # -- the end -------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Marks the store as cleanly stopped, syncs the witness, releases the lock; safe to call twice."""
        if self._life != "open":
            return
        self._life = "closed"
        try:
            await self._executor.run(self._finish)
            if self._broken:
                self._executor.abandon(self._forget)
            else:
                await self._executor.stop()
        finally:
            self._witness.close()
            self._lock.release()

    def _finish(self) -> None:
        if self._broken:
            return
        connection, ledger = self._open_connection(), self._ledger

        def write() -> None:
            writing.check_generation(connection, ledger)
            writing.write_duration(connection, ledger)
            connection.execute("UPDATE meta SET value = 1 WHERE key = 'clean'")

        try:
            self._write("closing", write)
            self._witness.sync()
        except Fenced:
            log.warning("%s was taken over by another process", self.path)
        except (CheckpointError, OSError) as error:
            log.warning("%s could not be closed cleanly: %s", self.path, error)
            self._broken = self._broken or str(error)

    def abandon(self) -> None:
        """Lets go of file and lock without writing anything, as the death of the process would."""
        if self._life != "open":
            return
        self._life = "abandoned"
        self._executor.abandon(self._forget)
        self._lock.release()

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            drop_connection(connection, self.path)
        self._witness.close()

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None or self._life == "abandoned":
            raise StateError(f"{self.path} is not open", hint="Open the store first.")
        return self._connection


def _visible(expires: bytes, now_ms: int) -> bool:
    return expires == b"null" or int(expires) > now_ms


def _get_query(step: int, key: bytes, now_ms: int) -> tuple[str, list[object]]:
    """Newest unfolded entry and row of one key, in one statement: one snapshot, one thread switch."""
    from streamflow.keys import key_group

    address = b"[" + key + b"," + PLAIN_SUB
    found = (
        "SELECT (SELECT CAST(e.value AS BLOB) FROM json_each(d.payload) AS e "
        "WHERE json_extract(e.value, '$[0]', '$[1]') = CAST(?3 AS TEXT) ORDER BY e.key DESC LIMIT 1) AS entry "
        "FROM state_delta AS d WHERE d.step = ?1 AND instr(d.payload, CAST(?2 AS TEXT)) AND entry IS NOT NULL "
        "ORDER BY d.id DESC LIMIT 1"
    )
    row = (
        "SELECT CAST(value AS BLOB) FROM state WHERE key_group = ?4 AND step = ?1 AND key = CAST(?5 AS TEXT) "
        "AND sub = CAST(?6 AS TEXT) AND coalesce(expires_ms > ?7, 1)"
    )
    parameters = [step, address, address + b"]", key_group(key), key, PLAIN_SUB, now_ms]
    return f"SELECT ({found}), ({row})", parameters


def copy_as_found(path: str | Path, to: str | Path) -> None:
    """Copies a store as another process would find it: file, WAL and witness, not the lock. For crash tests.

    Not for a store that another process uses: reading the file drops SQLite's locks of this process.
    """
    source, target = Path(path), Path(to)
    for suffix in ("", "-wal", ".epoch"):
        one = source.with_name(source.name + suffix)
        copy = target.with_name(target.name + suffix)
        if one.exists():
            copy.write_bytes(one.read_bytes())
        else:
            copy.unlink(missing_ok=True)


__all__ = ["SqliteStore", "StoreOptions", "copy_as_found", "text"]
