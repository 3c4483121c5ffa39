"""What every test gets: real brokers on request, and detectors for calls that block the loop and for unpickling."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import property_runs
from tests.blocking import BlockingDetector
from tests.brokers import KAFKA, NATS, RABBITMQ, KafkaServer, NatsServer, RabbitServer, use_broker
from tests.brokers.required import missing_lines, need
from tests.unpickling import UnpicklingDetector


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long tests, and more rounds of some others; no more")
    parser.addoption("--longest", action="store_true", help="the same, with what takes too long for `make faults`")


def pytest_configure(config: pytest.Config) -> None:
    property_runs.choose(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    longest = config.getoption("--longest")
    if longest or config.getoption("--long"):
        # What does the same in a long run is left to `make test`.
        wanted = {item: _is_long(item) or (longest and item.get_closest_marker("longest")) for item in items}
        config.hook.pytest_deselected(items=[item for item in items if not wanted[item]])
        items[:] = [item for item in items if wanted[item]]
        return
    for name, command in (("long", "make faults` or `make faults-long"), ("longest", "make faults-long")):
        for item in items:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"{name}: for `{command}`"))


def _is_long(item: pytest.Item) -> bool:
    if item.get_closest_marker("longest"):
        return False
    return item.get_closest_marker("long") is not None or "long_run" in getattr(item, "fixturenames", ())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says aloud which broker could not be had, so that nobody takes its tests for passed."""
    for line in missing_lines():
        terminalreporter.write_sep("!", "a broker is missing", red=True, bold=True)
        terminalreporter.write_line(line, red=True)


@pytest.fixture(scope="session")
def long_run(pytestconfig: pytest.Config) -> bool:
    """Whether there is time for many rounds (`make faults`)."""
    return bool(pytestconfig.getoption("--long") or pytestconfig.getoption("--longest"))


@pytest.fixture(scope="session")
def longest_run(pytestconfig: pytest.Config) -> bool:
    """Whether there is time for very many rounds (`make faults-long`)."""
    return bool(pytestconfig.getoption("--longest"))


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    """The shared NATS (what listens, else Docker, else native). Never kill it; give streams unique names."""
    with use_broker(NATS) as shared:
        yield shared.url


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    """A private NATS of this test's own, to be killed, frozen and restarted at will."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def kafka_server() -> Iterator[KafkaServer]:
    """A private Kafka of this test's own, to be killed, frozen and restarted at will."""
    need(KAFKA)
    with KafkaServer() as server:
        yield server


@pytest.fixture
def rabbit_server() -> Iterator[RabbitServer]:
    """A private RabbitMQ of this test's own, to be killed, frozen and restarted at will; it takes five seconds."""
    need(RABBITMQ)
    with RabbitServer() as server:
        yield server


@pytest.fixture(scope="session")
def lasting_rabbit() -> Iterator[RabbitServer]:
    """A private RabbitMQ for all tests of a session; who kills it starts it again. Give names that are unique."""
    need(RABBITMQ)
    with RabbitServer() as server:
        yield server


@pytest.fixture(scope="session")
def _blocking_detector() -> Iterator[BlockingDetector]:
    detector = BlockingDetector()
    with detector.installed():
        yield detector


@pytest.fixture(autouse=True)
def no_blocking_calls(
    request: pytest.FixtureRequest, _blocking_detector: BlockingDetector
) -> Iterator[BlockingDetector]:
    """Fail a test in which streamflow blocks the event loop, unless it is marked `allow_blocking(reason)`."""
    detector = _blocking_detector
    detector.violations.clear()
    detector.enabled = request.node.get_closest_marker("allow_blocking") is None
    yield detector
    detector.enabled = False
    if detector.violations:
        pytest.fail("streamflow blocked the event loop: " + "; ".join(detector.violations), pytrace=False)


_unpickling = UnpicklingDetector()


@pytest.fixture(autouse=True)
def no_unpickling() -> Iterator[UnpicklingDetector]:
    """Fail a test in which anything is unpickled, whatever became of the error."""
    _unpickling.violations.clear()
    _unpickling.enabled = True
    yield _unpickling
    _unpickling.enabled = False
    if _unpickling.violations:
        pytest.fail("unpickled: " + ", ".join(_unpickling.violations), pytrace=False)
