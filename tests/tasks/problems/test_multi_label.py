"""Tests of several labels per row: how cells are read, which heads fit, and what is kept, shown and counted."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import f1_score

from tasks.data.files import open_file
from tasks.data.rows import read_split
from tasks.errors import DataError, InputError
from tasks.kinds.text_classification import KIND, TextClassification, TextClassificationConfig
from tasks.preflight import preflight
from tests.helpers import make_encoder, write_csv

LABELS = ("sport", "market", "space")
LOADING = {"trained": False, "allow_pickle": False, "remote_code": False}


def kind(**data: str) -> TextClassification:
    return KIND(TextClassificationConfig.model_validate({"problem": "multi_label", "data": data}), LABELS)


def read(path: Path, **data: str) -> list[list[str]]:
    """Return the labels of a file's rows."""
    found: list[list[str]] = []
    names: dict[str, int] = {}
    bound = kind(**data)
    read_split([bound.adapt(open_file(path))], bound.columns(), None, names, lambda batch: found.extend(batch["label"]))
    order = list(names)
    return [[order[number] for number in row] for row in found]


def csv_of(folder: Path, *cells: str) -> Path:
    return write_csv(folder / "a.csv", [{"text": f"text {number}", "label": cell} for number, cell in enumerate(cells)])


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("sport;market", ["sport", "market"]),
        (" sport ; market ;", ["sport", "market"]),
        ("sport;sport", ["sport"]),
        ("science, fiction;market", ["science, fiction", "market"]),
        ("", []),
        (" ; ", []),
        ("7", ["7"]),
    ],
)
def test_a_cell_holds_names_with_a_separator(tmp_path: Path, cell: str, names: list[str]) -> None:
    assert read(csv_of(tmp_path, "space;sport", cell))[1] == names


def test_the_separator_is_a_setting(tmp_path: Path) -> None:
    found = read(csv_of(tmp_path, "a; b|c", "c"), label_separator="|")
    assert found == [["a; b", "c"], ["c"]]


@pytest.mark.parametrize("separator", ["\t", " ", ", "])
def test_the_separator_may_be_space(tmp_path: Path, separator: str) -> None:
    assert read(csv_of(tmp_path, f"a{separator}b", "c"), label_separator=separator) == [["a", "b"], ["c"]]


def test_names_are_listed_in_json_lines_and_parquet(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": ["sport", "market; shares"]}, {"text": "b", "label": []}, {"text": "c", "label": ["sport"]}]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    assert read(lines) == read(table) == [row["label"] for row in rows]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["a", "b|c"], r"a\.csv', row 2: column 'label' is 'b\|c', and no row holds .*';'; set it to '\|'"),
        # In YAML only double quotes make it a tab.
        (["a\tb", "b"], r'row 1: .* set it to "\\t" if that stands between labels'),
        (["a,b", "b"], r"row 1: .* set it to ',' if that stands between labels"),
        (["a", '["a", "b"]'], r"row 2: .*, a list in one text; write names with ';' between them"),
    ],
)
def test_cells_that_seem_to_mean_something_else_are_refused(tmp_path: Path, cells: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(csv_of(tmp_path, *cells))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separated_first", [True, False])
def test_whether_a_file_holds_the_separator_does_not_depend_on_the_order_of_rows(tmp_path: Path, separated_first: bool) -> None:
    cells = ["a;b"] * 1_500 + ["I/O"] * 1_500
    found = read(csv_of(tmp_path, *(cells if separated_first else cells[::-1])))
    assert {tuple(names) for names in found} == {("a", "b"), ("I/O",)}


def test_a_file_without_the_separator_is_refused_at_its_first_suspicious_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1002: .* set it to '/'"):
        read(csv_of(tmp_path, *["a"] * 1_001, "I/O", *["a|b"] * 1_001))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 1, 0], r"row 1: .*\[0, 1, 0\].* whether it holds; list the names"),
        ([True, False, False], "whether it holds; list the names"),
        ([{"name": "a"}, {"name": "a"}], r"column 'label' is \[\{'name': 'a'\}, .*data\.label_column"),
        ([["a"], ["a"]], r"column 'label' is \[\['a'\], .*data\.label_column"),
        (None, r"row 1: column 'label' is None, which is NoneType, not a list of labels; mend the row or set data\.label_column"),
        (["a", None], "so its label is missing"),
        ({"a": 1}, "which is dict, not a list of labels"),
    ],
)
def test_values_that_are_no_labels_are_refused(tmp_path: Path, label: object, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "some words", "label": label}), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read(path)


def test_the_names_0_and_1_are_labels_like_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "some words", "label": [0, 1]}), encoding="utf-8")
    assert read(path) == [["0", "1"]]


