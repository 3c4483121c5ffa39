"""Fuzzing: whatever the bytes, only the documented error escapes, soon, and memory stays bounded."""

from __future__ import annotations

import datetime
import enum
import importlib
import os
import resource
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import msgspec
import pytest

from streamflow import keys
from streamflow.batch import Progress, pack_frames, pack_lines, split_table, unpack_frames
from streamflow.cli import target
from streamflow.cli.failing import UsageError
from streamflow.clock import DURATION_MS_MAX, duration_ms
from streamflow.codecs import JsonCodec, codec_for
from streamflow.connect.contracts import Guarantee, Level
from streamflow.connect.file_sink import FileSink, FileSinkSettings
from streamflow.connect.file_source import FileSource, FileSourceSettings, _Slice
from streamflow.connect.local_file import LocalFile
from streamflow.connect.secret import redact
from streamflow.errors import CorruptStateError, DecodeError, DefinitionError, ProgressUnknown, SettingsError
from streamflow.state.lock import _holder
from streamflow.state.splitting import delta_entries
from streamflow.state.witness import FileWitness, Seen, parse_witness, read_witness
from streamflow_nats.chain import _mark
from streamflow_nats.fence import _claim
from streamflow_nats.frames import unpack
from streamflow_nats.jetstream import StoredMessage, parse_headers
from streamflow_nats.pulls import parse_reply
from streamflow_nats.subjects import check_pattern
from tests.security.mutations import mutated

INPUTS = 500
INPUTS_LONG = 20_000
SECONDS_MAX = 2.0
"""Longest that one input may take, on a machine that is busy with something else too."""
GROWTH_KIB_MAX = 128 << 10


@dataclass
class Order:
    user: str
    lines: list[int]
    note: str | None = None


class Point(msgspec.Struct):
    x: int
    y: float
    next: Point | None = None


class Row(TypedDict):
    a: int
    b: str


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


JSON = (
    b'{"user":"ann","lines":[1,2,3],"note":null}',
    b'{"x":1,"y":2.5,"next":{"x":-3,"y":1e10}}',
    b'{"a":12345678901234567890123,"b":"\\u00e9\\ud83d\\ude00\\n"}',
    b'[1,"two",3.0,null,true,{"deep":[[[[]]]]}]',
    b'"text"',
    b"17",
    b"-1.5e-7",
    b'{"a":1,"a":2,"b":"twice"}',
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
)


class Case(NamedTuple):
    """One decoder: what it does with an input, valid examples, and what may escape; it returns the examples it took."""

    name: str
    decode: Callable[[bytes], object]
    corpus: Sequence[bytes]
    allowed: tuple[type[Exception], ...]


def fuzz(case: Case, long_run: bool, *, refuses: bool = True) -> None:
    """Feeds a decoder; both outcomes, taken and refused, must have happened."""
    taken = refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = INPUTS_LONG if long_run else INPUTS
    for at, data in enumerate(mutated(case.corpus, count, seed=zlib.crc32(case.name.encode()))):
        started = time.monotonic()
        try:
            case.decode(data)
        except case.allowed:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{case.name}: input {at}, {data[:200]!r}, gave {error!r}") from error
        else:
            taken += 1
        assert time.monotonic() - started < SECONDS_MAX, f"{case.name}: input {at}, {data[:200]!r}, took too long"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < GROWTH_KIB_MAX, f"{case.name}: memory grew by {grown >> 10} MiB"
    assert taken > count // 200
    assert refused > count // 200 or not refuses


# -- codecs and keys --


def round_trip(kind: Any) -> Callable[[bytes], object]:
    """Decodes; what came out goes in again unchanged, so that nothing is rounded or lost on the way."""
    codec = codec_for(kind)

    def decode(data: bytes) -> object:
        value = codec.decode(data)
        again = codec.decode(codec.encode(value))
        assert again == value and type(again) is type(value), f"{value!r} came back as {again!r}"
        return value

    return decode


