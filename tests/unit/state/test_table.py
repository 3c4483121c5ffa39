"""Keyed state against a plain dict: deltas, slices, undo, expiry, recovery."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamflow.codecs import JsonCodec
from streamflow.keys import canonical
from streamflow.state.collections import ListState, MapState
from streamflow.state.keyed import Table
from streamflow.state.store import Delta, Entry
from streamflow.state.timers import Timers

TTL_MS = 5


def entries(delta: Delta) -> list[Entry]:
    """What the store makes of a delta's payload."""
    raw = msgspec.json.decode(delta.payload, type=list[list[msgspec.Raw]])
    assert len(raw) == delta.count
    found = []
    for key, sub, *rest in raw:
        value, expires = (bytes(rest[0]), msgspec.json.decode(rest[1])) if rest else (None, None)
        found.append(Entry(bytes(key), bytes(sub), value, expires))
    return found


def drain(table: Table[Any], size: int = 1000) -> list[Entry]:
    found: list[Entry] = []
    while (delta := table.encode(size)) is not None:
        assert 0 < delta.count <= size
        found += entries(delta)
    return found


class TableMachine(RuleBasedStateMachine):
    """Three tables under the same acts, encoded in slices of different size; and the model: a dict of plain dicts."""

    keys = st.sampled_from(["a", "b", "c", "d"])
    ttl: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.tables = [
            Table[dict[str, int]]("t", JsonCodec(dict[str, int]), dict, ttl_ms=self.ttl, key_type=str) for _ in range(3)
        ]
        self.tables[0].in_place = self.tables[2].in_place = True
        self.sizes = (1, 2, 1000)
        self.now = 100
        self.model: dict[str, dict[str, int]] = {}
        self.expires: dict[str, int] = {}
        self.deltas: list[list[Entry]] = [[], [], []]
        self.replayed = [self.fresh() for _ in self.tables]
        self.sealed: tuple[Any, Any] | None = None
        self.before: tuple[Any, Any] | None = None

    def fresh(self) -> Table[dict[str, int]]:
        return Table("t", JsonCodec(dict[str, int]), dict, ttl_ms=self.ttl, key_type=str)

    def view(self, table: Table[dict[str, int]], key: str) -> dict[str, int]:
        return table.get(key) if self.ttl is None else table.live(key, self.now)

    def touch(self, key: str) -> dict[str, int]:
        if self.ttl is not None:
            if self.expires.get(key, self.now + 1) <= self.now:
                self.model.pop(key, None)
            self.expires[key] = self.now + self.ttl
        return self.model.setdefault(key, {})

    @rule(key=keys, field=st.sampled_from("xy"), value=st.integers(0, 9))
    def change_in_place(self, key, field, value):
        self.touch(key)[field] = value
        for table in self.tables:
            self.view(table, key)[field] = value

    @rule(key=keys, value=st.dictionaries(st.sampled_from("xy"), st.integers(0, 9)))
    def put(self, key, value):
        self.touch(key)
        self.model[key] = dict(value)
        for table in self.tables:
            self.view(table, key)
            table.put(key, dict(value))

    @rule(key=keys)
    def delete(self, key):
        self.model.pop(key, None)
        self.expires.pop(key, None)
        for table in self.tables:
            table.delete(key)

    @rule(step=st.integers(1, 4))
    @precondition(lambda self: self.ttl is not None and self.before is None)
    def pass_time(self, step):
        self.now += step
        for key in [key for key, expires in self.expires.items() if expires <= self.now]:
            del self.expires[key], self.model[key]
        for table in self.tables:
            table.expire(self.now)

    @rule()
    @precondition(lambda self: self.before is None)
    def begin(self):
        self.before = copy.deepcopy((self.model, self.expires))
        for table in self.tables:
            table.begin()

    @rule()
    @precondition(lambda self: self.before is not None)
    def keep(self):
        self.before = None
        for table in self.tables:
            table.verify()
            table.keep()

    @rule()
    @precondition(lambda self: self.before is not None)
    def roll_back(self):
        assert self.before is not None
        (self.model, self.expires), self.before = self.before, None
        for table in self.tables:
            table.roll_back()

    @rule()
    @precondition(lambda self: self.before is None and self.sealed is None)
    def seal(self):
        self.sealed = copy.deepcopy((self.model, self.expires))
        for table in self.tables:
            table.seal()

    @rule()
    @precondition(lambda self: self.sealed is not None)
    def encode_a_slice(self):
        done = []
        for at, table in enumerate(self.tables):
            delta = table.encode(self.sizes[at])
            done.append(delta is None)
            self.deltas[at] += entries(delta) if delta is not None else []
        if all(done):
            self.committed()

    @rule()
    @precondition(lambda self: self.sealed is not None)
    def encode_the_rest(self):
        for at, table in enumerate(self.tables):
            self.deltas[at] += drain(table, self.sizes[at])
        self.committed()

    def committed(self) -> None:
        """The deltas of the epoch, replayed, give the model as it was at the seal; however they were sliced."""
        assert self.sealed is not None
        (model, expires), self.sealed = self.sealed, None
        assert self.deltas[0] == self.deltas[1] == self.deltas[2]
        for table, found in zip(self.replayed, self.deltas, strict=True):
            assert len({(entry.key, entry.sub) for entry in found}) == len(found)
            table.install(found)
            assert table.snapshot() == model
            assert self.ttl is None or table.expires == expires
        self.deltas = [[], [], []]

    @rule()
    @precondition(lambda self: self.before is None and self.sealed is None)
    def restart(self):
        """What was committed is installed elsewhere: only what is sealed survives."""
        self.seal()
        self.encode_the_rest()
        self.tables = []
        for replayed in self.replayed:
            table = self.fresh()
            table.install(
                [
                    Entry(canonical(key), b'""', JsonCodec(dict).encode(value), replayed.expires.get(key))
                    for key, value in replayed.snapshot().items()
                ]
            )
            table.installed()
            self.tables.append(table)

    @invariant()
    def is_as_the_model(self):
        for table in self.tables:
            assert table.snapshot() == self.model
            assert len(table) == len(self.model)
            assert len(table._expiring) <= len(self.keys_seen)

    @property
    def keys_seen(self) -> str:
        return "abcd"


