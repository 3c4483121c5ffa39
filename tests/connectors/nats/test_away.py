"""A server that is away for longer than ``idle`` is no silence: no window closes, and nothing held is released."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streamflow_nats import Limits
from tests.connectors import away
from tests.connectors.nats.broker import Broker


async def test_no_window_closes_while_the_server_is_away(mortal: Broker, tmp_path: Path) -> None:
    stream = await mortal.stream("times.{}")
    spec = mortal.nats.stream(stream, value=str)
    await away.a_dead_broker_closes_no_window(tmp_path, mortal.server, spec, partial(mortal.feed, f"times.{stream}"))


@pytest.mark.parametrize("retention", [pytest.param("limits", marks=pytest.mark.long), "workqueue"])
async def test_no_window_closes_while_the_server_hangs(mortal: Broker, tmp_path: Path, retention: Any) -> None:
    stream = await mortal.stream("times.{}", retention=retention)
    spec = mortal.nats.stream(stream, value=str)
    await away.a_frozen_broker_closes_no_window(tmp_path, mortal.server, spec, partial(mortal.feed, f"times.{stream}"))


async def test_no_window_closes_while_acknowledgements_wait(broker: Broker, tmp_path: Path) -> None:
    stream = await broker.stream("times.{}", retention="workqueue")
    await broker.feed(f"times.{stream}", *(b"%d" % at for at in range(away.MESSAGES)))
    limits = Limits(unacked_max=away.UNACKNOWLEDGED_MAX)
    spec = broker.nats.stream(stream, value=str, limits=limits)
    await away.withheld_acknowledgements_close_no_window(tmp_path, spec)
