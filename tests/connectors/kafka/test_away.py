"""A broker that is away for longer than ``idle`` is no silence: no window closes, and nothing held is released."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.connectors import away
from tests.connectors.kafka.broker import Broker


async def test_no_window_closes_while_the_broker_is_away(broker: Broker, tmp_path: Path) -> None:
    topic = await broker.topic()
    spec = broker.kafka.topic(topic, value=str)
    await away.a_dead_broker_closes_no_window(tmp_path, broker.server, spec, partial(broker.feed, topic))


@pytest.mark.long
async def test_no_window_closes_while_the_broker_hangs(broker: Broker, tmp_path: Path) -> None:
    topic = await broker.topic()
    spec = broker.kafka.topic(topic, value=str)
    await away.a_frozen_broker_closes_no_window(tmp_path, broker.server, spec, partial(broker.feed, topic))
