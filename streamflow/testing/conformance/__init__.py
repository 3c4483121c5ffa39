"""The conformance kit: what every source and sink must do, written once, run by each connector's own tests.

Subclass `SourceConformance` and `SinkConformance` in a test module, under a name that starts with ``Test``, and
fill in the hooks; pytest and pytest-asyncio do the rest::

    class TestMySource(SourceConformance):
        def spec(self):                          # settings only: no I/O
            return MyBroker(self.environment).stream("conformance")

        async def feed(self, payloads, partition=""):
            ...                                  # publish them as any other program would

        async def truncate(self, count, partition=""):
            ...                                  # what the broker's retention would do

A hook that a broker cannot offer stays as it is: the tests that need it are skipped and say why.
"""

import pytest

pytest.register_assert_rewrite(
    "streamflow.testing.conformance.connector",
    "streamflow.testing.conformance.sink",
    "streamflow.testing.conformance.sink_kit",
    "streamflow.testing.conformance.source",
    "streamflow.testing.conformance.source_kit",
)

from streamflow.testing.conformance.sink import SinkConformance  # noqa: E402 - behind the registration
from streamflow.testing.conformance.source import SourceConformance  # noqa: E402

__all__ = ["SinkConformance", "SourceConformance"]
