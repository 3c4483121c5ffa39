"""Contracts between the engine and the outside: sources, sinks, guarantees; memory and file connectors."""
