"""A few of the soak's schedules, so that it keeps working."""

from pathlib import Path

import pytest

from tests.s3 import S3Server
from tests.soak.store_faults import impatient, run


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_of_faults_loses_nothing(s3_server: S3Server, tmp_path: Path, seed: int) -> None:
    with impatient():
        counts = run(s3_server, tmp_path, seed)
    assert sum(count for what, count in counts.items() if what.startswith("publish")) == 4
