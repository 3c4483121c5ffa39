"""Looking without touching: whether a flow could start with these topics, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamflow.batch import Partition, Position
from streamflow.connect.contracts import Probe
from streamflow.errors import ConnectorError, NotFound, SettingsError
from streamflow_kafka.client import EARLIEST, LATEST, Cluster
from streamflow_kafka.settings import Kafka
from streamflow_kafka.starts import Opening
from streamflow_kafka.topic import TopicSettings

SHOWN_TOPICS_MAX: Final = 10


async def probe_source(kafka: Kafka, settings: TopicSettings, resume: Mapping[Partition, Position]) -> Probe:
    """Looks whether the topics can be read, and positions still fit them; joins no group, tells no offsets."""
    facts = {"servers": str(kafka)}
    cluster: Cluster | None = None
    try:
        cluster = await Cluster.connect(kafka, settings.options, "streamflow.probe")
        await _look(cluster, settings, facts)
        if resume:
            await Opening(cluster, settings, resume).starts()
    except (ConnectorError, SettingsError) as error:
        return Probe(False, facts, error.message, error.hint)
    finally:
        if cluster is not None:
            await cluster.close()
    return Probe(True, facts)


async def probe_sink(kafka: Kafka, settings: TopicSettings) -> Probe:
    """Looks whether the topic is there; begins no producer, moves no marker."""
    facts = {"servers": str(kafka)}
    cluster: Cluster | None = None
    try:
        cluster = await Cluster.connect(kafka, settings.options, "streamflow.probe")
        await _look_to_write(cluster, settings, facts)
    except (ConnectorError, SettingsError) as error:
        return Probe(False, facts, error.message, error.hint)
    finally:
        if cluster is not None:
            await cluster.close()
    return Probe(True, facts)


async def _look_to_write(cluster: Cluster, settings: TopicSettings, facts: dict[str, str]) -> None:
    from streamflow_kafka.marker import OffsetFetch
    from streamflow_kafka.requests import BeginAgain
    from streamflow_kafka.starts import find_topics
    from streamflow_kafka.tail import topic_settings

    told = await cluster.metadata([])
    facts |= {"cluster": told.cluster, "brokers": str(len(told.brokers))}
    await cluster.require(BeginAgain("", 0, (0, 0)), OffsetFetch("", "", 0, stable=True))
    (topic,) = (await find_topics(cluster, settings)).values()
    facts |= {"topic": topic.name, "partitions": str(len(topic.leaders))}
    facts |= await topic_settings(cluster, topic.name)


async def _look(cluster: Cluster, settings: TopicSettings, facts: dict[str, str]) -> None:
    from streamflow_kafka.starts import find_topics, offsets, places

    told = await cluster.metadata([])
    facts |= {"cluster": told.cluster, "brokers": str(len(told.brokers))}
    topics = await find_topics(cluster, settings)
    shown = sorted(topics)[:SHOWN_TOPICS_MAX]
    facts["topics"] = ", ".join(shown) + (" ..." if len(topics) > len(shown) else "")
    if not topics:
        raise NotFound(
            f"Kafka at {cluster.kafka} has no topic like {settings.pattern}",
            hint="A pattern must match a topic when it is first read, so that its start can be stored.",
        )
    found = places(topics)
    begins, ends = await offsets(cluster, found, EARLIEST), await offsets(cluster, found, LATEST)
    facts["partitions"] = str(len(found))
    facts["offsets"] = ", ".join(f"{name} {begins[name]}..{ends[name]}" for name in list(found)[:SHOWN_TOPICS_MAX])
