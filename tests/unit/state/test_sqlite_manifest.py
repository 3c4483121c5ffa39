"""A flow that changed against a state file that did not: what is refused, and what each way out does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from streamflow.batch import Position, Progress, Taken
from streamflow.errors import IncompatibleStateError
from streamflow.state.store import Checkpoint, Manifest, TableShape
from tests.unit.state.given import MANIFEST, VALUE, chunk, delta, epoch, fold_all, full_epoch, loaded, new_store

TIMERS = TableShape("timers", "int", "str")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "orders.db"


@pytest.fixture(params=["rows", "deltas"])
async def stored(request, path):
    """A store with two epochs, whose state is folded or not."""
    store = new_store(path)
    await store.open(replace(MANIFEST, tables={**MANIFEST.tables, "accounts@timers": TIMERS}))
    await store.commit(full_epoch(1))
    await store.commit(epoch(2, deltas=[delta("accounts@timers", ("ann", "quiet", 5))]))
    if request.param == "rows":
        await fold_all(store)
    await store.close()
    return path


BASE = replace(MANIFEST, tables={**MANIFEST.tables, "accounts@timers": TIMERS})


def with_tables(**tables: TableShape) -> Manifest:
    return replace(BASE, tables=tables)


async def refused(path: Path, manifest: Manifest, words: str, hint: str) -> None:
    store = new_store(path)
    with pytest.raises(IncompatibleStateError, match=words) as caught:
        await store.open(manifest)
    assert hint in caught.value.hint
    # nothing was changed: the flow as it was still opens, in the next generation
    checkpoint, tables = await opened(path, BASE)
    assert checkpoint.generation == 2
    assert {name for name, entries in tables.items() if entries} == {"accounts", "panes", "accounts@timers"}


async def opened(path: Path, manifest: Manifest) -> tuple[Checkpoint, dict[str, dict[object, object]]]:
    store = new_store(path)
    checkpoint = await store.open(manifest)
    held = await loaded(store)
    await store.close()
    return checkpoint, {table: held.plain(table) for table in held.tables}


async def test_the_same_flow_opens(stored):
    _, tables = await opened(stored, replace(BASE, fingerprint="stateless steps changed"))
    assert len(tables["accounts"]) == 8
    assert tables["accounts@timers"] == {("ann", "quiet"): 5}


async def test_another_flows_file_is_refused(stored):
    await refused(stored, replace(BASE, flow="payments"), "flow 'orders', not to 'payments'", "state file of its own")


async def test_a_removed_step_is_refused_and_can_be_dropped(stored):
    less = with_tables(panes=BASE.tables["panes"])
    await refused(stored, less, "stateful step 'accounts' is in the state file", 'Flow(..., drop=["accounts"])')
    _, tables = await opened(stored, replace(less, drop={"accounts"}))
    assert set(tables) == {"panes"}
    # the permission may stay in the flow: what comes back is new
    _, tables = await opened(stored, replace(BASE, drop={"accounts"}))
    assert set(tables) == {"panes"}


async def test_drop_does_not_touch_what_the_flow_still_has(stored):
    _, tables = await opened(stored, replace(BASE, drop={"accounts", "panes", "orders", "alerts"}))
    assert len(tables["accounts"]) == 8


async def test_a_renamed_step_keeps_state_and_timers(stored):
    new = with_tables(**{"people": VALUE, "people@timers": TIMERS, "panes": BASE.tables["panes"]})
    await refused(stored, new, "stateful step 'accounts'", 'renamed={"accounts": "new"}')
    for _ in range(2):
        _, tables = await opened(stored, replace(new, renamed={"accounts": "people"}))
        assert len(tables["people"]) == 8
        assert tables["people@timers"] == {("ann", "quiet"): 5}
        assert "accounts" not in tables


async def test_renaming_over_state_is_refused(stored):
    new = with_tables(**{"panes": VALUE, "panes@timers": TIMERS})
    manifest = replace(new, renamed={"accounts": "panes"}, drop={"panes"})
    with pytest.raises(IncompatibleStateError, match="step 'panes' has state of its own"):
        await opened(stored, manifest)


async def test_removed_timers_are_refused_by_the_steps_name(stored):
    less = with_tables(**MANIFEST.tables)
    await refused(stored, less, "stateful step 'accounts'", 'drop=["accounts"]')
    _, tables = await opened(stored, replace(less, drop={"accounts@timers"}))
    assert set(tables) == {"accounts", "panes"}


async def test_a_table_without_entries_may_go(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(epoch(1))
    await store.close()
    await opened(path, replace(MANIFEST, tables={"other": VALUE}))


@pytest.mark.parametrize(
    ("shape", "words", "hint"),
    [
        (replace(VALUE, kind="map"), "kind of state of step 'accounts' changed: it was value, now it is map", "drop="),
        (replace(VALUE, value="Account(x: str)"), "type of state of step 'accounts' changed", "migrate="),
        (replace(VALUE, key="int"), "type of the keys of step 'accounts' changed: it was str, now it is int", "drop="),
        (replace(VALUE, key="int", migrates=True), "type of the keys", "drop="),
    ],
)
async def test_a_changed_type_is_refused_and_can_be_dropped(stored, shape, words, hint):
    new = with_tables(**{**BASE.tables, "accounts": shape})
    await refused(stored, new, words, hint)
    _, tables = await opened(stored, replace(new, drop={"accounts"}))
    assert "accounts" not in tables
    assert tables["accounts@timers"]
    await opened(stored, new)


async def test_an_unknown_key_type_fits_any(stored):
    unknown = with_tables(**{**BASE.tables, "accounts": replace(VALUE, key="")})
    await opened(stored, unknown)
    # what was known once is not forgotten
    await refused_now(stored, with_tables(**{**BASE.tables, "accounts": replace(VALUE, key="int")}))


async def refused_now(path: Path, manifest: Manifest) -> None:
    with pytest.raises(IncompatibleStateError):
        await new_store(path).open(manifest)


async def test_a_migration_is_done_when_its_values_are_committed(stored):
    new = with_tables(**{**BASE.tables, "accounts": TableShape("value", "Account(x: str)", "str", migrates=True)})
    without = with_tables(**{**BASE.tables, "accounts": TableShape("value", "Account(x: str)", "str")})
    # killed before the migrated values were committed: the old values are still there, and said to be
    checkpoint, _ = await opened(stored, new)
    assert checkpoint.retyped == {"accounts"}
    await refused_now(stored, without)
    store = new_store(stored)
    assert (await store.open(new)).retyped == {"accounts"}
    await store.commit(epoch(3, deltas=[delta("panes", ("a", "b", 1))]))
    await refused_now_after(store, stored, without)
    store = new_store(stored)
    assert (await store.open(new)).retyped == {"accounts"}
    await store.commit(epoch(4, deltas=[delta("accounts", *((f"key {n}", "", {"x": "1"}) for n in range(8)))]))
    await store.close()
    checkpoint, tables = await opened(stored, without)
    assert checkpoint.retyped == frozenset()
    assert tables["accounts"]["key 1"] == {"x": "1"}


async def refused_now_after(store, path: Path, manifest: Manifest) -> None:
    await store.close()
    await refused_now(path, manifest)


async def test_a_removed_source_is_refused_dropped_or_renamed(stored):
    less = replace(BASE, sources=("queue",))
    await refused(stored, less, "source 'orders' is in the state file", 'drop=["orders"]')
    new = replace(BASE, sources=("queue2", "orders2"), renamed={"orders": "orders2", "queue": "queue2"})
    checkpoint, _ = await opened(stored, new)
    assert checkpoint.taken["orders2"] == Taken({"p0": Position(1, "made-1"), "p1": Position(2, "made-1")})
    assert checkpoint.taken["queue2"].ids == ["id-1-0", "id-1-1", "id-1-2"]
    checkpoint, _ = await opened(stored, replace(new, sources=("queue2",), drop={"orders2"}))
    assert set(checkpoint.taken) == {"queue2"}


async def test_a_sink_with_outputs_to_publish_may_not_go(stored):
    less = replace(BASE, sinks=())
    await refused(stored, less, "sink 'alerts' is gone", 'drop=["alerts"]')
    await refused_now(stored, replace(less, sinks=("new",), renamed={"alerts": "new"}))
    checkpoint, _ = await opened(stored, replace(less, drop={"alerts"}))
    assert checkpoint.pending == {}
    checkpoint, _ = await opened(stored, BASE)
    assert checkpoint.pending == {}


async def test_a_sink_that_has_published_all_may_go_and_come_back(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(epoch(1, chunks=[chunk(1, 1)]))
    await store.note({}, {"alerts": Progress(1, 2, b"c")})
    await store.close()
    await opened(path, replace(MANIFEST, sinks=()))
    checkpoint, _ = await opened(path, MANIFEST)
    assert checkpoint.progress == {"alerts": Progress(1, 2, b"c")}
    # under another name it has another fence: it starts anew
    renamed = replace(MANIFEST, sinks=("new",), renamed={"alerts": "new"})
    checkpoint, _ = await opened(path, renamed)
    assert checkpoint.progress == {}


async def test_new_parts_are_fine(stored):
    more = replace(
        BASE,
        tables={**BASE.tables, "third": VALUE},
        sources=(*BASE.sources, "more"),
        sinks=(*BASE.sinks, "more"),
    )
    await opened(stored, more)
