"""From `data.source` to parts: which files make which split, Hub id or path, saved datasets, and identities."""

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from tasks.data.source import digest_files, find_files, is_hub_id, is_saved_dataset, local_identity, open_local, parts_of
from tasks.errors import ConfigError, DataError, InputError
from tasks.kinds.text_classification import TextClassificationData
from tests.helpers import topic_rows, write_csv


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text,label\n{name},x\n")
    return folder


def found(data: TextClassificationData) -> dict[str, list[str]]:
    return {split: [path.name for path in paths] for split, paths in find_files(data).items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.csv", "test.csv"], {"train": ["train.csv"], "test": ["test.csv"]}),
        (
            ["Training.csv", "dev.csv", "testing.csv"],
            {"train": ["Training.csv"], "validation": ["dev.csv"], "test": ["testing.csv"]},
        ),
        (
            ["train-00001-of-2.parquet", "train-00000-of-2.parquet", "valid_a.jsonl", "test2.csv"],
            {
                "train": ["train-00000-of-2.parquet", "train-00001-of-2.parquet"],
                "validation": ["valid_a.jsonl"],
                "test": ["test2.csv"],
            },
        ),
        (["val.csv", "train.csv", "trainer.csv", "notes.csv"], {"train": ["train.csv"], "validation": ["val.csv"]}),
        (["b.csv", "a.csv", ".c.csv"], {"train": ["a.csv", "b.csv"]}),
        (["reviews.csv", "test.csv"], {"train": ["reviews.csv"], "test": ["test.csv"]}),
        (["train.csv", "readme.md", ".train.csv", "test.csv.bak", "sub/test.csv"], {"train": ["train.csv"]}),
    ],
)
def test_the_splits_of_a_folder_are_found_by_the_names_of_its_files(
    tmp_path: Path, names: list[str], expected: dict[str, list[str]]
) -> None:
    assert found(TextClassificationData(source=str(touch(tmp_path / "data", *names)))) == expected


@pytest.mark.parametrize("source", ["data", "data/*e*.csv"])
def test_files_that_are_all_called_validation_or_test_leave_none_for_train(tmp_path: Path, source: str) -> None:
    touch(tmp_path / "data", "dev.csv", "test.csv")
    with pytest.raises(DataError, match=r"holds no file for train, only 'dev.csv', 'test.csv'; set data\.train"):
        found(TextClassificationData(source=str(tmp_path / source)))


FOLDER = ["train.csv", "dev.csv", "test.csv", "more/x.csv", "more/y.csv"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"source": "data/test.csv"}, {"train": ["test.csv"]}),
        ({"source": "data/*r*.csv"}, {"train": ["train.csv"]}),
        ({"source": "data/**/?.csv"}, {"train": ["x.csv", "y.csv"]}),
        ({"source": "data", "test": "more"}, {"train": ["train.csv"], "validation": ["dev.csv"], "test": ["x.csv", "y.csv"]}),
        ({"source": "data", "train": "more/*.csv"}, {"train": ["x.csv", "y.csv"]}),
        (
            {"source": "data", "train": "train.csv", "validation": "test.csv"},
            {"train": ["train.csv"], "validation": ["test.csv"]},
        ),
        ({"source": "data/train.csv", "test": "more/y.csv"}, {"train": ["train.csv"], "test": ["y.csv"]}),
        ({"source": "data/train.csv", "train": "dev.csv"}, {"train": ["dev.csv"]}),
        ({"source": "data", "test": "dev.csv"}, {"train": ["train.csv"], "test": ["dev.csv"]}),
        ({"source": "data/more", "test": "y.csv"}, {"train": ["x.csv"], "test": ["y.csv"]}),
        (
            {"source": "data/*.csv", "test": "../data/test.csv"},
            {"train": ["train.csv"], "validation": ["dev.csv"], "test": ["test.csv"]},
        ),
    ],
)
def test_a_split_is_named_as_a_file_a_folder_or_a_glob_and_its_files_are_in_no_other(
    tmp_path: Path, settings: dict[str, str], expected: dict[str, list[str]]
) -> None:
    touch(tmp_path / "data", *FOLDER)
    assert found(TextClassificationData(**settings)) == expected


