"""How frames are packed: what is cut off or too long is noticed, and cuts leave no trace in the parts."""

from __future__ import annotations

import pytest

from streamflow.batch import pack_frames, pack_lines, split_table, unpack_frames

FRAMES = [b"one", b"", b"three" * 100, b"\x00"]


@pytest.mark.parametrize("count", range(5))
def test_frames_come_back(count):
    assert unpack_frames(pack_frames(FRAMES[:count])) == FRAMES[:count]


def test_every_truncated_payload_is_refused():
    payload = pack_frames(FRAMES)
    for size in range(len(payload)):
        with pytest.raises(ValueError, match="bytes"):
            unpack_frames(payload[:size])


def test_bytes_too_many_are_refused():
    with pytest.raises(ValueError, match="in a payload"):
        unpack_frames(pack_frames(FRAMES) + b"\x00")


def test_the_parts_do_not_show_where_payloads_were_cut():
    whole = split_table(pack_frames(FRAMES))
    for cut in range(5):
        head, tail = split_table(pack_frames(FRAMES[:cut])), split_table(pack_frames(FRAMES[cut:]))
        assert [b"".join(parts) for parts in zip(head, tail, strict=True)] == list(whole)


def test_lines_come_back():
    assert unpack_frames(pack_lines(3, [b"one\n\n", b"three\n"])) == [b"one", b"", b"three"]
    assert unpack_frames(pack_lines(0, [])) == []


def test_lines_that_are_cut_off_or_too_many_are_refused():
    payload = pack_lines(3, [b"one\ntwo\n", b"three\n"])
    for size in range(4, len(payload)):
        with pytest.raises(ValueError, match="lines"):
            unpack_frames(payload[:size])
    for more in (b"\n", b"four\n", b"four"):
        with pytest.raises(ValueError, match="lines"):
            unpack_frames(payload + more)


def test_the_parts_of_lines_do_not_show_where_payloads_were_cut():
    whole = split_table(pack_lines(3, [b"1\n2\n3\n"]))
    first, second = split_table(pack_lines(1, [b"1\n"])), split_table(pack_lines(2, [b"2\n3\n"]))
    assert [b"".join(parts) for parts in zip(first, second, strict=True)] == list(whole) == [b"", b"1\n2\n3\n"]
