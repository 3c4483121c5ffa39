"""What a refusal looks like."""

from __future__ import annotations

from click.testing import Result


def assert_refused(result: Result, code: int, *parts: str) -> None:
    """Asserts an exit code, and two or three lines on stderr that hold all of ``parts`` and end with the way out."""
    assert_told(result.stderr, *parts)
    assert result.exit_code == code, result.output


def assert_told(stderr: str, *parts: str) -> None:
    """Asserts two or three lines that hold all of ``parts`` and end with the way out."""
    lines = stderr.splitlines()
    assert 2 <= len(lines) <= 3, stderr
    assert lines[0].startswith("error: ")
    assert lines[-1].startswith(" hint: ")
    for part in parts:
        assert part in stderr, (part, stderr)
