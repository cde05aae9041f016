"""What the tests of flows share: a server with workers, and a run on it that nothing disturbs."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.flows.deployed import Prefect, start_prefect, undisturbed_metrics
from tests.helpers import NO_BASELINES, prepare_home

_LAST = pytest.StashKey[pytest.Item]()
_RUNNING = pytest.StashKey[ExitStack]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note, of the tests in their order, the last that needs the server."""
    for item in items:
        if "prefect" in getattr(item, "fixturenames", ()):
            config.stash[_LAST] = item


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """End the server and its workers after that test: for nothing, they take a fifth of a core from the others."""
    if item is item.config.stash.get(_LAST, None) and (running := item.config.stash.get(_RUNNING, None)) is not None:
        running.close()


@pytest.fixture(scope="session")
def prefect(
    pytestconfig: pytest.Config, prefect_api: str, tmp_path_factory: pytest.TempPathFactory, topics_csv: Path, encoder: Path
) -> Iterator[Prefect]:
    config = {
        "name": "deployed",
        "store": str(tmp_path_factory.mktemp("store")),
        "data": {"source": str(topics_csv)},
        "model": {"name": str(encoder)},
        "baselines": NO_BASELINES,
        "training": {"epochs": 1, "learning_rate": 0.01, "max_length": 32},
    }
    with ExitStack() as stack:
        pytestconfig.stash[_RUNNING] = stack
        yield start_prefect(stack, prepare_home(tmp_path_factory.mktemp("server")), config)


@pytest.fixture(scope="session")
def undisturbed(prefect_api: str, prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Return what comes of `TRAINING` where nothing disturbs it."""
    return undisturbed_metrics(prefect, tmp_path_factory.mktemp("undisturbed"))