KINDS = {
    "any": Any, "dataclass": Order, "struct": Point, "typeddict": Row, "dict": dict[str, Any], "int": int,
    "float": float, "text": JsonCodec(str), "tuple": tuple[int, str, float, None, bool, Any], "list": list[Any],
    "str": str, "union": Order | None,
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_codecs(name: str, long_run: bool) -> None:
    fuzz(Case(f"codec {name}", round_trip(KINDS[name]), JSON, (ValueError, RecursionError)), long_run)


def test_bytes_take_everything(long_run: bool) -> None:
    codec = codec_for(bytes)

    def decode(data: bytes) -> None:
        assert codec.decode(data) == data

    fuzz(Case("codec bytes", decode, JSON, ()), long_run, refuses=False)


def test_keys(long_run: bool) -> None:
    some = [
        "ann", "", "é\n", 7, -(10**25), b"\0\xff", uuid.UUID(int=5), datetime.date(2026, 1, 2),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        ("a", 1, b"x"), (("a",), uuid.UUID(int=9)),
    ]  # fmt: skip
    corpus = [*map(keys.canonical, some), keys.canonical(Color.RED), keys.canonical((Color.BLUE, 1))]
    seen: dict[Any, bytes] = {}

    def decode(data: bytes) -> None:
        for kind in (None, Color, tuple[Color, int]):
            try:
                key = keys.parse(data, kind)
            except ValueError:
                continue
            keys.shape(key)
            text = keys.canonical(key)
            assert keys.parse(text, kind) == key
            seen[key] = text
            return
        raise ValueError

    fuzz(Case("keys", decode, corpus, (ValueError,)), long_run)
    assert len(set(seen.values())) == len(seen), "two keys have one text"


# -- what the store reads --


def test_packed_frames(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        frames = unpack_frames(data)
        lines = b"".join(frame + b"\n" for frame in frames)
        assert data in (pack_frames(frames), pack_lines(len(frames), [lines]))
        table, joined = split_table(data)
        assert 4 + len(table) + len(joined) == len(data)

    corpus = [pack_frames(frames) for frames in ([], [b""], [b"a", b"bc"], [b"x" * 300] * 3, [b"", b"y", b""])]
    corpus += [pack_lines(2, [b"a\nbc\n"]), pack_lines(3, [b"\n1\n", b"23\n"])]
    fuzz(Case("frames", decode, corpus, (ValueError,)), long_run)


def test_deltas(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        for entry in delta_entries(data):
            assert isinstance(entry.key, bytes)
            assert entry.value is not None or entry.expires_ms is None

    corpus = [
        b'[["ann","",{"spent":1},null],["bob","",{"spent":2},1700000000000]]',
        b'[["ann","w1"],["bob","",7,null]]',
        b'[["\\ud800","",{"a":[1,2.5]},null]]',
        b'[[["a",1],"",123456789012345678901234567890,null]]',
        b"[]",
    ]
    fuzz(Case("deltas", decode, corpus, (CorruptStateError,)), long_run)


@pytest.mark.allow_blocking("writes the file that is read")
def test_witness_files(tmp_path: Path, long_run: bool) -> None:
    path = tmp_path / "state.db.epoch"
    witness = FileWitness(path)
    corpus = []
    for epoch in (1, 2, 3, 10**12):
        witness.write(Seen("abc123", epoch, epoch // 2))
        corpus.append(path.read_bytes())
    witness.close()

    def decode(data: bytes) -> None:
        seen = parse_witness(data)
        if seen is None:
            raise ValueError
        assert seen.incarnation == "abc123", "a line was believed that nobody wrote"
        assert seen.epoch in (1, 2, 3, 10**12), "a line was believed that nobody wrote"

    fuzz(Case("witness", decode, corpus, (ValueError,)), long_run)
    path.write_bytes(b"\xff" * 100_000)
    assert read_witness(path) is None


@pytest.mark.allow_blocking("writes the file that is read")
def test_lock_files(tmp_path: Path, long_run: bool) -> None:
    path = tmp_path / "state.db.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    corpus = [
        b'{"pid": 17, "host": "here", "since": "2026-01-01 00:00:00 UTC"}\n',
        b'{"pid": 1e400, "host": null, "since": []}',
        b'{"pid": Infinity, "host": "x", "since": ""}',
        b"[" * 4096,
    ]

    def decode(data: bytes) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data[:8192], 0)  # more than is ever read of it
        told = _holder(descriptor)
        assert len(told) < 200 + 4300
        if told == "another process":
            raise ValueError

    fuzz(Case("lock", decode, corpus, (ValueError,)), long_run)
    os.close(descriptor)


# -- files --


EXACT = Guarantee(Level.EXACTLY_ONCE, "")


def test_file_lines(long_run: bool) -> None:
    most = 4096

    def decode(data: bytes) -> None:
        source = FileSource(FileSourceSettings("in.txt", False, False, EXACT))
        source._line_bytes_max = most
        lines: list[bytes] = []
        for at in (*range(0, len(data), 1000), len(data)):
            source._take(_Slice(data[at : at + 1000], "1-a", len(data)))
            lines += source._lines
            if source._too_long is not None:
                raise source._too_long
        expected = data.split(b"\n")
        assert lines == (expected if expected[-1] else expected[:-1])
        assert max(map(len, lines), default=0) <= most

    corpus = [b"one\ntwo\r\nthree", b"\n\n\n", b"a" * 4000 + b"\nb\n", b'{"a":1}\n' * 40]
    fuzz(Case("lines", decode, corpus, (DecodeError,)), long_run)


@pytest.mark.allow_blocking("looks at a file")
def test_file_cursors(tmp_path: Path, long_run: bool) -> None:
    file = LocalFile.writing(str(tmp_path / "out.txt"))
    sink = FileSink(FileSinkSettings(file.path, bytes, EXACT))

    def decode(data: bytes) -> None:
        assert sink._length(file, Progress(1, 1, data)) >= 0

    corpus = [b"%d:%d" % (length, file.inode) for length in (0, 7, 2**40)]
    fuzz(Case("cursors", decode, corpus, (ProgressUnknown,)), long_run)
    file.close()


# -- NATS --


def test_nats_frames(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        frame = unpack(data)
        assert 4 + sum(map(len, frame)) == len(data)

    corpus = [b"\0\0\0\0payload", b"\0\3\0\6a.bk: v\r\nx", b"\0\1\0\0s"]
    fuzz(Case("nats frames", decode, corpus, (ValueError,)), long_run)


def test_nats_reply_subjects(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        numbers = parse_reply(data)
        assert min(numbers) >= 0

    corpus = [
        b"$JS.ACK.S.C.1.42.7.1700000000000000000.3",
        b"$JS.ACK.hub.ACC.S.C.1.42.7.1700000000000000000.3.tok",
        b"$JS.ACK.hub.ACC.S.C.1.42.7.1700000000000000000.0",
    ]
    fuzz(Case("nats replies", decode, corpus, (ValueError,)), long_run)


def test_nats_headers(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        headers = parse_headers(data)
        assert all(isinstance(name, str) and isinstance(value, str) for name, value in headers.items())
        mark = _mark(StoredMessage("s", 1, data, b"", datetime.datetime.now(datetime.UTC)))
        if mark is None:
            raise ValueError
        assert mark.seq >= 0

    corpus = [
        b"sf-fence: sf.f.i.0.out\r\nsf-seq: 7\r\nsf-gen: 2\r\nsf-id: abc\r\n",
        b"Nats-Msg-Id: x\r\nsf-fence:a\r\nsf-seq:1\r\nsf-gen:1\r\n",
    ]
    fuzz(Case("nats headers", decode, corpus, (ValueError,)), long_run)


def test_nats_claims(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        if not _claim(data).generation:
            raise ValueError

    fuzz(Case("nats claims", decode, [b'{"generation":7}', b'{"generation":12,"more":[]}'], (ValueError,)), long_run)


def test_nats_subjects(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        subject = data.decode("utf-8", "surrogateescape")
        check_pattern(subject)
        assert not any(sign <= " " or sign == "\x7f" for sign in subject)

    corpus = [b"orders.new", b"orders.*.paid", b"orders.>", "größe.a".encode()]
    fuzz(Case("nats subjects", decode, corpus, (SettingsError,)), long_run)


# -- what people type --


def test_durations(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        assert 0 <= duration_ms(data.decode("utf-8", "replace")) <= DURATION_MS_MAX

    corpus = [b"250ms", b"5s", b" 1.5 m ", b"2h", b"7d", b"3w", b"0s", b"1.0000001s"]
    fuzz(Case("durations", decode, corpus, (SettingsError,)), long_run)


def test_targets(long_run: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is typed is judged; no module is really imported, for a mutated name may be that of any of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "orders.py").write_text("")
    asked: list[str] = []

    def import_module(name: str) -> Any:
        assert all(part.isidentifier() for part in name.split(".")), f"{name!r} got through"
        asked.append(name)
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(importlib, "import_module", import_module)

    def decode(data: bytes) -> None:
        before = len(asked)
        try:
            target.load(data.decode("utf-8", "surrogateescape"))
        except (UsageError, DefinitionError):
            if len(asked) == before:
                raise  # refused as it stands, before anything was looked for
        else:
            raise AssertionError("there is nothing to load")

    corpus = [b"orders:flow", b"orders", b"package.orders:flow.inner", b"orders.py:flow", b"./orders.py"]
    fuzz(Case("targets", decode, corpus, (UsageError, DefinitionError)), long_run)


def test_redaction(long_run: bool) -> None:
    def decode(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        once = redact(text)
        assert redact(once) == once

    corpus = [b"nats://bob:pw@host:4222, amqp://x@y/z?password=7&more", b"no answer from tls://a:b@c", b"plain"]
    fuzz(Case("redaction", decode, corpus, ()), long_run, refuses=False)
