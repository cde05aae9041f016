"""Hub datasets out of the local cache, without a network: ids, revisions, configurations, splits and label names."""

from pathlib import Path

import datasets
import huggingface_hub
import pytest

from tasks.data.columns import Column
from tasks.data.hub import hub_identity, open_hub
from tasks.data.rows import read_split
from tasks.data.step import data_identity
from tasks.errors import DataError
from tasks.kinds.text_classification import TextClassificationData

NEW, OLD = "a" * 40, "b" * 40
COLUMNS = (Column("text", "text", "text", "data.text_column"), Column("label", "label", "label", "data.label_column"))
CARD = """---
configs:
- config_name: {first}
  data_files:
  - split: train
    path: data/train.parquet
  - split: test
    path: data/test.parquet
- config_name: {second}
  data_files:
  - split: train
    path: data/test.parquet
---
"""


def add_to_cache(cache: Path, repository: str, first: str = "default", second: str = "small") -> None:
    """Lay out what the Hub's client leaves: the newest commit under `main`, an older one that only a tag names."""
    folder = cache / f"datasets--{repository.replace('/', '--')}"
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["World", "Business"])})
    for commit, reference, count in ((NEW, "main", 3), (OLD, "v1", 1)):
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / reference).write_text(commit)
        snapshot = folder / "snapshots" / commit
        (snapshot / "data").mkdir(parents=True)
        (snapshot / "README.md").write_text(CARD.format(first=first, second=second))
        for split, rows in (("train", count), ("test", 2)):
            values = {"text": [f"{split} {number}" for number in range(rows)], "label": [number % 2 for number in range(rows)]}
            datasets.Dataset.from_dict(values, features=features).to_parquet(snapshot / "data" / f"{split}.parquet")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "hub"


def texts(data: TextClassificationData, commit: str = NEW) -> dict[str, list[str]]:
    source = open_hub(data, commit)
    return {
        split: [text for part in parts for batch in part.read(["text"]) for text in batch["text"]]
        for split, parts in source.items()
    }


@pytest.mark.parametrize("source", ["ag_news", "fancyzhx/ag_news"])
def test_a_dataset_is_found_by_its_full_and_by_its_bare_id(cache: Path, source: str) -> None:
    add_to_cache(cache, "fancyzhx/ag_news")
    data = TextClassificationData(source=source)
    assert data_identity(data, "artifacts") == hub_identity(data) == NEW
    assert texts(data) == {"train": ["train 0", "train 1", "train 2"], "test": ["test 0", "test 1"]}


def test_classes_of_a_hub_dataset_keep_their_names(cache: Path) -> None:
    add_to_cache(cache, "fancyzhx/ag_news")
    parts = open_hub(TextClassificationData(source="ag_news"), NEW)["train"]
    names: dict[str, int] = {}
    assert parts[0].class_names == {"label": ("World", "Business")}
    assert list(read_split(parts, COLUMNS, None, names).labels) == [0, 1, 0]
    assert list(names) == ["World", "Business"]


@pytest.mark.parametrize(("revision", "commit"), [("main", NEW), ("v1", OLD), (OLD, OLD)])
def test_a_branch_a_tag_or_a_commit_is_pinned_and_opened(cache: Path, revision: str, commit: str) -> None:
    add_to_cache(cache, "fancyzhx/ag_news")
    data = TextClassificationData(source="fancyzhx/ag_news", revision=revision)
    assert hub_identity(data) == commit
    assert len(texts(data, commit)["train"]) == {NEW: 3, OLD: 1}[commit]


def test_a_named_configuration_and_named_splits_are_opened(cache: Path) -> None:
    add_to_cache(cache, "fancyzhx/ag_news")
    assert texts(TextClassificationData(source="ag_news", config_name="small")) == {"train": ["test 0", "test 1"]}
    assert set(texts(TextClassificationData(source="ag_news", validation="test"))) == {"train", "validation"}
    with pytest.raises(DataError, match=r"Split 'dev' is not in 'ag_news'; it has 'train', 'test'\. Set data\.validation"):
        open_hub(TextClassificationData(source="ag_news", validation="dev"), NEW)


@pytest.mark.parametrize(
    ("first", "config_name", "shown"), [("default", "smal", ["'smal'", "'small'"]), ("cola", None, ["'cola'", "'sst2'"])]
)
def test_a_wrong_or_missing_configuration_is_one_line_with_those_there_are(
    cache: Path, first: str, config_name: str | None, shown: list[str]
) -> None:
    add_to_cache(cache, "nyu/glue", first, "small" if config_name else "sst2")
    with pytest.raises(DataError, match=r"^Dataset 'glue' cannot be loaded: .* Check data\.config_name\.$") as caught:
        open_hub(TextClassificationData(source="glue", config_name=config_name), NEW)
    assert all(name in str(caught.value) for name in shown)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            TextClassificationData(source="imdb"),
            "Dataset 'imdb' is not in the local cache and HF_HUB_OFFLINE is set; unset it or",
        ),
        (TextClassificationData(source="ag_news", revision="v9"), "is not in the local cache and HF_HUB_OFFLINE is set"),
        (TextClassificationData(source="a--b"), "Dataset 'a--b' is not a Hub id .*; check data.source"),
    ],
)
def test_what_the_cache_lacks_is_one_line(cache: Path, data: TextClassificationData, message: str) -> None:
    add_to_cache(cache, "fancyzhx/ag_news")
    with pytest.raises(DataError, match=message) as caught:
        hub_identity(data)
    assert "\n" not in str(caught.value)


def test_a_bare_id_that_two_owners_have_is_not_guessed(cache: Path) -> None:
    add_to_cache(cache, "one/ag_news")
    add_to_cache(cache, "two/ag_news")
    with pytest.raises(DataError, match="not in the local cache"):
        hub_identity(TextClassificationData(source="ag_news"))
