"""Fixtures for the whole suite."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.prometheus import PrometheusBinary, prometheus_binaries, victoria_metrics_binary

# How long an example takes says more about the machine than about the law.
settings.register_profile("suite", parent=settings(), deadline=None)
settings.load_profile("suite")

_END_TO_END = Path(__file__).parent / "e2e"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where workers share the tests, one goes through a file; and through all that live in real
    time beside real servers, so that no two of these share the machine."""
    for item in items:
        group = _END_TO_END if item.path.parent == _END_TO_END else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``prometheus_binary`` once for each that is there."""
    if "prometheus_binary" in metafunc.fixturenames:
        binaries = prometheus_binaries()
        metafunc.parametrize(
            "prometheus_binary", binaries or [None], ids=str, indirect=True, scope="session"
        )


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A sidecar that a test starts in this process sets up the log for all tests after it."""
    logger = logging.getLogger("sidecar")
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers
    logger.propagate = propagate


@pytest.fixture(scope="session")
def prometheus_binary(request: pytest.FixtureRequest) -> PrometheusBinary:
    """Each Prometheus in turn: the one on the path, and those in SENTINEL_TEST_PROMETHEUS."""
    if not isinstance(request.param, PrometheusBinary):
        pytest.fail("no prometheus on the path: run tests/run, or apt-get install prometheus")
    return request.param


@pytest.fixture(scope="session")
def newest_prometheus() -> PrometheusBinary:
    """One Prometheus, where one is enough."""
    if not prometheus_binaries():
        pytest.fail("no prometheus on the path: run tests/run, or apt-get install prometheus")
    return prometheus_binaries()[-1]


@pytest.fixture(scope="session")
def has_victoria_metrics() -> None:
    """Ask for it with ``usefixtures`` where a test needs VictoriaMetrics."""
    if victoria_metrics_binary() is None:
        pytest.fail("no victoria-metrics on the path: run tests/run, or install it with apt-get")
