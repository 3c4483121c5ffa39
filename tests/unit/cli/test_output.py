"""What is printed: tables, figures, and text that is made harmless."""

from __future__ import annotations

from streamflow.cli.output import figure, one_line, plural, printable, size, table


def test_numbers_stand_to_the_right():
    lines = table(["name", "count"], [("a", 1), ("long name", 1000)])
    assert lines[0] == "name       count"
    assert lines[2] == "a              1"
    assert lines[3] == "long name   1000"


def test_wide_characters_keep_columns_straight():
    lines = table(["k", "v"], [("日本", "x"), ("ab", "y")])
    assert lines[2] == "日本  x"
    assert lines[3] == "ab    y"


def test_an_empty_table_has_its_head():
    assert len(table(["a", "b"], [])) == 2


def test_bytes_nothing_and_control_characters_are_shown():
    lines = table(["a", "b", "c"], [(b"\xff\x00", None, "x\x1b[2Jy\n")])
    assert lines[2].split() == ["ff00", "x\\x1b[2Jy\\n"]


def test_logins_in_urls_do_not_show():
    assert one_line("at nats://bob:secret@host:4222,\nplease") == "at nats://***@host:4222, please"


def test_text_direction_cannot_be_turned():
    assert printable("a\u202eb") == "a\\u202eb"


def test_figures():
    assert [figure(number) for number in (0, 3.14, 12.7, 1234567)] == ["0", "3.1", "13", "1,234,567"]
    assert [size(count) for count in (0, 1023, 1024, 5 * 1024**2, 3 * 1024**5)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3072.0 TiB",
    ]
    assert [plural(1, "record"), plural(1000, "record")] == ["1 record", "1,000 records"]
