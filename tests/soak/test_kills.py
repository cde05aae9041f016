"""A kill of each sort; `python -m tests.soak.kills 20` makes the full count."""

from collections.abc import Iterator

import pytest

from tests.s3 import S3Server
from tests.soak.kills import NOTHING, SORTS, Experiment, kill_once


@pytest.fixture(scope="module")
def experiment(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    # A server of its own: this one is killed.
    server = S3Server(tmp_path_factory.mktemp("killed-s3"))
    server.start()
    try:
        yield Experiment(tmp_path_factory.mktemp("kills"), server, prefect_api, baselines=False)
    finally:
        server.stop()


# These draw moments in the middle of a run, or of its computing: those of others may be after the end.
SEEDS = {"compute process": (2, 0), "flow process": (2, 5), "S3 server": (7, 101)}


@pytest.mark.parametrize("sort", SORTS)
def test_a_kill_changes_nothing_of_the_result(experiment: Experiment, sort: str) -> None:
    assert any(kill_once(experiment, sort, seed) != NOTHING for seed in SEEDS[sort])
