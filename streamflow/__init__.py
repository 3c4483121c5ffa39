"""streamflow: stateful stream processing for asyncio, exactly-once, with one SQLite file as its commit point."""

from streamflow.batch import DeadLetter
from streamflow.clock import Duration
from streamflow.codecs import MemorySchemaRegistry, avro, msgpack, protobuf
from streamflow.connect.contracts import Guarantee, Level
from streamflow.connect.file import jsonl, lines
from streamflow.connect.memory import MemoryTopic
from streamflow.connect.schema_registry import HttpSchemaRegistry
from streamflow.connect.tls import Tls
from streamflow.errors import StreamflowError
from streamflow.flow import Flow, KeyedStream, Process, Running, Stream, Subscription
from streamflow.flow.joined import JoinResult, LateRecords
from streamflow.flow.ordering import merge
from streamflow.flow.state import list_state, map_state
from streamflow.flow.tables import Table
from streamflow.flow.windows import WindowedStream, WindowResult
from streamflow.graph import OnError
from streamflow.instrument import Instrument
from streamflow.operators.aggregator import Aggregator, where
from streamflow.operators.aggregators import aggregator, count, mean, reduce, sum, variance
from streamflow.operators.context import Context, Message, Output
from streamflow.operators.keeping import collect, distinct, first, last, max, min, top_k
from streamflow.operators.sketches import approx_distinct, quantiles
from streamflow.operators.tables import Change
from streamflow.operators.window_kinds import count_window, global_window, session, sliding, tumbling
from streamflow.operators.windows import Windowed
from streamflow.policy import cache, retry
from streamflow.runtime.resources import Resource, circuit_breaker
from streamflow.runtime.settings import Settings
from streamflow.runtime.watermarks import Watermarks
from streamflow.state.collections import ListState, MapState
from streamflow.state.store import StoredLetter

stop = OnError.STOP
skip = OnError.SKIP
dead_letter = OnError.DEAD_LETTER


def otherwise(record: object) -> bool:
    """The predicate that takes every record: the last branch of an exhaustive `Stream.branch`."""
    return True


__all__ = [
    "Aggregator",
    "Change",
    "Context",
    "DeadLetter",
    "Duration",
    "Flow",
    "Guarantee",
    "HttpSchemaRegistry",
    "Instrument",
    "JoinResult",
    "KeyedStream",
    "LateRecords",
    "Level",
    "ListState",
    "MapState",
    "MemorySchemaRegistry",
    "MemoryTopic",
    "Message",
    "OnError",
    "Output",
    "Process",
    "Resource",
    "Running",
    "Settings",
    "StoredLetter",
    "Stream",
    "StreamflowError",
    "Subscription",
    "Table",
    "Tls",
    "Watermarks",
    "WindowResult",
    "Windowed",
    "WindowedStream",
    "aggregator",
    "approx_distinct",
    "avro",
    "cache",
    "circuit_breaker",
    "collect",
    "count",
    "count_window",
    "dead_letter",
    "distinct",
    "first",
    "global_window",
    "jsonl",
    "last",
    "lines",
    "list_state",
    "map_state",
    "max",
    "mean",
    "merge",
    "min",
    "msgpack",
    "otherwise",
    "protobuf",
    "quantiles",
    "reduce",
    "retry",
    "session",
    "skip",
    "sliding",
    "stop",
    "sum",
    "top_k",
    "tumbling",
    "variance",
    "where",
]