def test_absolute_names_and_the_home_folder_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "data", *FOLDER)
    monkeypatch.setenv("HOME", str(tmp_path))
    data = TextClassificationData(source="~/data", train=str(tmp_path / "data" / "mo*" / "x.csv"), test="~/data/dev.csv")
    assert not is_hub_id(data)
    assert found(data) == {"train": ["x.csv"], "test": ["dev.csv"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "empty"}, r"Folder 'empty' holds no file that ends in \.csv, .*; check data\.source"),
        ({"source": "data/z*.csv"}, r"File 'data/z\*\.csv' is not there; check data\.source"),
        ({"source": "data", "test": "tset.csv"}, r"File 'data/tset\.csv' is not there; check data\.test"),
        ({"source": "data", "validation": "../empty"}, r"Folder 'data/\.\./empty' holds no file .*; check data\.validation"),
        ({"source": "data/train.csv", "test": "train.csv"}, r"'data/train\.csv' holds no file but those of .*; set data\.train"),
        ({"source": "data", "test": "x" * 300}, r"'x+… cannot be used \(File name too long\); check data\.test"),
        ({"source": "data/notes.md"}, "unknown form; use one of"),
    ],
)
def test_what_names_no_data_is_refused_in_one_line(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    touch(tmp_path / "data", *FOLDER, "notes.md")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        open_local(TextClassificationData(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["data/**.csv", "data/[", "data\0"])
def test_a_malformed_glob_is_one_line_about_its_setting(pattern: str) -> None:
    with pytest.raises(DataError, match=r"check data\.source"):
        find_files(TextClassificationData(source=pattern))


@pytest.mark.parametrize("source", ["ag_news", "fancyzhx/ag_news", "user-1/data.set_2", "glue"])
def test_names_of_the_form_of_a_hub_id_are_hub_ids(source: str) -> None:
    assert is_hub_id(TextClassificationData(source=source))


@pytest.mark.parametrize("source", ["quickstart", "ag_news", "data/train.csv", "data/*.csv", "./data", ".", "nothing/*.csv"])
def test_what_is_here_or_is_a_glob_is_no_hub_id(tmp_path: Path, source: str) -> None:
    touch(tmp_path, "ag_news/train.csv", "data/train.csv")
    assert not is_hub_id(TextClassificationData(source=source))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("train.csv", DataError, "'train.csv' is not there; check data.source"),
        ("folder/train.PARQUET", DataError, "is not there"),
        ("./data", DataError, "is not there"),
        ("a/b/c", DataError, "is not there"),
        ("x" * 300, DataError, r"File name too long\); check data.source"),
        ("~no-such-user-here/a.csv", DataError, "cannot be used .*check data.source"),
        ("https://host/*.csv", ConfigError, "is not supported; give s3://bucket/key, a file"),
    ],
)
def test_a_path_that_is_not_there_is_no_hub_id(source: str, error: type[InputError], message: str) -> None:
    with pytest.raises(error, match=message):
        is_hub_id(TextClassificationData(source=source))


def dataset(*texts: str) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    return datasets.Dataset.from_dict({"text": list(texts), "label": [len(text) % 2 for text in texts]}, features=features)


def rows(data: TextClassificationData) -> dict[str, list[dict[str, Any]]]:
    return {
        split: [batch for part in parts for batch in part.read(["text", "label"])] for split, parts in open_local(data).items()
    }


def test_a_saved_dataset_is_one_train_split_with_its_label_names(tmp_path: Path) -> None:
    dataset("a", "bb").with_format("numpy").save_to_disk(str(tmp_path / "saved"))
    data = TextClassificationData(source="saved")
    assert is_saved_dataset(data)
    assert not is_hub_id(data)
    (part,) = open_local(data)["train"]
    assert part.columns == ("text", "label")
    assert part.class_names == {"label": ("no", "yes")}
    assert list(part.read(["label", "text"])) == [{"label": [1, 0], "text": ["a", "bb"]}]


def test_a_saved_dataset_dict_has_its_splits(tmp_path: Path) -> None:
    splits = datasets.DatasetDict(train=dataset("a"), dev=dataset("bb"), test=dataset("c"), unsupervised=dataset("d"))
    splits.save_to_disk(str(tmp_path / "saved"))
    read = rows(TextClassificationData(source="saved"))
    assert {split: [batch["text"] for batch in batches] for split, batches in read.items()} == {
        "train": [["a"]],
        "validation": [["bb"]],
        "test": [["c"]],
    }


