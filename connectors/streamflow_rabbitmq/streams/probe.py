"""Looking without touching: whether a flow could start with this stream, and if not, why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from streamflow.connect.contracts import Probe
from streamflow.errors import ConnectorError, SettingsError
from streamflow_rabbitmq.settings import RabbitMQ
from streamflow_rabbitmq.stream import StreamSettings
from streamflow_rabbitmq.streams.edges import edges
from streamflow_rabbitmq.streams.links import Links

PARTITIONS_SHOWN_MAX = 10

Check = Callable[[Links, list[str]], Awaitable[None]]


async def probe_stream(rabbit: RabbitMQ, settings: StreamSettings, check: Check | None = None) -> Probe:
    """Looks whether a stream, or each partition of a super stream, can be read.

    Args:
        rabbit: The broker.
        settings: The stream.
        check: What else must hold; gets the connections and the streams' names, and raises what does not.
    """
    facts = {"server": str(rabbit), "stream": settings.name}
    links = Links(rabbit, "streamflow probe", rabbit.times.heartbeat_seconds)
    try:
        link = await links.open()
        facts["version"] = link.version
        names = await links.partitions(settings.name) if settings.partitioned else [settings.name]
        if settings.partitioned:
            shown = ", ".join(names[:PARTITIONS_SHOWN_MAX])
            facts["partitions"] = f"{len(names)}: {shown}" + (" ..." if len(names) > PARTITIONS_SHOWN_MAX else "")
        for name in names:
            found = await edges(await links.to(name), name)
            facts[f"offsets of {name}"] = f"{found.start}..{found.end - 1}" if found.first else "empty"
        if check is not None:
            await check(links, names)
    except (ConnectorError, SettingsError) as error:
        return Probe(False, facts, error.message, error.hint)
    finally:
        await links.close()
    return Probe(True, facts)
