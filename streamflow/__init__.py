"""streamflow: stateful stream processing for asyncio, exactly-once, with one SQLite file as its commit point."""

from streamflow.clock import Duration
from streamflow.connect.contracts import Guarantee, Level
from streamflow.connect.file import jsonl, lines
from streamflow.connect.memory import MemoryTopic
from streamflow.errors import StreamflowError
from streamflow.flow import Flow, KeyedStream, Process, Running, Stream
from streamflow.flow.state import list_state, map_state
from streamflow.graph import OnError
from streamflow.instrument import Instrument
from streamflow.operators.context import Context, Message, Output
from streamflow.policy import retry
from streamflow.runtime.settings import Settings
from streamflow.state.collections import ListState, MapState

stop = OnError.STOP
skip = OnError.SKIP


def otherwise(record: object) -> bool:
    """The predicate that takes every record: the last branch of an exhaustive `Stream.branch`."""
    return True


__all__ = [
    "Context",
    "Duration",
    "Flow",
    "Guarantee",
    "Instrument",
    "KeyedStream",
    "Level",
    "ListState",
    "MapState",
    "MemoryTopic",
    "Message",
    "OnError",
    "Output",
    "Process",
    "Running",
    "Settings",
    "Stream",
    "StreamflowError",
    "jsonl",
    "lines",
    "list_state",
    "map_state",
    "otherwise",
    "retry",
    "skip",
    "stop",
]