class TtlMachine(TableMachine):
    ttl = TTL_MS


TableMachine.TestCase.settings = TtlMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
TestTable = TableMachine.TestCase
TestTableWithTtl = TtlMachine.TestCase


class CollectionMachine(RuleBasedStateMachine):
    """Map and list state and timers against dict, list and dict."""

    owners = st.sampled_from(["a", "b"])
    subs = st.integers(0, 12)

    def __init__(self) -> None:
        super().__init__()
        self.maps = Table[list[int]]("m", JsonCodec(list[int]), subs=True, key_type=str)
        self.lists = Table[list[int]]("l", JsonCodec(list[int]), subs=True, key_type=str)
        self.timers = Timers("s", ["t", "u"], str)
        self.now = 0
        self.model: dict[str, Any] = {
            "map": {"a": {}, "b": {}}, "list": {"a": [], "b": []}, "timers": {}
        }  # fmt: skip
        self.before: Any = None
        self.replay: dict[Any, Entry] = {}

    def tables(self) -> list[Table[Any]]:
        return [self.maps, self.lists, self.timers.table]

    @rule(owner=owners, sub=subs, value=st.integers(0, 9))
    def set_item(self, owner, sub, value):
        self.model["map"][owner][sub] = [value]
        MapState(self.maps, owner)[sub] = [value]

    @rule(owner=owners, sub=subs)
    def change_item(self, owner, sub):
        if sub in self.model["map"][owner]:
            self.model["map"][owner][sub].append(1)
            MapState(self.maps, owner)[sub].append(1)
        else:
            with pytest.raises(KeyError):
                MapState(self.maps, owner)[sub]

    @rule(owner=owners, sub=subs)
    def delete_item(self, owner, sub):
        assert MapState(self.maps, owner).pop(sub, None) == self.model["map"][owner].pop(sub, None)

    @rule(owner=owners)
    def clear_map(self, owner):
        self.model["map"][owner].clear()
        MapState(self.maps, owner).clear()

    @rule(owner=owners, value=st.integers(0, 9), times=st.integers(1, 12))
    def append(self, owner, value, times):
        for n in range(times):
            self.model["list"][owner].append([value + n])
            ListState(self.lists, owner).append([value + n])

    @rule(owner=owners, count=st.integers(0, 4))
    def drop(self, owner, count):
        del self.model["list"][owner][:count]
        ListState(self.lists, owner).drop(count)

    @rule(owner=owners, index=st.integers(-2, 2))
    def change_element(self, owner, index):
        mine = self.model["list"][owner]
        if -len(mine) <= index < len(mine):
            mine[index].append(7)
            ListState(self.lists, owner)[index].append(7)

    @rule(owner=owners, name=st.sampled_from("tu"), due=st.integers(0, 9))
    def set_timer(self, owner, name, due):
        self.model["timers"][owner, name] = self.now + due
        self.timers.set(owner, name, self.now + due)

    @rule(owner=owners, name=st.sampled_from("tu"))
    def cancel_timer(self, owner, name):
        self.model["timers"].pop((owner, name), None)
        self.timers.cancel(owner, name)

    @rule(step=st.integers(0, 5))
    @precondition(lambda self: self.before is None)
    def fire(self, step):
        self.now += step
        due = sorted((at, *timer) for timer, at in self.model["timers"].items() if at <= self.now)
        for _, *timer in due:
            del self.model["timers"][tuple(timer)]
        assert [(at, owner, name) for owner, name, at in self.timers.due(self.now)] == due

    @rule(owner=owners)
    @precondition(lambda self: self.before is None)
    def begin(self, owner):
        self.before = copy.deepcopy(self.model)
        self.maps.begin()
        self.lists.begin()

    @rule(undo=st.booleans())
    @precondition(lambda self: self.before is not None)
    def end(self, undo):
        timers, self.before["timers"] = self.model["timers"], {}
        if undo:
            self.model = self.before
            self.model["timers"] = timers
        for table in (self.maps, self.lists):
            table.roll_back() if undo else table.keep()
        self.before = None

    @rule(size=st.integers(1, 3), touch=st.booleans())
    @precondition(lambda self: self.before is None)
    def commit(self, size, touch):
        for table in self.tables():
            table.seal()
        at_seal = copy.deepcopy(self.model)
        if touch:
            self.append("a", 3, 2)
            self.change_element("a", 0)
            self.set_timer("a", "t", 3)
            self.drop("b", 1)
            for sub in list(self.model["map"]["a"]):
                self.change_item("a", sub)
        for table in self.tables():
            for entry in drain(table, size):
                self.replay[table.name, entry.key, entry.sub] = entry
        maps, lists, timers = self.restored()
        for owner in "ab":
            assert dict(MapState(maps, owner)) == at_seal["map"][owner]
            assert list(ListState(lists, owner)) == at_seal["list"][owner]
        assert {(key, name): at for at, _, name, _, key in timers._heap} == at_seal["timers"]

    def restored(self) -> tuple[Table[Any], Table[Any], Timers]:
        """As after a restart, where rows come in the order of their text."""
        maps = Table[list[int]]("m", JsonCodec(list[int]), subs=True, key_type=str)
        lists = Table[list[int]]("l", JsonCodec(list[int]), subs=True, key_type=str)
        timers = Timers("s", ["t", "u"], str)
        for table in (maps, lists, timers.table):
            table.install([self.replay[at] for at in sorted(self.replay) if at[0] == table.name])
        maps.installed()
        lists.installed()
        timers.installed()
        return maps, lists, timers

    @rule()
    @precondition(lambda self: self.before is None)
    def restart(self):
        self.commit(2, False)
        self.maps, self.lists, self.timers = self.restored()

    @invariant()
    def is_as_the_model(self):
        for owner in "ab":
            mine: MapState[int, list[int]] = MapState(self.maps, owner)
            assert dict(mine) == self.model["map"][owner]
            assert list(mine) == sorted(self.model["map"][owner], key=canonical)
            assert len(mine) == len(self.model["map"][owner])
            assert list(ListState(self.lists, owner)) == self.model["list"][owner]
        assert dict(_pairs(self.timers.table.snapshot())) == self.model["timers"]


def _pairs(found: dict[Any, dict[Any, Any]]) -> list[Any]:
    return [((key, name), at) for key, names in found.items() for name, at in names.items()]


CollectionMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestCollections = CollectionMachine.TestCase
