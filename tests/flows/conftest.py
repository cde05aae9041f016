"""The server with its workers, for the tests of deployments and of the UI."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.flows.deployed import Prefect, start_prefect
from tests.helpers import NO_BASELINES


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, topics_csv: Path, encoder: Path) -> Iterator[Prefect]:
    config = {
        "name": "deployed",
        "store": str(tmp_path_factory.mktemp("store")),
        "data": {"source": str(topics_csv)},
        "model": {"name": str(encoder)},
        "baselines": NO_BASELINES,
        "training": {"epochs": 1, "learning_rate": 0.01, "max_length": 32},
    }
    with ExitStack() as stack:
        yield start_prefect(stack, tmp_path_factory.mktemp("server"), config)
