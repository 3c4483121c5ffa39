"""Files of lines pass the conformance kit, followed and read to the end, and as sinks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import streamflow.connect.file as files
from streamflow.testing.conformance import SinkConformance, SourceConformance


class TestFileSource(SourceConformance):
    path: Path

    @pytest.fixture(name="environment")
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path

    async def start(self) -> None:
        self.path = self.environment / "lines.jsonl"
        self.path.touch()

    def spec(self) -> files.FileLines[Any]:
        return files.jsonl(self.path, follow=True)

    def bounded_spec(self) -> files.FileLines[Any]:
        return files.jsonl(self.path)

    def missing_spec(self) -> files.FileLines[Any]:
        return files.lines(self.environment / "missing.txt")

    async def end_input(self) -> None:
        """A bounded file ends where it ends."""

    async def feed(self, payloads: Sequence[bytes], partition: str = "") -> None:
        with self.path.open("ab") as file:
            file.writelines(payload + b"\n" for payload in payloads)

    async def lose(self, count: int, partition: str = "") -> None:
        kept = self.path.read_bytes().splitlines(keepends=True)[:-count]
        os.truncate(self.path, sum(map(len, kept)))

    async def replace(self) -> None:
        replace_file(self.path)


class TestFileSink(SinkConformance):
    path: Path

    @pytest.fixture(name="environment")
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path

    async def start(self) -> None:
        self.path = self.environment / "out.txt"

    def spec(self) -> files.FileLines[str]:
        return files.lines(self.path)

    def missing_spec(self) -> files.FileLines[str]:
        return files.lines(self.environment / "missing" / "out.txt")

    async def visible(self) -> list[Any]:
        return self.path.read_text().splitlines()

    async def write_foreign(self, values: Sequence[Any]) -> None:
        with self.path.open("a") as file:
            file.writelines(value + "\n" for value in values)

    async def replace(self) -> None:
        replace_file(self.path)


def replace_file(path: Path) -> None:
    """Puts a new, empty file in the place of another one."""
    other = path.with_suffix(".new")
    other.touch()
    other.replace(path)
