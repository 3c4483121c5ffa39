"""What the conformance kit does not say about files: last lines, long lines, torn tails, locks, paths."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import streamflow.connect.file as files
from streamflow.batch import Chunk, Fragment, MicroBatch, Position, Progress, pack_frames
from streamflow.connect.contracts import Sink, SinkContext, SinkOptions, SinkSpec, Source, SourceContext, SourceSpec
from streamflow.errors import (
    DecodeError,
    DefinitionError,
    EncodeError,
    Fenced,
    ForeignWriter,
    ProgressUnknown,
    SettingsError,
    SinkAhead,
    SourceReplaced,
    Unavailable,
)


@dataclass
class Order:
    user: str
    amount: int


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines.txt"


async def opened(spec: files.FileLines, resume: Position | None = None, line_bytes_max: int = 1000) -> Source:
    source = spec.source()
    ctx = SourceContext("flow", "in", 0, "abc", 1, message_bytes_max=line_bytes_max)
    await source.open(ctx, {} if resume is None else {"": resume})
    return source


async def read_all(source: Source) -> list[tuple[bytes, Position]]:
    found = []
    while (batch := await source.read()) is not None:
        found += [
            (payload, Position(at, batch.identity))
            for payload, at in zip(batch.payloads, batch.positions or (), strict=True)
        ]
    await source.close()
    return found


async def opened_sink(path: Path) -> Sink:
    sink = files.lines(path).sink(SinkOptions())
    await sink.open(SinkContext("flow", "out", 0, "abc", 1))
    return sink


def chunk(*texts: str, first_seq: int = 1, epoch: int = 1) -> Chunk:
    frames = [text.encode() + b"\n" for text in texts]
    return Chunk("out", epoch, 0, first_seq, len(frames), pack_frames(frames))


class TestSpecs:
    def test_are_source_and_sink_specs(self, path):
        spec = files.jsonl(path, value=Order)
        assert isinstance(spec, SourceSpec)
        assert isinstance(spec, SinkSpec)
        assert spec.codec.decode(b'{"user":"ann","amount":3}') == Order("ann", 3)
        assert spec.target == f"file {path}"

    @pytest.mark.parametrize("bad", ["", "a\0b", b"bytes"])
    def test_refuse_what_is_no_path(self, bad):
        with pytest.raises(SettingsError):
            files.lines(bad)

    def test_refuse_options_that_lines_do_not_have(self, path):
        with pytest.raises(DefinitionError):
            files.lines(path).sink(SinkOptions(key=str))

    def test_refuse_an_unknown_start(self, path):
        with pytest.raises(SettingsError):
            files.lines(path, start="newest")  # type: ignore[arg-type]

    async def test_refuse_a_folder(self, tmp_path):
        with pytest.raises(SettingsError):
            await opened(files.lines(tmp_path))
        with pytest.raises(SettingsError):
            await opened_sink(tmp_path)
        assert not (await files.lines(tmp_path).sink(SinkOptions()).probe()).ok

    async def test_refuse_a_named_pipe_without_waiting_for_its_other_end(self, path):
        os.mkfifo(path)
        with pytest.raises(SettingsError):
            await opened(files.lines(path))

    async def test_a_sink_does_not_follow_a_link(self, path, tmp_path):
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(SettingsError, match="symbolic link"):
            await opened_sink(path)
        assert not (tmp_path / "elsewhere").exists()


class TestReading:
    @pytest.mark.parametrize(
        ("content", "lines"),
        [
            (b"", []),
            (b"\n", [b""]),
            (b"a\n\nb\n", [b"a", b"", b"b"]),
            (b"a\r\nb", [b"a\r", b"b"]),
            (b"a\x85b\x0cc\n", [b"a\x85b\x0cc"]),
            (b"a\n" + b"x" * 600_000 + b"\nb\n", [b"a", b"x" * 600_000, b"b"]),
        ],
    )
    async def test_lines_end_at_newlines_only(self, path, content, lines):
        path.write_bytes(content)
        found = await read_all(await opened(files.lines(path), line_bytes_max=1_000_000))
        assert [line for line, _ in found] == lines
        for index, (_, at) in enumerate(found):
            rest = await read_all(await opened(files.lines(path), at, 1_000_000))
            assert [line for line, _ in rest] == lines[index + 1 :]

    async def test_a_long_line_is_refused_with_its_place(self, path):
        path.write_bytes(b"short\n" + b"x" * 5000 + b"\nshort\n")
        source = await opened(files.lines(path))
        batch = await source.read()
        assert batch is not None
        assert batch.payloads == [b"short"]
        with pytest.raises(DecodeError, match="starts at byte 6 is longer than 1000 bytes") as caught:
            await source.read()
        await source.close()
        assert caught.value.step == "in"
        assert caught.value.hint

    async def test_a_line_without_end_is_refused_before_it_fills_the_memory(self, path):
        path.write_bytes(b"x" * 3_000_000)
        source = await opened(files.lines(path), line_bytes_max=300_000)
        with pytest.raises(DecodeError, match="byte 0"):
            await source.read()
        await source.close()

    async def test_a_last_line_is_whole_once_it_has_its_newline(self, path):
        path.write_bytes(b"a\nb")
        source = await opened(files.lines(path, follow=True))
        batch = await source.read()
        assert batch is not None
        assert batch.payloads == [b"a"]
        assert await source.ends() == {"": Position(2, batch.identity)}
        with path.open("ab") as file:
            file.write(b"c\n")
        batch = await source.read()
        assert batch is not None
        assert batch.payloads == [b"bc"]
        await source.close()

    @pytest.mark.parametrize("content", [b"a\nb", b"b"])
    async def test_a_last_line_taken_without_its_newline(self, path, content):
        path.write_bytes(content)
        (line, at) = (await read_all(await opened(files.lines(path))))[-1]
        assert line == b"b"
        assert await read_all(await opened(files.lines(path), at)) == []
        with path.open("ab") as file:
            file.write(b"\nc\n")
        assert [line for line, _ in await read_all(await opened(files.lines(path), at))] == [b"c"]

    @pytest.mark.parametrize("content", [b"a\nb", b"b"])
    async def test_a_last_line_that_grew_after_it_was_taken_is_refused(self, path, content):
        path.write_bytes(content)
        (_, at) = (await read_all(await opened(files.lines(path))))[-1]
        with path.open("ab") as file:
            file.write(b"b\n")
        with pytest.raises(SourceReplaced):
            await read_all(await opened(files.lines(path), at))

    async def test_a_file_rewritten_in_place_is_refused(self, path):
        path.write_bytes(b"one\ntwo\n")
        (_, at), _ = await read_all(await opened(files.lines(path)))
        path.write_bytes(b"another\none\n")
        with pytest.raises(SourceReplaced, match="first line"):
            await opened(files.lines(path), at)

    async def test_a_followed_file_that_is_rotated_away_is_noticed(self, path):
        path.write_bytes(b"one\n")
        source = await opened(files.lines(path, follow=True))
        assert await source.read() is not None
        path.rename(path.with_suffix(".1"))
        path.write_bytes(b"two\n")
        with pytest.raises(SourceReplaced, match="another file stands at its path"):
            await source.read()
        await source.close()

    async def test_latest_starts_behind_the_last_whole_line(self, path):
        path.write_bytes(b"one\ntwo\nthr")
        source = await opened(files.lines(path, follow=True, start="latest"))
        with path.open("ab") as file:
            file.write(b"ee\n")
        batch = await source.read()
        assert batch is not None
        assert batch.payloads == [b"three"]
        await source.close()

    async def test_closing_wakes_a_paused_reader(self, path):
        path.write_bytes(b"one\n")
        source = await opened(files.lines(path))
        source.pause({""})
        reading = asyncio.ensure_future(source.read())
        await asyncio.sleep(0)
        await source.close()
        with pytest.raises(Unavailable):
            await reading


class TestWriting:
    CHUNKS = (chunk("one", "two"), chunk("three", "four", first_seq=3, epoch=2))
    BYTES = b"one\ntwo\nthree\nfour\n"

    @pytest.mark.parametrize("size", range(len(BYTES) + 1))
    async def test_a_tail_torn_at_any_byte_is_cut_and_completed(self, path, size):
        path.write_bytes(b"before\n")
        sink = await opened_sink(path)
        stored = await sink.recover(None, [])
        await sink.close()
        path.write_bytes(b"before\n" + self.BYTES[:size])
        sink = await opened_sink(path)
        found = await sink.recover(stored, self.CHUNKS)
        whole = self.BYTES[:size].count(b"\n")
        assert found.next_seq == whole + 1
        assert path.read_bytes().count(b"\n") == whole + 1
        if whole < 4:
            found = await sink.publish(self.CHUNKS, found)
        assert (found.epoch, found.next_seq) == (2, 5)
        assert path.read_bytes() == b"before\n" + self.BYTES
        await sink.close()

    @pytest.mark.parametrize("zeroed", [slice(9, 19), slice(505, 1017), slice(1017, None)])
    async def test_blocks_that_a_power_loss_left_empty_are_written_again(self, path, zeroed):
        path.write_bytes(b"before\n")
        sink = await opened_sink(path)
        stored = await sink.recover(None, [])
        pending = [chunk(*(f"line {number:05}" for number in range(200)))]
        await sink.publish(pending, stored)
        await sink.close()
        whole = path.read_bytes()
        torn = bytearray(whole)
        # Offsets behind "before\n": a hole that is no block is damage, one from block to block is a crash's.
        for at in range(len(whole))[7:][zeroed]:
            torn[at] = 0
        path.write_bytes(torn)
        sink = await opened_sink(path)
        if zeroed.start == 9:
            with pytest.raises(ForeignWriter):
                await sink.recover(stored, pending)
        else:
            await sink.publish(pending, await sink.recover(stored, pending))
            assert path.read_bytes() == whole
        await sink.close()

    async def test_another_process_is_kept_out(self, path):
        script = (
            "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); "
            "print('held', flush=True); sys.stdin.read()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(Unavailable, match="another process") as caught:
                await opened_sink(path)
            assert caught.value.hint
            holder.communicate()
        await (await opened_sink(path)).close()

    async def test_a_newer_sink_of_this_process_takes_over(self, path):
        older = await opened_sink(path)
        baseline = await older.recover(None, [])
        newer = await opened_sink(path)
        with pytest.raises(Fenced):
            await older.publish([chunk("one")], baseline)
        await older.close()
        await newer.publish([chunk("one")], await newer.recover(baseline, []))
        assert path.read_bytes() == b"one\n"
        await newer.close()

    async def test_an_unfinished_foreign_line_is_no_baseline(self, path):
        path.write_bytes(b"half a li")
        sink = await opened_sink(path)
        with pytest.raises(ForeignWriter):
            await sink.recover(None, [])
        await sink.close()

    async def test_lines_appended_by_others_are_noticed(self, path):
        sink = await opened_sink(path)
        progress = await sink.publish([chunk("one")], await sink.recover(None, []))
        with path.open("ab") as file:
            file.write(b"foreign\n")
        with pytest.raises(ForeignWriter):
            await sink.publish([chunk("two", first_seq=2, epoch=2)], progress)
        with pytest.raises(SinkAhead) as caught:
            await sink.recover(progress, [])
        assert "another program" in caught.value.hint
        assert path.read_bytes() == b"one\nforeign\n"
        await sink.close()

    @pytest.mark.parametrize("cursor", [b"", b"x:y", b"3"])
    async def test_a_strange_cursor_is_refused(self, path, cursor):
        sink = await opened_sink(path)
        with pytest.raises(ProgressUnknown):
            await sink.recover(Progress(1, 2, cursor), [])
        await sink.close()

    async def test_a_copy_in_its_place_is_refused(self, path):
        sink = await opened_sink(path)
        progress = await sink.publish([chunk("one")], await sink.recover(None, []))
        copy = path.with_suffix(".copy")
        copy.write_bytes(path.read_bytes())
        copy.replace(path)
        with pytest.raises(ProgressUnknown):
            await sink.publish([chunk("two", first_seq=2, epoch=2)], progress)
        await sink.close()
        sink = await opened_sink(path)
        with pytest.raises(ProgressUnknown):
            await sink.recover(progress, [])
        await sink.close()

    async def test_a_shorter_file_is_refused(self, path):
        sink = await opened_sink(path)
        progress = await sink.publish([chunk("one", "two")], await sink.recover(None, []))
        os.truncate(path, 4)
        with pytest.raises(ProgressUnknown, match="8 were published"):
            await sink.recover(progress, [])
        await sink.close()

    def test_a_value_with_a_newline_is_refused(self, path):
        sink = files.lines(path).sink(SinkOptions())
        with pytest.raises(EncodeError, match="newline"):
            sink.encode(Fragment(MicroBatch(1, 0), ["fine", "not\nfine"], True))
        jsonl = files.jsonl(path).sink(SinkOptions())
        assert list(jsonl.encode(Fragment(MicroBatch(1, 0), ["not\nfine"], True))) == [b'"not\\nfine"\n']
