"""The step `load-dataset` in a flow: the artifact that a CSV file becomes."""

import csv
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
from prefect import flow

from tasks.config import ExperimentConfig
from tasks.data.step import data_identity, load_dataset
from tasks.errors import DataError
from tasks.kinds.summarization import SummarizationConfig, SummarizationData
from tasks.kinds.text_classification import TextClassificationConfig, TextClassificationData
from tasks.records import SPLITS, DatasetRef, Inputs
from tasks.steps import Run
from tests.helpers import topic_rows, write_csv

pytestmark = pytest.mark.usefixtures("prefect_api")


def load(store: Path, seed: int = 42, **settings: Any) -> tuple[DatasetRef, Path]:
    """Run the step in a flow and return its record and the artifact's folder."""
    data = TextClassificationData(**settings)
    return load_as("text-classification", TextClassificationConfig(store=str(store), seed=seed, data=data))


def load_as(kind: str, config: ExperimentConfig) -> tuple[DatasetRef, Path]:
    """Run the step for any kind."""
    identity = data_identity(config.data, config.store)
    run = Run(kind_name=kind, config=config, inputs=Inputs(data_identity=identity, model_identity="none"))

    @flow(name="load", log_prints=False)
    def loading() -> DatasetRef:
        return load_dataset(run)

    reference = loading()
    return reference, run.store.fetch(reference.key)


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {split: datasets.load_from_disk(str(folder / split)).to_list() for split in SPLITS}


def test_a_csv_file_becomes_three_splits_that_keep_every_row(tmp_path: Path, topics_csv: Path) -> None:
    reference, folder = load(tmp_path / "store", source=str(topics_csv))
    with topics_csv.open(newline="") as stream:
        given = list(csv.DictReader(stream))
    rows = rows_of(folder)
    assert {split: len(rows[split]) for split in SPLITS} == reference.model_dump(include=set(SPLITS))
    assert sorted(int(row["id"]) for split in SPLITS for row in rows[split]) == list(range(len(given)))

    labels = ["market", "space", "sport"]
    for split in SPLITS:
        saved = datasets.load_from_disk(str(folder / split))
        assert saved.features == {
            "id": datasets.Value("string"),
            "hash": datasets.Value("uint64"),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=labels),
        }
        for row in rows[split]:
            source = given[int(row["id"])]
            assert (row["text"], labels[row["label"]]) == (source["text"], source["label"])
            folded = " ".join(source["text"].casefold().split())
            assert f"{row['hash']:016x}" == hashlib.sha256(folded.encode()).hexdigest()[:16]

    info = json.loads((folder / "info.json").read_text())
    assert info["labels"] == labels
    assert info["checks"]["rows"] == {split: len(rows[split]) for split in SPLITS}
    assert info["checks"]["cut_from_train"] == ["validation", "test"]
    assert info["checks"]["classes"]["test"] == [sum(row["label"] == number for row in rows["test"]) for number in range(3)]


def test_given_splits_a_pair_and_ids_are_kept(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("dev", 6), ("test", 9)):
        rows = topic_rows(count, seed=count)
        write_csv(
            tmp_path / "data" / f"{split}.csv",
            [
                {"key": f"{split}-{number}", "one": row["text"], "two": f"{split} {number}", "topic": row["label"]}
                for number, row in enumerate(rows)
            ],
        )
    reference, folder = load(
        tmp_path / "store",
        source=str(tmp_path / "data"),
        text_column="one",
        pair_column="two",
        label_column="topic",
        id_column="key",
    )
    rows = rows_of(folder)
    assert (reference.train, reference.validation, reference.test) == (12, 6, 9)
    assert [row["id"] for row in rows["validation"]] == [f"dev-{number}" for number in range(6)]
    assert [row["pair"] for row in rows["test"]] == [f"test {number}" for number in range(9)]
    assert [row["text"] for row in rows["train"]] == [row["text"] for row in topic_rows(12, seed=12)]
    assert [["market", "space", "sport"][row["label"]] for row in rows["train"]] == [
        row["label"] for row in topic_rows(12, seed=12)
    ]


def test_shared_empty_and_contradictory_rows_are_handled_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [
        *topic_rows(12),
        {"text": "the goal", "label": "sport"},
        {"text": "THE  goal", "label": "space"},
        {"text": "", "label": "sport"},
    ]
    write_csv(tmp_path / "data" / "train.csv", train)
    write_csv(tmp_path / "data" / "valid.csv", topic_rows(6, seed=1))
    write_csv(tmp_path / "data" / "test.csv", [{"text": "The goal", "label": "sport"}, *topic_rows(6, seed=2)])
    reference, folder = load(tmp_path / "store", source=str(tmp_path / "data"))
    assert (reference.train, reference.validation, reference.test) == (12, 6, 7)
    assert [row["id"] for row in rows_of(folder)["train"]] == [str(number) for number in range(12)]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "2 rows are in more than one split after case and space folding: dropped from train (or validation).",
        "1 rows with an empty text are left out.",
        "1 texts occur with more than one label.",
    ]


def test_an_id_that_occurs_twice_in_a_split_is_refused(tmp_path: Path) -> None:
    rows = [{"key": "k7" if number in (3, 40, 41) else str(number), **row} for number, row in enumerate(topic_rows(120))]
    source = write_csv(tmp_path / "topics.csv", rows)
    with pytest.raises(
        DataError, match=r"Column 'key' holds 'k7' [23] times in split '\w+'; ids must be unique: set data\.id_column"
    ):
        load(tmp_path / "store", source=str(source), id_column="key")


def test_a_row_that_the_kind_cannot_use_is_refused(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "summary": " " if number == 50 else "short"} for number, row in enumerate(topic_rows(120))]
    data = SummarizationData(source=str(write_csv(tmp_path / "topics.csv", rows)))
    with pytest.raises(DataError, match=r"topics\.csv.* row 51: column 'summary' is ' ', so its summary is missing"):
        load_as("summarization", SummarizationConfig(store=str(tmp_path / "store"), data=data))


def test_a_dataset_is_found_again_until_a_setting_or_its_bytes_change(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "topics.csv", topic_rows(120))
    first, _ = load(tmp_path / "store", source=str(source))
    assert load(tmp_path / "store", source=str(source))[0] == first
    limited, folder = load(tmp_path / "store", source=str(source), max_train_rows=20)
    redrawn, other = load(tmp_path / "store", seed=43, source=str(source), max_train_rows=20)
    assert limited.train == redrawn.train == 20
    drawn = [{row["id"] for row in rows_of(artifact)["train"]} for artifact in (folder, other)]
    assert len(drawn[0]) == len(drawn[1]) == 20
    assert drawn[0] != drawn[1]
    write_csv(source, topic_rows(121))
    assert len({first.key, limited.key, redrawn.key, load(tmp_path / "store", source=str(source))[0].key}) == 4
