"""Tools for testing flows and connectors; `streamflow.testing.conformance` needs pytest, the rest does not."""
