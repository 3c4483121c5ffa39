"""A store's life, chosen at random or as a script, and an oracle in plain Python that knows what it must hold.

The oracle follows the contract, not the code: what an epoch, a note, a spill or a new manifest changes.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from streamflow.batch import Chunk, Position, Progress, Taken
from streamflow.state.sqlite import SqliteStore, StoreOptions
from streamflow.state.store import Checkpoint, Delta, Epoch, Manifest, TableShape
from tests.unit.state.given import Held, delta, loaded, new_store

FLOW: Final = Manifest(
    "orders",
    "print-1",
    tables={
        "accounts": TableShape("value", "Account(spent: int)", "str"),
        "panes": TableShape("map", "int", "str"),
        "scratch": TableShape("value", "int", "str"),
    },
    sources=("orders", "queue"),
    sinks=("alerts", "audit"),
)
WITHOUT_SCRATCH: Final = dataclasses.replace(
    FLOW, tables={name: FLOW.tables[name] for name in ("accounts", "panes")}, drop={"scratch"}
)
NOTHING: Final = Progress(0, 1)

Tables = Mapping[str, Mapping[tuple[bytes, bytes], tuple[bytes | None, int | None]]]


@dataclass(frozen=True)
class Content:
    """All that a store holds at one moment, as the engine would see it after an opening."""

    epoch: int = 0
    number: int = 0
    now_ms: int = 0
    digest: bytes = b""
    positions: Mapping[str, Mapping[str, Position]] = field(default_factory=dict)
    ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)
    pending: Mapping[str, tuple[Chunk, ...]] = field(default_factory=dict)
    tables: Tables = field(default_factory=dict)

    def with_noted(self, taken: Mapping[str, Taken], progress: Mapping[str, Progress]) -> Content:
        """After a note: new positions, new progress, and no chunk that is published whole."""
        positions = {name: dict(held) for name, held in self.positions.items()}
        for name, took in taken.items():
            if took.positions:
                positions[name] = {**positions.get(name, {}), **took.positions}
        known = {**self.progress, **progress}
        pending = {
            sink: left
            for sink, chunks in self.pending.items()
            if (left := tuple(one for one in chunks if one.first_seq + one.count > known.get(sink, NOTHING).next_seq))
        }
        return dataclasses.replace(self, positions=positions, progress=known, pending=pending)

    def with_epoch(self, epoch: Epoch, spilled: list[Chunk]) -> Content:
        """After an epoch, with the chunks that were spilled ahead of it."""
        pending = {sink: list(chunks) for sink, chunks in self.pending.items()}
        for chunk in (*spilled, *epoch.chunks):
            pending.setdefault(chunk.sink, []).append(chunk)
        ids = dict(self.ids)
        for name, took in epoch.taken.items():
            if took.ids:
                ids[name] = (*ids.get(name, ()), *took.ids)
        tables = {name: dict(entries) for name, entries in self.tables.items()}
        for one in epoch.deltas:
            _apply(tables.setdefault(one.table, {}), one)
        moved = dataclasses.replace(
            self,
            epoch=epoch.epoch,
            number=epoch.number,
            now_ms=epoch.now_ms,
            digest=epoch.digest(),
            ids=ids,
            pending={sink: tuple(chunks) for sink, chunks in pending.items()},
            tables={name: entries for name, entries in tables.items() if entries},
        )
        return moved.with_noted(epoch.taken, epoch.progress)

    def without_table(self, name: str) -> Content:
        """After an opening that dropped a table."""
        return dataclasses.replace(self, tables={one: held for one, held in self.tables.items() if one != name})


def _apply(held: dict[tuple[bytes, bytes], tuple[bytes | None, int | None]], one: Delta) -> None:
    for row in json.loads(one.payload):
        address = (json.dumps(row[0]).encode(), json.dumps(row[1]).encode())
        if len(row) == 2:
            held.pop(address, None)
        else:
            held[address] = (json.dumps(row[2], separators=(",", ":")).encode(), row[3])


def content_of(checkpoint: Checkpoint, held: Held) -> Content:
    """What a real store gave at an opening."""
    tables = {
        name: {address: (entry.value, entry.expires_ms) for address, entry in entries.items()}
        for name, entries in held.tables.items()
        if entries
    }
    return Content(
        epoch=checkpoint.epoch,
        number=checkpoint.number,
        now_ms=checkpoint.now_ms,
        digest=checkpoint.digest,
        positions={name: dict(took.positions) for name, took in checkpoint.taken.items() if took.positions},
        ids={name: tuple(took.ids) for name, took in checkpoint.taken.items() if took.ids},
        progress=dict(checkpoint.progress),
        pending={sink: tuple(chunks) for sink, chunks in checkpoint.pending.items() if chunks},
        tables=tables,
    )


async def open_and_read(path: Path, manifest: Manifest = FLOW) -> Content:
    """Opens a file with the real store, reads all of it and lets go of it as a kill would."""
    store = new_store(path)
    try:
        checkpoint = await store.open(manifest)
        return content_of(checkpoint, await loaded(store))
    finally:
        store.abandon()


@dataclass(slots=True)
class Life:
    """One store from its making on, with the oracle beside it.

    Args:
        path: The state file.
        rng: Chooses what happens.
        settle: Called with every store right after it was opened.
        told: Called with ``("begin", content)`` before, and ``("end", content)`` after, whatever changes the content.
    """

    path: Path
    rng: random.Random
    settle: Callable[[SqliteStore], None] = lambda store: None
    told: Callable[[tuple[str, Content]], None] = lambda moment: None
    options: StoreOptions | None = None
    content: Content = field(default_factory=Content)
    under_way: Content | None = None
    manifest: Manifest = FLOW
    store: SqliteStore | None = None
    spilled: list[Chunk] = field(default_factory=list)
    next_seq: dict[str, int] = field(default_factory=dict)
    openings: int = 0

    async def _change(self, after: Content, work: Callable[[], Awaitable[Any]]) -> Any:
        self.under_way = after
        self.told(("begin", after))
        result = await work()
        self.content, self.under_way = after, None
        self.told(("end", after))
        return result

    def may_hold(self) -> list[Content]:
        """What an opening may find now."""
        return [self.content] if self.under_way is None else [self.content, self.under_way]

    async def open(self, manifest: Manifest | None = None) -> None:
        """Opens the store, perhaps with another flow; it must give exactly what the oracle knows."""
        self.manifest = manifest or self.manifest
        after = self.content if "scratch" in self.manifest.tables else self.content.without_table("scratch")
        self.store = store = new_store(self.path, options=self.options)
        checkpoint = await self._change(after, lambda: store.open(self.manifest))
        self.openings += 1
        self.settle(store)
        assert checkpoint.generation == self.openings
        held = await loaded(store)
        assert content_of(checkpoint, held) == after
        self.spilled = []
        self.next_seq = {sink: known.next_seq for sink, known in after.progress.items()}
        for sink, chunks in after.pending.items():
            self.next_seq[sink] = chunks[-1].first_seq + chunks[-1].count

    async def take_over(self) -> None:
        """Goes on with a file as it is: what it holds now is right."""
        store = new_store(self.path, options=self.options)
        checkpoint = await store.open(self.manifest)
        self.content, self.under_way = content_of(checkpoint, await loaded(store)), None
        self.openings = checkpoint.generation
        store.abandon()
        await self.open()

    def _open_store(self) -> SqliteStore:
        assert self.store is not None
        return self.store

    async def commit(self) -> None:
        number = self.content.epoch + 1
        epoch = Epoch(
            number,
            self.content.number + self.rng.randrange(1, 4),
            self.content.now_ms + self.rng.randrange(1000),
            taken=self._taken(number),
            journal=b"journal %d" % number,
            pushed=b"pushed %d" % number if self.rng.random() < 0.2 else b"",
            deltas=self._deltas(),
            chunks=[self._chunk(number) for _ in range(self.rng.choice([0, 1, 1, 2]))],
            progress=self._progress() if self.rng.random() < 0.6 else {},
            digest=lambda: b"digest %d" % number,
            records=number,
        )
        after = self.content.with_epoch(epoch, self.spilled)
        await self._change(after, lambda: self._open_store().commit(epoch))
        self.spilled = []

    async def spill(self) -> None:
        chunks = [self._chunk(self.content.epoch + 1, len(self.spilled))]
        await self._change(self.content, lambda: self._open_store().spill(chunks))
        self.spilled += chunks

    async def note(self) -> None:
        taken = {}
        if self.rng.random() < 0.5:
            partition = f"p{self.rng.randrange(9)}"
            at = self.content.positions.get("orders", {}).get(partition, Position(0)).at + self.rng.randrange(3)
            taken = {"orders": Taken({partition: Position(at, "made-1")})}
        progress = self._progress()
        after = self.content.with_noted(taken, progress)
        await self._change(after, lambda: self._open_store().note(taken, progress))

    async def fold(self, slices: int = 1_000, *, idle: bool = True) -> None:
        for _ in range(slices):
            if not await self._change(self.content, lambda: self._open_store().fold(idle=idle)):
                return

    async def close(self) -> None:
        await self._change(self.content, self._open_store().close)

    def kill(self) -> None:
        self._open_store().abandon()

    async def step(self) -> None:
        """One thing, chosen at random."""
        what = self.rng.choices(
            ["commit", "note", "spill", "slice", "fold", "close", "kill"], [50, 12, 8, 16, 6, 4, 4]
        )[0]
        if what in ("close", "kill"):
            if what == "close":
                await self.close()
            else:
                self.kill()
            await self.open(self.rng.choice([FLOW, FLOW, FLOW, WITHOUT_SCRATCH]))
        elif what == "slice":
            await self.fold(1, idle=self.rng.random() < 0.7)
        else:
            await {"commit": self.commit, "note": self.note, "spill": self.spill, "fold": self.fold}[what]()

    # -- what an epoch is made of ------------------------------------------------------------------------------------

    def _taken(self, number: int) -> dict[str, Taken]:
        taken = {}
        if self.rng.random() < 0.8:
            chosen = self.rng.sample(range(9), self.rng.randrange(1, 4))
            taken["orders"] = Taken({f"p{n}": Position(number * 10 + n, "made-1") for n in chosen})
        if self.rng.random() < 0.6:
            taken["queue"] = Taken(ids=[f"id-{number}-{n}" for n in range(self.rng.randrange(1, 6))])
        return taken

    def _deltas(self) -> list[Delta]:
        found = []
        for table in self.rng.sample(sorted(self.manifest.tables), self.rng.randrange(len(self.manifest.tables) + 1)):
            rows: dict[Any, list[Any]] = {}
            for _ in range(self.rng.randrange(1, 12)):
                sub = f"w{self.rng.randrange(5)}" if table == "panes" else ""
                address = (f"key {self.rng.randrange(40)}", sub)
                gone = self.rng.random() < 0.2
                rows[address] = (
                    [*address] if gone else [*address, self._value(), self.rng.choice([None, None, 1 << 40])]
                )
            found.append(delta(table, *rows.values()))
        return found

    def _value(self) -> Any:
        size = self.rng.choices([8, 300, 3000, 12_000], [80, 14, 5, 1])[0]
        return {"spent": self.rng.randrange(10**6), "note": f"{self.rng.getrandbits(4 * size):x}"}

    def _chunk(self, epoch: int, index: int = 0) -> Chunk:
        sink = self.rng.choice(["alerts", "audit"])
        first, count = self.next_seq.get(sink, 1), self.rng.randrange(1, 4)
        self.next_seq[sink] = first + count
        return Chunk(sink, epoch, index, first, count, self.rng.randbytes(self.rng.choice([40, 400, 6000])))

    def _progress(self) -> dict[str, Progress]:
        """What a sink could have published by now: committed chunks, or nothing yet."""
        sink = self.rng.choice(["alerts", "audit"])
        ends = [chunk.first_seq + chunk.count for chunk in self.content.pending.get(sink, ())]
        known = self.content.progress.get(sink, NOTHING)
        reached = self.rng.choice([known.next_seq, *ends])
        return {sink: Progress(self.content.epoch, reached, b"cursor %d" % crc32(b"%d" % reached))}
