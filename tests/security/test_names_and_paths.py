"""Names and paths (S10): names are validated, paths stay where they were put, keys are never file names."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, SettingsError, StateError
from streamflow.state.files import backup, destroy
from streamflow.state.lock import check_place
from tests.unit.cli.asserts import assert_refused
from tests.unit.cli.conftest import Project
from tests.unit.state.given import MANIFEST, full_epoch, new_store

EVIL = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "a\0b",
    "a b",
    "a\nb",
    "-rf",
    "$HOME",
    "~",
    "x" * 65,
    "é",
    "*",
]
KEYS = [
    "../../escape",
    "/etc/passwd",
    "a\0b",
    "..",
    "con",
    "x" * 5000,
    "a/b/c",
    "'; DROP TABLE state; --",
    "%2e%2e%2f",
    "\n",
]


@pytest.mark.parametrize("name", EVIL)
def test_names_that_could_be_paths_are_refused(name: str) -> None:
    flow = sf.Flow("good")
    words = flow.source(sf.MemoryTopic("in", value=str))
    keyed = words.key_by(str)
    makers: list[Callable[[], object]] = [
        lambda: sf.Flow(name),
        lambda: flow.source(sf.MemoryTopic("other"), name=name or "."),
        lambda: words.map(str, name=name),
        lambda: keyed.count(name=name),
        lambda: words.dedup(str, name=name),
        lambda: words.to(sf.MemoryTopic("out"), name=name or "."),
        lambda: words.batch(2, within="1s", name=name),
    ]
    for make in makers:
        with pytest.raises(DefinitionError) as caught:
            make()
        assert caught.value.hint


TARGETS = [
    "", ":", ":flow", "a:b:c", "os:system('x')", "os:path.", "..x:flow", "a-b:flow", "/etc/passwd:flow", "x" * 5000,
    "../" * 2000 + "x.py:flow", "a\0b.py:flow", "\0", "words:__class__", "words:flow.__init__.__globals__",
    "http://x/y.py:flow",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: ascii(target[:30]))
def test_targets_that_name_no_flow_are_refused(project: Project, target: str) -> None:
    (project.folder / "words.py").write_text("import streamflow as sf\nflow = sf.Flow('words')\n")
    assert_refused(project("explain", target), 2)


@pytest.mark.parametrize("name", [*EVIL[:11], "con.txt", "a.b"])
def test_new_projects_stay_in_the_working_folder(project: Project, name: str) -> None:
    result = project("new", "--", name)
    assert result.exit_code == 2
    assert list(project.folder.iterdir()) == []


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ascii(key[:20]))
async def test_keys_are_never_file_names(tmp_path: Path, key: str) -> None:
    """Any text is a key; what the flow leaves on the disk has the same names as ever."""
    folder = tmp_path / "inside" / "deep"
    words: sf.MemoryTopic[str] = sf.MemoryTopic("in", value=str)
    words.send(key)
    words.close_input()
    flow = sf.Flow("keys", state=folder / "keys.db")
    flow.source(words).key_by(lambda word: word).count(name="counts").to(sf.jsonl(folder / "out.jsonl"))
    folder.mkdir(parents=True)
    await flow.run()
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert {name.removeprefix("inside/deep/") for name in found} <= {
        "keys.db", "keys.db-wal", "keys.db-shm", "keys.db.lock", "keys.db.epoch", "out.jsonl"
    }  # fmt: skip
    from streamflow.state.reader import query

    rows = query(folder / "keys.db", "SELECT key, value FROM counts").rows
    assert len(rows) == 1
    assert str(rows[0][1]) == "1"
    async with flow.running() as run:
        assert run.engine.tables["counts"].peek(key) == 1


# -- the state directory --


async def a_store(path: Path) -> None:
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    await store.close()


BESIDE = ["", "-wal", "-shm", ".epoch", ".lock"]


@pytest.mark.parametrize("suffix", BESIDE)
@pytest.mark.parametrize("dangling", [False, True])
async def test_links_in_the_state_directory_are_refused_and_not_followed(
    tmp_path: Path, suffix: str, dangling: bool
) -> None:
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / "orders.db"
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_bytes(b"precious")
    one = path.with_name(path.name + suffix)
    one.unlink(missing_ok=True)
    one.symlink_to(victim)
    with pytest.raises(StateError, match="is a symbolic link") as caught:
        await new_store(path).open(MANIFEST)
    assert caught.value.hint
    assert not victim.exists() if dangling else victim.read_bytes() == b"precious"
    assert one.is_symlink()


@pytest.mark.parametrize("suffix", BESIDE)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
async def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, suffix: str, make: Callable[[Path], None]
) -> None:
    """Opening a named pipe would wait for its other end for ever."""
    path = tmp_path / "orders.db"
    make(path.with_name(path.name + suffix))
    with pytest.raises(StateError, match="is no regular file"):
        await new_store(path).open(MANIFEST)


async def test_a_link_that_appears_later_is_not_written_through(tmp_path: Path) -> None:
    path, victim = tmp_path / "orders.db", tmp_path / "victim"
    victim.write_bytes(b"precious")
    from streamflow.state.lock import FileLock
    from streamflow.state.opening import connect_writable
    from streamflow.state.witness import FileWitness, Seen

    opens: list[tuple[str, Callable[[Path], Any]]] = [
        ("", connect_writable),
        (".lock", lambda one: FileLock(one).acquire()),
        (".epoch", lambda one: FileWitness(one).write(Seen("x", 1, 0))),
    ]
    for suffix, open_ in opens:
        one = path.with_name(path.name + suffix)
        one.symlink_to(victim)
        with pytest.raises(OSError, match=r"symbolic links"):
            open_(one)
    assert victim.read_bytes() == b"precious"


async def test_destroying_a_store_deletes_links_and_not_what_they_lead_to(tmp_path: Path) -> None:
    path, victim = tmp_path / "orders.db", tmp_path / "victim"
    victim.write_bytes(b"precious")
    await a_store(path)
    for suffix in ("-wal", ".epoch"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.with_name(path.name + suffix).symlink_to(victim)
    destroy(path)
    assert victim.read_bytes() == b"precious"
    path.with_name("orders.db.lock").symlink_to(victim)
    with pytest.raises(StateError, match="cannot be locked"):
        destroy(path)
    assert victim.read_bytes() == b"precious"


async def test_a_backup_is_not_written_through_a_link(tmp_path: Path) -> None:
    path, victim = tmp_path / "orders.db", tmp_path / "victim"
    await a_store(path)
    (tmp_path / "copy.db").symlink_to(victim)
    with pytest.raises(StateError, match="symbolic link"):
        backup(path, tmp_path / "copy.db")
    assert not victim.exists()


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "made" / "too" / "orders.db"
        store = new_store(path)
        await store.open(MANIFEST)
        await store.commit(full_epoch(1))
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert set(modes) >= {"orders.db", "orders.db-wal", "orders.db.lock", "orders.db.epoch"}
        assert set(modes.values()) == {0o600}
        assert {folder.stat().st_mode & 0o777 for folder in (path.parent, path.parent.parent)} == {0o700}
        await store.close()
    finally:
        os.umask(before)


def test_a_folder_of_the_users_own_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    check_place(tmp_path / "orders.db")
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("path", ["", "a\0b", b"bytes", 7])
def test_paths_of_files_are_texts(path: Any) -> None:
    with pytest.raises((SettingsError, TypeError)):
        sf.lines(path)


def test_no_sql_is_made_of_names_or_keys(tmp_path: Path) -> None:
    """Steps may be called like SQL's own words and tables; each still has its view, and nothing else changes."""
    names = [
        "state",
        "meta",
        "epoch",
        "select",
        "sqlite_x",
        "drop-table",
        "table",
        "STATE",
        "json_each",
        "pragma_user_version",
    ]
    import asyncio

    words: sf.MemoryTopic[str] = sf.MemoryTopic("in", value=str)
    words.send("it's")
    words.close_input()
    flow = sf.Flow("names", state=tmp_path / "names.db")
    keyed = flow.source(words).key_by(lambda word: word)
    for name in names:
        keyed.count(name=name).to(sf.MemoryTopic(f"out-{name}"))
    asyncio.run(flow.run())
    from streamflow.state.reader import describe

    facts = describe(tmp_path / "names.db")
    assert {name: table.entries for name, table in facts.tables.items()} == dict.fromkeys(names, 1)
    with sqlite3.connect(tmp_path / "names.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()
