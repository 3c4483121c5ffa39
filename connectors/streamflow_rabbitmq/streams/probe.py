"""Looking without touching: whether a flow could start with this stream, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamflow.batch import Partition, Position
from streamflow.connect.contracts import Probe
from streamflow.errors import ConnectorError, SettingsError
from streamflow_rabbitmq.settings import RabbitMQ
from streamflow_rabbitmq.stream import StreamSettings
from streamflow_rabbitmq.streams.edges import edges
from streamflow_rabbitmq.streams.links import Links
from streamflow_rabbitmq.streams.subscription import check_position

PARTITIONS_SHOWN_MAX: Final = 10
NOWHERE: Final = Position(0)


async def probe_stream(
    rabbit: RabbitMQ, settings: StreamSettings, resume: Mapping[Partition, Position] | None = None
) -> Probe:
    """Looks whether a stream, or each partition of a super stream, can be used, and positions still fit it.

    Args:
        rabbit: The broker.
        settings: The stream.
        resume: Where a source would go on.
    """
    facts = {"server": str(rabbit), "stream": settings.name}
    links = Links(rabbit, "streamflow probe", rabbit.times.heartbeat_seconds)
    try:
        link = await links.open()
        facts["version"] = link.version
        streams = await links.streams(settings, resume or ())
        if settings.partitioned:
            shown = ", ".join(list(streams)[:PARTITIONS_SHOWN_MAX])
            facts["partitions"] = f"{len(streams)}: {shown}" + (" ..." if len(streams) > PARTITIONS_SHOWN_MAX else "")
        for partition, name in streams.items():
            stored = (resume or {}).get(partition, NOWHERE)
            found = await edges(await links.to(name), name, at_least=max(stored.at, 1 if stored.identity else 0))
            facts[f"offsets of {name}"] = f"{found.start}..{found.end - 1}" if found.first else "empty"
            if stored is not NOWHERE:
                check_position(found, stored.at, stored.identity, f"stream {name} at {rabbit}")
    except (ConnectorError, SettingsError) as error:
        return Probe(False, facts, error.message, error.hint)
    finally:
        await links.close()
    return Probe(True, facts)
