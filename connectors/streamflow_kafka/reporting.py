"""Committed positions told to a consumer group, so that tools show the flow's lag; they are never read back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from streamflow.batch import Partition, Position
from streamflow.errors import ConnectorError
from streamflow_kafka.client import Cluster

REPORT_SECONDS: Final = 1.0
"""Shortest time between two reports: epochs may be 10 ms."""
CLOSE_SECONDS: Final = 2.0
_NOT_COORDINATOR: Final = frozenset({14, 15, 16})
_UNKNOWN_PARTITION: Final = 3

_log = logging.getLogger("streamflow.kafka")


class Reporting:
    """Tells a group now and then where the flow is; a report that fails is left to the next one.

    Args:
        cluster: The brokers.
        group: The group's name.
    """

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster, self._group = cluster, group
        self._news: dict[Partition, int] = {}
        self._told = asyncio.Event()
        self._coordinator: int | None = None
        self._refused = False
        self._task = asyncio.create_task(self._run())

    def committed(self, positions: Mapping[Partition, Position]) -> None:
        """Takes note of what is committed."""
        if not self._refused:
            self._news |= {partition: position.at for partition, position in positions.items()}
            self._told.set()

    async def close(self) -> None:
        """Tells what is left to tell, if that is quick."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        with suppress(TimeoutError):
            await asyncio.wait_for(self._report(), CLOSE_SECONDS)

    async def _run(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            await self._report()
            await asyncio.sleep(REPORT_SECONDS)

    async def _report(self) -> None:
        if not self._news:
            return
        news, self._news = self._news, {}
        try:
            told = await self._send(news)
        except ConnectorError as error:
            told = False
            _log.debug("positions were not told to group %s: %s", self._group, error)
        if not told:
            self._coordinator = None
            self._news = news | self._news
            self._told.set()

    async def _send(self, news: Mapping[Partition, int]) -> bool:
        """Sends a report; False if the group has no coordinator at this time."""
        from aiokafka.errors import for_code
        from aiokafka.protocol.commit import OffsetCommitRequest
        from aiokafka.protocol.coordination import FindCoordinatorRequest

        if self._coordinator is None:
            found = await self._cluster.send(FindCoordinatorRequest(self._group, 0), purpose="group")
            if found.error_code:
                return False
            self._coordinator = found.coordinator_id
        topics: dict[str, list[tuple[int, int, str]]] = {}
        for partition, at in news.items():
            topic, _, number = partition.rpartition(":")
            topics.setdefault(topic, []).append((int(number), at, ""))
        request = OffsetCommitRequest(self._group, -1, "", -1, list(topics.items()))
        response = await self._cluster.send(request, self._coordinator, "group")
        codes = {code for _, parts in response.topics for _, code in parts if code}
        if codes & _NOT_COORDINATOR:
            return False
        if codes - {_UNKNOWN_PARTITION}:
            self._refused = True
            names = ", ".join(for_code(code).__name__ for code in sorted(codes))
            _log.warning("group %s cannot be told positions, so tools show no lag for it: %s", self._group, names)
        return True
