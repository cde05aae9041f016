"""Fixtures of the compute process's tests."""

from pathlib import Path

import pytest

from tests.helpers import topic_rows
from tests.tasks.compute.commands import save_rows, save_tokens


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a dataset with something to learn: 192 rows to train, 30 to validate and 30 to test."""
    sizes = {"train": 192, "validation": 30, "test": 30}
    splits = {split: topic_rows(size, seed=seed) for seed, (split, size) in enumerate(sizes.items())}
    return save_rows(tmp_path_factory.mktemp("rows"), **splits)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory, rows: Path, encoder: Path) -> Path:
    """Return the folder of its tokens."""
    return save_tokens(tmp_path_factory.mktemp("tokens"), rows, encoder)


@pytest.fixture(scope="session")
def decoder_tokens(tmp_path_factory: pytest.TempPathFactory, rows: Path, decoder: Path) -> Path:
    """Return the folder of its tokens for the decoder, which learns them faster."""
    return save_tokens(tmp_path_factory.mktemp("decoder-tokens"), rows, decoder)
