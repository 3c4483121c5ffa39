"""Results of async functions that are used again: records of one key share a call, and what it gave, for some time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from streamflow.clock import Clock
from streamflow.policy import CacheSpec


def cached(function: Callable[..., Awaitable[Any]], spec: CacheSpec, clock: Clock) -> Callable[..., Awaitable[Any]]:
    """A function whose results are used again.

    GUARANTEE: of the records of one key only one is called at a time; one whose call fails leaves the next to try.
    BOUND: ``entries_max`` results; the one that was not used for longest goes first.

    Args:
        function: The user's function; its last argument is the record.
        spec: Which results, and for how long.
        clock: The time.
    """
    results: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
    under_way: dict[Hashable, asyncio.Future[None]] = {}

    async def call(*arguments: Any) -> Any:
        record = arguments[-1]
        key = record if spec.by is None else spec.by(record)
        while True:
            found = results.get(key)
            if found is not None:
                if found[0] > clock.monotonic():
                    results.move_to_end(key)
                    return found[1]
                del results[key]
            other = under_way.get(key)
            if other is None:
                break
            await asyncio.wait([other])  # the other's end, whatever it is
        ended = under_way[key] = asyncio.get_running_loop().create_future()
        try:
            value = await function(*arguments)
            results[key] = (clock.monotonic() + spec.ttl_seconds, value)
        finally:
            del under_way[key]
            ended.set_result(None)
        if len(results) > spec.entries_max:
            results.popitem(last=False)
        return value

    return call
