"""Tests of the command `tokenize`."""

import io
import shutil
from contextlib import nullcontext
from pathlib import Path

import datasets
import pytest

from tasks.compute.channel import Channel
from tasks.compute.tokenize import tokenize
from tasks.errors import ConfigError, DataError, ModelError
from tests.tasks.compute.commands import counted, save_rows, save_tokens, tokenize_arguments

SPLITS = ("train", "validation", "test")
# With [CLS] and [SEP] the rows have 3, 4, 6 and 9 tokens.
TEXTS = ["goal", "goal team", "shares profit bank price", "orbit rocket planet launch comet lunar crew"]


def run(rows: Path, model: Path, output: Path, **changes: object) -> dict[str, dict]:
    return tokenize(Channel(io.StringIO()), **tokenize_arguments(rows, model, output, **changes))


@pytest.fixture
def four_rows(tmp_path: Path) -> Path:
    labels = ["sport", "sport", "market", "space"]
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    return save_rows(tmp_path / "rows", train=rows, validation=rows[:1], test=rows[::-1])


def test_rows_become_tokens_with_their_ids_and_labels(four_rows: Path, encoder: Path, tmp_path: Path) -> None:
    run(four_rows, encoder, tmp_path / "tokens")
    found = datasets.Dataset.load_from_disk(str(tmp_path / "tokens" / "test"))
    assert found["row"][:] == [0, 1, 2, 3]
    assert found["labels"][:] == [2, 1, 0, 0]
    assert found["length"][:] == [9, 6, 4, 3]
    assert [len(ids) for ids in found["input_ids"]] == [9, 6, 4, 3]
    assert set(found.column_names) == {"row", "input_ids", "labels", "length"}
    assert {path.name for path in (tmp_path / "tokens").iterdir()} == set(SPLITS)


@pytest.mark.parametrize(
    ("max_length", "truncated", "lengths"),
    [(9, 0, [3, 4, 6, 9]), (8, 1, [3, 4, 6, 8]), (5, 2, [3, 4, 5, 5]), (4, 2, [3, 4, 4, 4])],
)
def test_what_was_cut_is_counted(
    four_rows: Path, encoder: Path, tmp_path: Path, max_length: int, truncated: int, lengths: list[int]
) -> None:
    found = run(four_rows, encoder, tmp_path / "tokens", max_length=max_length)
    assert found["train"]["rows"] == 4
    assert found["train"]["truncated"] == truncated
    assert found["train"]["tokens"][0] == lengths[0]
    assert found["train"]["tokens"][2] == (lengths[1] + lengths[2]) / 2
    assert found["train"]["tokens"][4] == lengths[-1]
    assert found["validation"] == {"rows": 1, "features": 1, "truncated": 0, "tokens": [3.0] * 5}
    assert datasets.Dataset.load_from_disk(str(tmp_path / "tokens" / "train"))["length"][:] == lengths


def test_more_tokens_than_the_model_takes_are_refused(four_rows: Path, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.max_length is 65, but the model takes at most 64 tokens"):
        run(four_rows, encoder, tmp_path / "tokens", max_length=65)
    assert run(four_rows, encoder, tmp_path / "tokens", max_length=64)["train"]["truncated"] == 0


def test_a_row_without_tokens_is_named(decoder: Path, tmp_path: Path) -> None:
    # This tokenizer adds no tokens of its own, so white space leaves none.
    rows = [{"text": "goal", "label": "sport"}, {"text": " \t", "label": "sport"}]
    folder = save_rows(tmp_path / "rows", train=rows, validation=rows[:1], test=rows[:1])
    with pytest.raises(DataError, match=r"Row 'train-1' has no tokens: ' \\t'; remove it\."):
        save_tokens(tmp_path / "tokens", folder, decoder)


def test_tokens_depend_on_the_rows_alone_not_on_an_earlier_run(four_rows: Path, encoder: Path, tmp_path: Path) -> None:
    # `datasets` would reuse the result of a call that it takes for the same.
    run(four_rows, encoder, tmp_path / "long")
    assert run(four_rows, encoder, tmp_path / "short", max_length=4)["train"]["tokens"][4] == 4
    assert datasets.Dataset.load_from_disk(str(tmp_path / "short" / "train"))["length"][:] == [3, 4, 4, 4]


def test_the_dataset_is_left_as_it_was(four_rows: Path, encoder: Path, tmp_path: Path) -> None:
    before = sorted(path.relative_to(four_rows) for path in four_rows.rglob("*"))
    run(four_rows, encoder, tmp_path / "tokens")
    assert sorted(path.relative_to(four_rows) for path in four_rows.rglob("*")) == before


def test_a_damaged_tokenizer_is_a_model_error(four_rows: Path, encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "model")
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"Tokenizer of .* cannot be loaded"):
        run(four_rows, folder, tmp_path / "tokens")


def test_rows_by_the_thousand_cause_few_collections(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [{"text": text, "label": "sport"} for text in TEXTS * 1500]
    rows = save_rows(tmp_path / "rows", train=texts, validation=texts[:1], test=texts[:1])
    run(rows, encoder, tmp_path / "first")  # imports, which cause some too
    with counted() as few:
        run(rows, encoder, tmp_path / "few")
    monkeypatch.setattr("tasks.compute.tokenize.few_collections", nullcontext)
    with counted() as usual:
        run(rows, encoder, tmp_path / "usual")
    assert len(few) < len(usual) / 3