def test_rows_without_any_label_are_refused_before_anything_starts(tmp_path: Path) -> None:
    path = csv_of(tmp_path, *[""] * 60)
    config = TextClassificationConfig.model_validate(
        {"problem": "multi_label", "data": {"source": str(path)}, "store": str(tmp_path / "store")}
    )
    with pytest.raises(InputError, match="have the same target, or all have none: there is nothing to learn"):
        preflight("text-classification", config)


def make_classifier(folder: Path, problem_type: str | None, labels: tuple[str, ...] = LABELS) -> Path:
    make_encoder(folder, labels=labels)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"problem_type": problem_type}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("problem_type", "labels", "head"),
    [
        ("multi_label_classification", LABELS, "pretrained"),
        ("multi_label_classification", LABELS[::-1], "fresh"),
        ("multi_label_classification", LABELS[:2], "fresh"),
        # It was trained to choose one: its logits say little of each label by itself.
        ("single_label_classification", LABELS, "fresh"),
        (None, LABELS, "fresh"),
    ],
)
def test_a_head_is_kept_only_if_it_decides_these_labels_each_by_itself(
    tmp_path: Path, problem_type: str | None, labels: tuple[str, ...], head: str
) -> None:
    model, found = kind().load_model(make_classifier(tmp_path / "model", problem_type, labels), **LOADING)
    assert found == head
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.classifier.weight.shape == (3, 32)


@pytest.fixture
def tokenizer(encoder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder)


def test_the_loss_is_that_of_each_label_by_itself_and_the_log_loss(encoder: Path, tokenizer) -> None:
    rows = {"text": ["goal match", "orbit", "goal shares"], "label": [[0], [], [0, 1]]}
    encoded = kind().encode(tokenizer, rows, train=True)
    assert encoded.features["labels"] == [[1, 0, 0], [0, 0, 0], [1, 1, 0]]
    features = [dict(zip(encoded.features, values, strict=True)) for values in zip(*encoded.features.values(), strict=True)]
    batch = kind().collator(tokenizer, train=True)(features)
    assert batch["labels"].dtype == torch.float32
    torch.manual_seed(0)
    model, head = kind().load_model(encoder, **LOADING)
    model.eval()
    assert head == "fresh"
    with torch.inference_mode():
        loss = model(**batch).loss
        found = kind().predict(model, tokenizer, batch)
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits.numpy()
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    sums = kind().statistics({"probabilities": found}, rows).sum(0)
    assert kind().metrics(sums)["log_loss"] == pytest.approx(float(loss), rel=1e-5)


PREDICTIONS = {"probabilities": np.array([[0.75, 0.25, 0.75], [0.125, 0.25, 0.25], [0.75, 0.75, 0.25]], np.float32)}
ROWS = {"label": [[0], [], [2]]}


def test_a_row_scores_the_f1_of_its_labels() -> None:
    found = kind().row_scores(PREDICTIONS, ROWS)
    assert found.tolist() == pytest.approx([2 / 3, 1, 0])
    hot = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]])
    expected = f1_score(hot, PREDICTIONS["probabilities"] >= 0.5, average="samples", zero_division=1)
    assert found.mean() == pytest.approx(expected)
    assert kind().metrics(kind().statistics(PREDICTIONS, ROWS).sum(0))["f1_samples"] == pytest.approx(expected)


def test_the_table_names_labels_and_predictions(tmp_path: Path) -> None:
    table = kind().table(PREDICTIONS, ROWS)
    assert table["labels"].to_pylist() == [["sport"], [], ["space"]]
    assert table["predictions"].to_pylist() == [["sport", "space"], [], ["sport", "market"]]
    assert table["fine_score"].to_pylist() == pytest.approx([(0.75 + 0.75 + 0.25) / 3, (0.875 + 0.75 + 0.75) / 3, 0.25])
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert [kind().shown_prediction(row) for row in frame.to_dict("records")] == ["sport, space", "none", "sport, market"]
    assert kind().analysis(frame, frame)["classes"][0] == {
        **{"label": "sport", "rows": 1},
        **{"right_before": 2, "right_after": 2, "fixed": 0, "broken": 0},
    }


def test_the_report_shows_texts_and_labels() -> None:
    assert kind().shown_row({"id": "1", "text": "a", "label": [2, 0]}) == (["a"], "sport, space")
    assert kind().shown_row({"id": "1", "text": "a", "label": []}) == (["a"], "none")


def test_what_the_kind_says_of_several_labels() -> None:
    bound = kind()
    assert [(column.role, column.form) for column in bound.columns()] == [("text", "text"), ("label", "labels")]
    assert (bound.primary_metric, bound.loss_metric, bound.right_or_wrong) == ("f1_micro", "log_loss", False)
    metrics = bound.metrics(bound.statistics(PREDICTIONS, ROWS).sum(0))
    assert {bound.primary_metric, bound.loss_metric} < set(metrics)
    assert {name for name in metrics if name in bound.lower_is_better} == {"log_loss", "hamming_loss", "calibration_error"}
