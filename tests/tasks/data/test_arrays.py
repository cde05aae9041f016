"""A dataset's columns as arrays."""

import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pytest

from tasks.data.arrays import as_array


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32", "float64"])
def test_a_column_keeps_its_type_and_its_order(dtype: str, tmp_path: Path) -> None:
    given = np.array([3, 1, 2**31 - 1, 0], dtype)
    datasets.Dataset.from_dict(
        {"n": given, "text": list("abcd")},
        features=datasets.Features({"n": datasets.Value(dtype), "text": datasets.Value("string")}),
    ).save_to_disk(str(tmp_path / "rows"))
    rows = datasets.Dataset.load_from_disk(str(tmp_path / "rows"))
    found = as_array(rows, "n")
    assert found.dtype == dtype
    assert np.array_equal(found, given)
    assert np.array_equal(as_array(rows.select([2, 0]), "n"), given[[2, 0]])
    assert np.array_equal(as_array(datasets.concatenate_datasets([rows, rows]), "n"), np.tile(given, 2))
    assert rows[0] == {"n": 3, "text": "a"}, "the rows are left as they were"


def test_classes_are_numbers() -> None:
    features = datasets.Features({"label": datasets.ClassLabel(names=["a", "b"])})
    assert as_array(datasets.Dataset.from_dict({"label": [1, 0]}, features=features), "label").tolist() == [1, 0]


def test_it_takes_the_memory_of_the_numbers() -> None:
    rows = datasets.Dataset.from_dict({"n": np.arange(2**20, 2**20 + 200_000)})
    as_array(rows, "n")
    tracemalloc.start()
    as_array(rows, "n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6, "200,000 of Python's own are 8 MB"
