"""Looking without touching: whether a flow could start with this queue or exchange, and if not, why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from streamflow.connect.contracts import Probe
from streamflow.errors import ConnectorError, SettingsError
from streamflow_rabbitmq.declare import exchange_there, queue_there
from streamflow_rabbitmq.link import Link
from streamflow_rabbitmq.settings import RabbitMQ
from streamflow_rabbitmq.sink import Target

_Check = Callable[[Link], Awaitable[Mapping[str, str]]]


async def probe_queue(rabbit: RabbitMQ, name: str) -> Probe:
    """Looks whether a queue can be found; consumes nothing."""

    async def check(link: Link) -> Mapping[str, str]:
        return await queue_there(link, name, None)

    return await _probe(rabbit, {"queue": name}, check)


async def probe_target(rabbit: RabbitMQ, target: Target) -> Probe:
    """Looks whether an exchange, or a queue to publish to, can be found; publishes nothing."""

    async def check(link: Link) -> Mapping[str, str]:
        if target.exchange:
            await exchange_there(link, target.exchange, None)
            return {}
        return await queue_there(link, target.routing_key, None)

    what = {"exchange": target.exchange} if target.exchange else {"queue": target.routing_key}
    return await _probe(rabbit, what, check)


async def _probe(rabbit: RabbitMQ, what: Mapping[str, str], check: _Check) -> Probe:
    facts = {"broker": str(rabbit), **what}
    link: Link | None = None
    try:
        link = await Link.connect(rabbit, "streamflow probe")
        facts["version"] = str(link.info.get("version", "unknown"))
        facts["cluster"] = str(link.info.get("cluster_name", "unknown"))
        facts |= await check(link)
    except (ConnectorError, SettingsError) as error:
        return Probe(False, facts, error.message, error.hint)
    finally:
        if link is not None:
            await link.close()
    return Probe(True, facts)
