"""What users write: a flow and its streams. Builds a graph, runs nothing by itself."""

from streamflow.flow.flow import Flow
from streamflow.flow.running import Running, TableView
from streamflow.flow.stream import KeyedStream, Process, Stream

__all__ = ["Flow", "KeyedStream", "Process", "Running", "Stream", "TableView"]
