"""Time: durations, the order of calls on a virtual clock, sleeping on it."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.clock import SystemClock, VirtualClock, duration_ms, signed_ms, sleep
from streamflow.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("250ms", 250), ("5s", 5000), ("1m", 60_000), ("2h", 7_200_000), ("7d", 604_800_000), ("1w", 604_800_000),
        ("1.5s", 1500), (" 5 s ", 5000), ("0s", 0), ("0.1s", 100), ("0.29s", 290),
        (datetime.timedelta(milliseconds=3), 3), (datetime.timedelta(days=1, microseconds=1999), 86_400_002),
    ],
)  # fmt: skip
def test_durations(text, expected):
    assert duration_ms(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5s", 5000), ("-5s", -5000), (" -1.5 s ", -1500), ("-0s", 0), (datetime.timedelta(milliseconds=-3), -3),
        (datetime.timedelta(days=1), 86_400_000), (datetime.timedelta(0), 0),
    ],
)  # fmt: skip
def test_durations_with_a_sign(text, expected):
    assert signed_ms(text) == expected


@pytest.mark.parametrize("value", ["--5s", "-", "+5s", "5-s", -5, None, datetime.timedelta(microseconds=-1)])
def test_what_is_no_duration_with_a_sign(value):
    with pytest.raises(SettingsError, match="is not a duration"):
        signed_ms(value)


@pytest.mark.parametrize(
    "value", ["", "5", "s", "-5s", "5 years", "5s5s", "1e3s", "٣s", 5, 5.0, None, True,
              datetime.timedelta(milliseconds=-1),
              datetime.timedelta(microseconds=-1), "0.4ms", "0.0001s", datetime.timedelta(microseconds=1)],
)  # fmt: skip
def test_what_is_no_duration(value):
    with pytest.raises(SettingsError, match="is not a duration"):
        duration_ms(value)


@given(st.lists(st.integers(0, 50), max_size=20), st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_virtual_clock_calls_in_order_of_due_time_and_never_early(delays, steps):
    clock = VirtualClock(0)
    made: list[tuple[int, int]] = []
    for n, delay in enumerate(delays):
        clock.call_later(delay / 1000, lambda n=n, delay=delay: made.append((delay, n)))  # type: ignore[misc]
    for step in steps:
        before = list(made)
        clock.advance_to(clock.now_ms() + step)
        assert made[: len(before)] == before
        assert all(delay <= clock.now_ms() for delay, _ in made)
    due = sorted((delay, n) for n, delay in enumerate(delays) if delay <= clock.now_ms())
    assert sorted(made) == due
    rest = [delay for delay in delays if delay > clock.now_ms()]
    assert clock.next_due_ms() == (min(rest) if rest else None)
    if len(steps) == 1:
        assert made == due


def test_virtual_clock_never_goes_back_and_calls_once():
    clock = VirtualClock(1000)
    calls: list[str] = []
    clock.call_later(0.001, lambda: calls.append("a"))
    gone = clock.call_later(0.001, lambda: calls.append("b"))
    clock.call_later(0.0005, gone.cancel)
    assert clock.next_due_ms() == 1001
    clock.advance_to(500)
    assert (clock.now_ms(), calls) == (1000, [])
    clock.advance_to(1001)
    clock.advance_to(1001)
    gone.cancel()
    assert calls == ["a"]
    assert clock.monotonic() == 1.001


async def test_sleep_ends_at_its_time_and_cancels_its_call():
    clock = VirtualClock()
    task = asyncio.create_task(sleep(clock, 5))
    await asyncio.sleep(0)
    clock.advance_to(clock.now_ms() + 4999)
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance_to(clock.now_ms() + 1)
    await task
    other = asyncio.create_task(sleep(clock, 5))
    await asyncio.sleep(0)
    assert clock.next_due_ms() is not None
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert clock.next_due_ms() is None


async def test_system_clock_calls_on_the_running_loop():
    clock: Any = SystemClock()
    started = clock.monotonic()
    await sleep(clock, 0.01)
    assert 0.009 <= clock.monotonic() - started < 2
    assert abs(clock.now_ms() - datetime.datetime.now(datetime.UTC).timestamp() * 1000) < 2000