def test_a_damaged_saved_dataset_is_refused_in_one_line(tmp_path: Path) -> None:
    dataset("a").save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "state.json").write_text("{\n")
    with pytest.raises(DataError, match=r"Folder 'saved' cannot be read by .*; check data\.source") as caught:
        open_local(TextClassificationData(source="saved"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (["train", "validation", "test"], {}, {"train": "train", "validation": "validation", "test": "test"}),
        (["Train", "val"], {}, {"train": "Train", "validation": "val"}),
        (["all"], {}, {"train": "all"}),
        (["train", "test_unlabelled"], {}, {"train": "train"}),
        (["train", "validation", "test"], {"test": "validation"}, {"train": "train", "test": "validation"}),
        (["all", "hard", "test"], {"train": "all", "test": "hard"}, {"train": "all", "test": "hard"}),
    ],
)
def test_splits_of_a_dataset_are_found_by_the_config_or_by_their_names(
    names: list[str], settings: dict[str, str], expected: dict[str, str]
) -> None:
    splits = datasets.DatasetDict({name: dataset("a") for name in names})
    chosen = parts_of(splits, TextClassificationData(source="some/set", **settings))
    assert {split: part.where for split, (part,) in chosen.items()} == {
        split: f"some/set (split {name})" for split, name in expected.items()
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "a", "test": "tset"}, "Split 'tset' is not in 'some/set'; it has 'a', 'b'. Set data.test."),
        ({}, "'some/set' has no split 'train'; it has 'a', 'b'. Set data.train."),
    ],
)
def test_a_split_that_a_dataset_lacks_is_named_with_those_it_has(settings: dict[str, str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        parts_of(datasets.DatasetDict(a=dataset("x"), b=dataset("y")), TextClassificationData(source="some/set", **settings))
    assert str(caught.value) == message


def test_the_identity_changes_with_a_file_s_bytes_name_and_number_and_with_nothing_else(tmp_path: Path) -> None:
    data = TextClassificationData(source=str(touch(tmp_path / "data", "train.csv", "test.csv")))
    seen = [local_identity(data)]
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert local_identity(TextClassificationData(source="copy")) == seen[0]
    touch(tmp_path / "data", "notes.md")
    assert local_identity(data) == seen[0]

    (tmp_path / "data" / "test.csv").write_text("text,label\ntest.csv,y\n")
    seen.append(local_identity(data))
    (tmp_path / "data" / "test.csv").rename(tmp_path / "data" / "dev.csv")
    seen.append(local_identity(data))
    touch(tmp_path / "data", "train2.csv")
    seen.append(local_identity(data))
    assert len(set(seen)) == 4


def test_the_identity_of_a_saved_dataset_covers_all_its_files(tmp_path: Path) -> None:
    datasets.DatasetDict(train=dataset("a")).save_to_disk(str(tmp_path / "saved"))
    before = local_identity(TextClassificationData(source="saved"))
    assert local_identity(TextClassificationData(source="saved")) == before
    (arrow,) = (tmp_path / "saved" / "train").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:-1] + b"x")
    assert local_identity(TextClassificationData(source="saved")) != before


def test_names_and_contents_cannot_run_into_each_other(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    one, two = tmp_path / "one", tmp_path / "two"
    digests = [digest_files(files) for files in ([], [("a", one)], [("b", one)], [("a", two)], [("a", one), ("b", two)])]
    assert len(set(digests)) == 5


def test_the_identity_of_the_quickstart_is_its_botocore() -> None:
    import botocore

    assert local_identity(TextClassificationData(source="quickstart")) == f"botocore-{botocore.__version__}"


def test_plain_text_beside_data_files_is_a_note_on_them(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("about\n", encoding="utf-8")
    data = TextClassificationData(source=str(tmp_path))
    assert [path.name for path in find_files(data)["train"]] == ["README.txt"]
    write_csv(tmp_path / "rows.csv", topic_rows(3))
    assert [path.name for path in find_files(data)["train"]] == ["rows.csv"]
