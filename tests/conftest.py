"""Fixtures that several test files share."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import empty_database, make_decoder, make_encoder, topic_rows, write_csv

# Of the processes that run the tests each keeps, with all that it starts, to its share of the cores: threads that wait for each
# other on a core that another one computes on made a training take four times as long.
if (_worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    _cores, _workers = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, _cores[int(_worker[2:]) % len(_cores) :: _workers])
# Before any library is imported: no test may reach out, nor see the settings of who runs it.
os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
for _name in [name for name in os.environ if name.startswith("PREFECT_API_")]:
    del os.environ[_name]
for _name in [name for name in os.environ if name.startswith(("AWS_", "FINETUNE_FLOWS_"))]:
    del os.environ[_name]
# Tests that compute in this process do it beside servers, as the compute process does.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Nor their accounts, nor a service that gives out roles.
os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}

pytest_plugins = ["tests.s3", "tests.webhook"]


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this test run a Prefect home of its own."""
    from prefect.settings import PREFECT_HOME, temporary_settings

    home = tmp_path_factory.mktemp("prefect-home")
    os.environ["PREFECT_HOME"] = str(home)
    with temporary_settings({PREFECT_HOME: home}):
        yield home


@pytest.fixture(scope="session")
def prefect_api(prefect_home: Path) -> Iterator[str]:
    """Start a real Prefect server and return the URL of its API; flows of this process use it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.local_server import local_server

    with local_server() as server:
        url = server.wait_for_url()
        with closing(sqlite3.connect(prefect_home / "prefect.db")) as made, closing(sqlite3.connect(empty_database())) as empty:
            made.backup(empty)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
            for worker in (APILogWorker, EventsWorker):
                worker.drain_all(timeout=5)


@pytest.fixture(scope="session")
def _compute() -> Iterator[Any]:
    from tasks.compute.client import ComputeProcess

    class Kept(ComputeProcess):
        def close(self, *, kill: bool = False) -> None:
            if kill:
                super().close(kill=True)

    kept = Kept()
    yield kept
    kept.close(kill=True)


@pytest.fixture(scope="module")
def kept_compute(_compute: Any) -> Iterator[Any]:
    """Let the flows that run in this process leave their compute process to the next one: each takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.pipeline.ComputeProcess", lambda: _compute)
        patch.setattr("tasks.prediction.step.ComputeProcess", lambda: _compute)
        yield _compute


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny BERT without a head."""
    return make_encoder(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny GPT-Neo without a pad token."""
    return make_decoder(tmp_path_factory.mktemp("models") / "tiny-gpt-neo")


@pytest.fixture(scope="session")
def topics_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV file with 240 rows of three topics; about a tenth each becomes validation and test."""
    return write_csv(tmp_path_factory.mktemp("data") / "topics.csv", topic_rows(240))


# The longest first: each is given whole to one of the processes that run the tests, and both shall be busy to the end.
_LONGEST = "test_deployments test_gpu_deployment test_ui test_kills test_launch test_recovery test_s3_runs".split()
_LONGEST += "test_champion test_predict test_inference".split()
# These share a server with workers, which takes long to start: one of the processes gets them all.
_DEPLOYED = _LONGEST[:3]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first."""
    items.sort(key=lambda item: _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give out modules, of which those that share a server count as one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return "deployed" if Path(path).stem in _DEPLOYED else path

    return Scheduling(config, log)
