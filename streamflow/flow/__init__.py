"""What users write: a flow and its streams. Builds a graph, runs nothing by itself."""

from streamflow.flow.flow import Flow
from streamflow.flow.keyed import KeyedStream
from streamflow.flow.process import Process
from streamflow.flow.running import Running, TableView
from streamflow.flow.stream import Stream
from streamflow.flow.subscribing import Subscription

__all__ = ["Flow", "KeyedStream", "Process", "Running", "Stream", "Subscription", "TableView"]
