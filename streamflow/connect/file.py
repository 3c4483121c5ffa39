"""Files of lines: text or JSON, as source and as sink."""

from __future__ import annotations

import os
import re
from typing import Any, Final, Generic, Literal, TypeVar, overload

from streamflow.codecs import Codec, JsonCodec, codec_for
from streamflow.connect.contracts import Guarantee, Level, Sink, SinkOptions, Source
from streamflow.connect.file_sink import FileSink, FileSinkSettings
from streamflow.connect.file_source import FileSource, FileSourceSettings
from streamflow.errors import DefinitionError, SettingsError

T = TypeVar("T")

Start = Literal["earliest", "latest"]

_READ: Final = Guarantee(Level.EXACTLY_ONCE, "the file is read again from the byte offset in the checkpoint")
_WRITTEN: Final = Guarantee(
    Level.EXACTLY_ONCE, "under a lock, the file is cut back to the last whole line known to be ours before more follows"
)


class FileLines(Generic[T]):
    """A local file with one value per line, source and sink at once; made by `lines` and `jsonl`.

    GUARANTEE: exactly-once both ways, as long as nothing but appending is done to a file that is read, and nothing
    but one sink writes to a file that is written. BOUND: a line of ``message_bytes_max``.

    Args:
        path: The file. A source may follow a symbolic link, a sink does not.
        codec: Turns a line, without its newline, into a value and back.
        follow: Whether the source waits for more at the end; if not, it ends there, and takes a last line without
            a newline too.
        start: Where a source begins that has never read from it.
    """

    def __init__(
        self, path: str | os.PathLike[str], codec: Codec[T], *, follow: bool = False, start: Start = "earliest"
    ) -> None:
        self.path = os.fspath(path)
        if not isinstance(self.path, str) or not self.path or "\0" in self.path:
            raise SettingsError(f"{self.path!r} is not the path of a file", hint="Pass the path as text or as a Path.")
        if start not in ("earliest", "latest"):
            raise SettingsError(f"file {self.path}: start={start!r}", hint='Write start="earliest" or "latest".')
        self._codec = codec
        self._follow = follow
        self._start: Start = start

    def __repr__(self) -> str:
        return f"FileLines({self.path!r})"

    @property
    def name(self) -> str:
        """The file's name without its folder and its ending, with ``-`` for what a name may not hold."""
        return re.sub(r"[^A-Za-z0-9_-]", "-", os.path.splitext(os.path.basename(self.path))[0])

    @property
    def codec(self) -> Codec[T]:
        """Decodes the lines that the source reads."""
        return self._codec

    @property
    def guarantee(self) -> Guarantee:
        """What its source gives."""
        return _READ

    @property
    def sink_guarantee(self) -> Guarantee:
        """What its sink gives."""
        return _WRITTEN

    @property
    def target(self) -> str:
        """The file itself: a second sink on it would be refused."""
        return f"file {os.path.normpath(self.path)}"

    def accepts(self, value: T, /) -> None:
        """Carries the type of what may be written, for type checkers."""

    def describe(self) -> str:
        """Says what it is, for people."""
        return f"file {self.path}" + (" (followed)" if self._follow else "")

    def source(self) -> Source:
        """Makes a source, not yet opened."""
        return FileSource(FileSourceSettings(self.path, self._follow, self._start == "latest", self.guarantee))

    def sink(self, options: SinkOptions) -> Sink:
        """Makes a sink, not yet opened.

        Raises:
            DefinitionError: An option was given; lines have no key, headers, subject or partition.
        """
        if options != SinkOptions():
            raise DefinitionError(
                f"file {self.path} takes lines, which have no key, headers, subject or partition",
                hint="Leave the options out, or put what they give into the value.",
            )
        return FileSink(FileSinkSettings(self.path, self._codec.encode, self.sink_guarantee))


def lines(path: str | os.PathLike[str], *, follow: bool = False, start: Start = "earliest") -> FileLines[str]:
    """Describes a file of UTF-8 text, one str per line, without its newline.

    Args:
        path: The file.
        follow: Whether to wait for more at the end, as ``tail -f``; if not, the source ends there.
        start: Where to begin if it was never read: at its first line, or behind its last.
    """
    return FileLines(path, codec_for(str), follow=follow, start=start)


@overload
def jsonl(
    path: str | os.PathLike[str], *, value: None = None, follow: bool = False, start: Start = "earliest"
) -> FileLines[Any]: ...


@overload
def jsonl(
    path: str | os.PathLike[str], *, value: type[T], follow: bool = False, start: Start = "earliest"
) -> FileLines[T]: ...


def jsonl(
    path: str | os.PathLike[str], *, value: Any = None, follow: bool = False, start: Start = "earliest"
) -> FileLines[Any]:
    """Describes a file of JSON values, one per line.

    Args:
        path: The file.
        value: Type of the values; without it any JSON is read, as dict, list, str, int, float, bool or None.
        follow: Whether to wait for more at the end, as ``tail -f``; if not, the source ends there.
        start: Where to begin if it was never read: at its first line, or behind its last.

    Raises:
        DefinitionError: The type cannot be read from JSON.
    """
    return FileLines(path, JsonCodec(Any if value is None else value), follow=follow, start=start)
