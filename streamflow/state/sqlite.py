"""The SQLite store: one file, one writable connection, one function per transaction."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from streamflow.batch import Chunk, DeadLetter, Progress, Taken
from streamflow.errors import CheckpointError, CorruptStateError, Fenced, StateError
from streamflow.state import commit as writing
from streamflow.state.claim import StoreOptions, claim, verify
from streamflow.state.dead import LISTED_MAX, StoredLetter, delete_dead, mark_requeued, read_dead, write_dead
from streamflow.state.executor import Executor, ThreadExecutor
from streamflow.state.fold import Folder
from streamflow.state.ledger import Held, Ledger
from streamflow.state.lookup import found, listing, lookup
from streamflow.state.opening import (
    as_checkpoint_error,
    as_state_error,
    is_passing,
    naming,
    reading,
    transaction,
)
from streamflow.state.recovery import load_entries, read_checkpoint, read_chunks
from streamflow.state.rows import chunk_crc
from streamflow.state.store import Checkpoint, Epoch, Install, Manifest
from streamflow.state.tally import Tally
from streamflow.state.wal import WalKeeper
from streamflow.state.witness import Seen

__all__ = ["SqliteStore", "StoreOptions"]

log = logging.getLogger("streamflow.state")


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
        self._place = self._options.place(self.path, self._options.clock.monotonic)
        self._witness = self._place.witness
        self._wal = WalKeeper(self.path)
        self._ledger = Ledger()
        self._folder = Folder(self._ledger, self._options.clock.monotonic)
        self._connection: sqlite3.Connection | None = None
        self._broken = ""
        self._life = "new"
        self._reading = asyncio.Lock()

    @property
    def fold_debt_bytes(self) -> int:
        """Bytes of committed deltas that are not folded into rows yet."""
        return self._ledger.debt_bytes

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
        try:
            self._connection = self._place.connect(force=self._options.force_place)
        except sqlite3.Error as error:
            raise as_state_error(error, self.path) from error
        except OSError as error:
            raise StateError(f"{self.path} cannot be opened: {error}", hint="Check owner and mode.") from error
        return self._connection

    def _open(self, manifest: Manifest) -> Checkpoint:
        connection, ledger = self._open_connection(), self._ledger
        with reading(self.path):
            verify(connection, self.path, self._place, accept_missing=manifest.accept_missing)
            with transaction(connection):
                # one that was let go meanwhile must not take the store from its successor
                self._open_connection()
                claim(connection, self.path, manifest, ledger, self._options)
                checkpoint = read_checkpoint(connection, ledger)
                self._options.point("store.claimed")
        self._tell_witness()
        return checkpoint

    async def load(self, install: Install, done: Callable[[], None] = lambda: None) -> None:
        """Hands every live entry to ``install``, and at the end calls ``done``, on the store's thread."""
        await self._executor.run(self._load, install, done)

    def _load(self, install: Install, done: Callable[[], None]) -> None:
        with reading(self.path, rubbish=()):
            # what somebody else has written since the opening is no damage
            writing.check_generation(self._open_connection(), self._ledger)
            load_entries(self._open_connection(), self._ledger, install)
            done()

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
        writing.check_deltas(ledger, epoch.deltas)
        epoch = replace(epoch, deltas=list(writing.joined(epoch.deltas)))
        tally = Tally(ledger)
        self._options.point("commit.begun")
        self._write(
            f"the commit of epoch {epoch.epoch}",
            lambda: writing.write_epoch(connection, tally, epoch, self._options.clock.now_ms()),
            "commit.written",
        )
        writing.note_epoch(ledger, tally, epoch)
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
        tally = Tally(ledger)

        def write() -> None:
            writing.check_generation(connection, ledger)
            writing.write_taken(connection, tally, ledger.epoch, taken)
            writing.write_progress(connection, tally, progress)
            tally.write(connection, notes=1)

        self._write("writing progress", write)
        tally.apply()
        self._tell_witness()
        ledger.adopt({sink: known.next_seq for sink, known in progress.items()})

    async def spill(self, chunks: Sequence[Chunk]) -> None:
        """Writes outbox chunks of the epoch in the making; they count once that epoch is committed."""
        if chunks:
            await self._executor.run(self._spill, chunks)

    def _spill(self, chunks: Sequence[Chunk]) -> None:
        ledger, connection = self._ledger, self._open_connection()
        tally = Tally(ledger)

        def write() -> None:
            writing.check_generation(connection, ledger)
            writing.write_chunks(connection, tally, chunks)
            tally.write(connection)

        self._write("spilling outputs", write)
        tally.apply()
        ledger.spilled_bytes += sum(len(chunk.payload) for chunk in chunks)
        self._options.point("spill.done")

    async def edit_dead(self, drop: Sequence[int], requeue: Mapping[int, bytes]) -> None:
        """Drops dead letters, or marks some to be taken in again; all of it or nothing."""
        await self._executor.run(self._edit_dead, drop, requeue)

    def _edit_dead(self, drop: Sequence[int], requeue: Mapping[int, bytes]) -> None:
        ledger, connection = self._ledger, self._open_connection()
        tally = Tally(ledger)

        def write() -> None:
            writing.check_generation(connection, ledger)
            delete_dead(connection, tally, drop)
            mark_requeued(connection, tally, requeue)
            tally.write(connection, notes=1)

        self._write("changing dead letters", write)
        tally.apply()
        self._tell_witness()

    async def bury(self, chunk: Chunk, letter: DeadLetter | None) -> None:
        """Replaces a chunk of the outbox, and keeps what it has lost."""
        await self._executor.run(self._bury, chunk, letter)

    def _bury(self, chunk: Chunk, letter: DeadLetter | None) -> None:
        ledger, connection = self._ledger, self._open_connection()
        tally = Tally(ledger)
        held = Held(chunk.first_seq, chunk.count, chunk_crc(chunk))

        def write() -> None:
            writing.check_generation(connection, ledger)
            writing.replace_chunk(connection, tally, chunk)
            write_dead(connection, tally, 0, self._options.clock.now_ms(), [] if letter is None else [letter])
            tally.write(connection, notes=1)

        self._write("giving up a record", write)
        tally.apply()
        ledger.replace_chunk(chunk.sink, held)
        self._tell_witness()

    async def dead_letters(
        self, ids: Sequence[int] = (), *, above: int = 0, most: int = LISTED_MAX
    ) -> Sequence[StoredLetter]:
        """Reads dead letters, oldest first: all, some by their ids, or those above a number."""
        return await self._executor.run(self._dead_letters, ids, above, most)

    def _dead_letters(self, ids: Sequence[int], above: int, most: int) -> Sequence[StoredLetter]:
        with reading(self.path):
            return read_dead(self._open_connection(), ids=ids, above=above, most=most)

    async def chunks(self, sink: str, first_seq: int, count: int) -> Sequence[Chunk]:
        """Reads outbox chunks back, on the store's thread."""
        return await self._executor.run(self._chunks, sink, first_seq, count)

    def _chunks(self, sink: str, first_seq: int, count: int) -> Sequence[Chunk]:
        with reading(self.path):
            connection = self._open_connection()
            found = list(read_chunks(connection, sink, first_seq, count))
            # who has taken over deletes what it publishes: its rows are not lost, they are not ours any more
            writing.check_generation(connection, self._ledger)
            return found

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
        if self._life == "abandoned":
            return  # its successor tells more
        try:
            ledger = self._ledger
            self._witness.write(Seen(ledger.incarnation, ledger.epoch, ledger.content.notes))
        except OSError as error:
            # the epoch itself is durable, so this write does not fail; the next one does
            log.error("the witness of %s cannot be written: %s", self.path, error)
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
            self._folder = Folder(self._ledger, self._options.clock.monotonic)
            raise self._failed(error, "folding") from error
        except CorruptStateError as error:
            self._broken = error.message
            raise naming(error, self.path) from error

    # -- reading -------------------------------------------------------------------------------------------------------

    async def get(self, table: str, key: bytes) -> bytes | None:
        """Reads one committed plain value by its key's JSON; None if absent, or expired at the last epoch.

        Costs one look-up in the rows, and a search through the bytes of the table's unfolded deltas, newest first,
        by SQLite on the reader's thread: about 1 ms per MiB of `fold_debt_bytes`.
        """
        step = self._ledger.step(table)
        # only the connecting of the reader must not happen twice at once
        async with self._reading:
            rows = await self._executor.read(self._place.connect_readable, *lookup(step, key))
        return found(rows, self._ledger.now_ms)

    async def items(self, table: str, most: int) -> list[tuple[bytes, bytes]]:
        """Reads the first committed plain values, as of one commit: key and value as JSON, by the keys' text.

        Costs a walk through the whole table, by SQLite on the reader's thread.
        """
        step = self._ledger.step(table)
        async with self._reading:
            query = listing(step, self._ledger.now_ms, most)
            rows = await self._executor.read(self._place.connect_readable, *query)
        return [(key, value) for key, value in rows]

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
            self._place.release()

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
        self._place.release()

    def _forget(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._place.drop(connection)
        self._witness.close()

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None or self._life == "abandoned":
            raise StateError(f"{self.path} is not open", hint="Open the store first.")
        return self._connection
