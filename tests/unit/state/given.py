"""What the store's tests start from: a manifest, stores, epochs and a model of what they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamflow.batch import Chunk, Position, Progress, Taken
from streamflow.state.executor import Executor, InlineExecutor, ThreadExecutor
from streamflow.state.sqlite import SqliteStore, StoreOptions
from streamflow.state.store import Delta, Entry, Epoch, Manifest, TableShape

VALUE = TableShape("value", "Account(spent: int)", "str")
MANIFEST = Manifest(
    "orders",
    "print-1",
    tables={"accounts": VALUE, "panes": TableShape("map", "int", "str")},
    sources=("orders", "queue"),
    sinks=("alerts",),
)
EXECUTORS: dict[str, type[Executor]] = {"inline": InlineExecutor, "thread": ThreadExecutor}


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def delta(table: str, *entries: Sequence[Any]) -> Delta:
    """A delta of ``(key, sub, value, expires_ms)`` or ``(key, sub)`` in plain Python."""
    rows = [[*entry, None] if len(entry) == 3 else list(entry) for entry in entries]
    return Delta(table, (0, 255), len(rows), compact(rows))


def raw_delta(table: str, *entries: bytes) -> Delta:
    return Delta(table, (0, 255), len(entries), b"[" + b",".join(entries) + b"]")


def chunk(first_seq: int, epoch: int, count: int = 1, index: int = 0) -> Chunk:
    return Chunk("alerts", epoch, index, first_seq, count, b"frame" * count)


def epoch(number: int, **fields: Any) -> Epoch:
    return Epoch(number, number * 10, number * 1000, **fields)


def full_epoch(number: int) -> Epoch:
    """An epoch that writes into every table, all of it telling the epoch's number."""
    return epoch(
        number,
        taken={
            "orders": Taken({"p0": Position(number, "made-1"), "p1": Position(2 * number, "made-1")}),
            "queue": Taken(ids=[f"id-{number}-{n}" for n in range(3)]),
        },
        journal=b"journal %d" % number,
        pushed=b"pushed %d" % number,
        deltas=[
            delta("accounts", *((f"key {n}", "", {"spent": number})[:3] for n in range(8))),
            delta("panes", ("ann", f"w{number}", number), ("ann", f"w{number - 1}")),
        ],
        chunks=[chunk(number, number)],
        progress={"alerts": Progress(number - 1, number, b"cursor %d" % (number - 1))} if number > 1 else {},
        digest=lambda: b"digest %d" % number,
        records=number,
    )


def new_store(path: Path, kind: str = "inline", options: StoreOptions | None = None) -> SqliteStore:
    return SqliteStore(path, executor=EXECUTORS[kind](), options=options)


@dataclass
class Held:
    """What `Store.load` handed over, applied: table -> (key, sub) -> entry."""

    tables: dict[str, dict[tuple[bytes, bytes], Entry]] = field(default_factory=dict)

    def install(self, table: str, entries: Sequence[Entry]) -> None:
        held = self.tables.setdefault(table, {})
        for entry in entries:
            assert isinstance(entry, Entry)
            if entry.value is None:
                held.pop((entry.key, entry.sub), None)
            else:
                held[entry.key, entry.sub] = entry

    def plain(self, table: str) -> dict[Any, Any]:
        """A table in plain Python: key -> value, or (key, sub) -> value."""
        found = {}
        for (key, sub), entry in self.tables.get(table, {}).items():
            address = json.loads(key) if sub == b'""' else (json.loads(key), json.loads(sub))
            found[address] = json.loads(entry.value or b"null")
        return found


async def loaded(store: SqliteStore) -> Held:
    held = Held()
    await store.load(held.install)
    return held


async def fold_all(store: SqliteStore) -> int:
    slices = 0
    while await store.fold():
        slices += 1
        assert slices < 10_000, "the fold has no end"
    return slices


def expected_accounts(number: int) -> Mapping[str, Any]:
    """The table ``accounts`` after `full_epoch` of that number."""
    return {f"key {n}": {"spent": number} for n in range(8)} if number else {}
