"""Looking without touching: whether a flow could start with this stream, and if not, why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamflow.batch import Position
from streamflow.connect.contracts import Probe, SinkOptions
from streamflow.errors import ConnectorError, SettingsError
from streamflow_nats.jetstream import JetStream, StreamInfo, check_bound
from streamflow_nats.link import Link
from streamflow_nats.settings import Nats
from streamflow_nats.stream import StreamSettings

SHOWN_SUBJECTS_MAX: Final = 10

_Check = Callable[[Link, StreamInfo], None]


async def probe_source(nats: Nats, settings: StreamSettings, resume: Position | None) -> Probe:
    """Looks whether the stream can be read, and a position still fits it; makes no consumer."""
    from streamflow_nats.positional import check_position
    from streamflow_nats.source import is_positional

    def check(link: Link, info: StreamInfo) -> None:
        if settings.subject:
            check_bound(info, settings.subject, to_read=True)
        if resume is not None and is_positional(info):
            check_position(JetStream(link, settings.name), info, resume.at, resume.identity)

    return await _probe(nats, settings, check)


async def probe_sink(nats: Nats, settings: StreamSettings, options: SinkOptions) -> Probe:
    """Looks whether the stream can be written to in the mode asked for; publishes nothing."""
    from streamflow_nats.atomic import atomic_problem, marker_subject
    from streamflow_nats.sink import check_writable, default_subject

    def check(link: Link, info: StreamInfo) -> None:
        check_writable(info, settings)
        default_subject(info, settings, options)
        if settings.mode == "batch":
            problem = atomic_problem(info.config, link)
            if problem is not None:
                raise problem
            marker_subject(info.config, "sf.probe")

    return await _probe(nats, settings, check)


async def _probe(nats: Nats, settings: StreamSettings, check: _Check) -> Probe:
    facts = {"server": str(nats), "stream": settings.name}
    link: Link | None = None
    try:
        link = await Link.connect(nats, "streamflow probe")
        facts["version"] = str(link.info.get("version", "unknown"))
        facts["max_payload"] = str(link.payload_bytes_max)
        info = await JetStream(link, settings.name).info()
        config, state = info.config, info.state
        shown = config.subjects[:SHOWN_SUBJECTS_MAX]
        facts |= {
            "subjects": ", ".join(shown) + (" ..." if len(config.subjects) > len(shown) else ""),
            "retention": config.retention,
            "messages": str(state.messages),
            "sequences": f"{state.first_seq}..{state.last_seq}",
            "created": info.created,
            "atomic batches": "allowed" if config.allow_atomic else "not allowed",
        }
        check(link, info)
    except (ConnectorError, SettingsError) as error:
        return Probe(False, facts, error.message, error.hint)
    finally:
        if link is not None:
            await link.close()
    return Probe(True, facts)
