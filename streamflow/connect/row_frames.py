"""Rows as frames: what the sinks of all brokers share, from keys and headers per row to the errors that name one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from streamflow.batch import Fragment, Headers
from streamflow.codecs import Codec
from streamflow.connect.contracts import Frames, SinkOptions, row_headers
from streamflow.errors import EncodeError


class RowFrames:
    """Turns rows into frames: pure, without I/O, also before the sink is open. A subclass writes one row.

    Args:
        codec: Encodes values.
        options: Key, headers and the like, as `to` was given them.
        sink: Name for errors.
    """

    record: str = "message"
    """What the broker calls a record."""
    room: str = "Raise the broker's limit, or emit smaller values."
    """The way out for one that is too large."""

    def __init__(self, codec: Codec[Any], options: SinkOptions, sink: str) -> None:
        self.sink = sink
        self.frame_bytes_max = 0
        """Largest frame that the broker takes, known once the sink is open; 0 before."""
        self.codec: Final = codec
        self.options: Final = options
        self.write: Callable[[Any], bytes] = codec.encode
        """Writes a value alone."""

    def plain(self) -> Callable[[Any], bytes] | None:
        """The frame of a value that has nothing beside it; None if these options always give it something."""
        return None

    def frame(self, value: Any, key: Any, headers: Headers | None) -> bytes:
        """The frame of any row.

        Raises:
            ValueError, TypeError: A value, key or header is refused.
        """
        raise NotImplementedError

    def encode(self, records: Fragment) -> Frames:
        """Returns one frame per row.

        Raises:
            EncodeError: A value, or what goes beside it, is refused, or the frame is too large.
        """
        try:
            frames = self._frames(records)
        except (ValueError, TypeError, OverflowError) as error:
            raise EncodeError(
                f"a value of type {self._culprit(records)} cannot be written by codec {self.codec.name}: {error}",
                step=self.sink,
                hint="Emit values that fit the type given as value=.",
            ) from error
        if self.frame_bytes_max and frames and (size := len(max(frames, key=len))) > self.frame_bytes_max:
            raise EncodeError(
                f"a {self.record} for {self.sink} has {size} bytes; the limit is {self.frame_bytes_max}",
                step=self.sink,
                hint=self.room,
            )
        return frames

    def refused(self, what: str, hint: str) -> EncodeError:
        """The error for what a user's function gave."""
        return EncodeError(f"sink {self.sink}: {what}", step=self.sink, hint=hint)

    def _frames(self, records: Fragment) -> list[bytes]:
        values, keys, key_of, frame = records.values, records.keys, self.options.key, self.frame
        headers = row_headers(self.options, records)
        if headers is None and keys is None and key_of is None and (plain := self.plain()) is not None:
            return list(map(plain, values))
        if key_of is not None:
            keys = list(map(key_of, values))
        nothing = [None] * len(values)
        return list(map(frame, values, keys or nothing, headers or nothing))

    def _culprit(self, records: Fragment) -> str:
        for value in records.values:
            try:
                self.write(value)
            except Exception:  # whatever a user's codec raises names its value
                return type(value).__qualname__
        return "unknown"
