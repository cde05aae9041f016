"""One contract for all kinds: what a kind declares must be there, and what it computes must hang together."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from flows.experiments import FLOWS
from tasks.data.rows import read_split
from tasks.data.values import blank
from tasks.kinds import kind_names, load_kind
from tasks.kinds.kind import Array, Kind

ROOT = Path(__file__).parents[3]
STEPS = {"load-dataset", "tokenize", "evaluate", "evaluate-baseline", "evaluate-fine-tuned", "fine-tune", "compare", "baseline"}
SPANS = np.array([[[0, 3, 2.0], [0, 1, 1.0]], [[0, 3, 1.0], [4, 9, 0.5]], [[0, 9, 0.1], [4, 9, 0.0]]])


def answers(*texts: str) -> str:
    return '{"text": [' + ", ".join(f'"{text}"' for text in texts) + '], "answer_start": [' + ", ".join("0" for _ in texts) + "]}"


# Three rows of each kind, and what a model could say of them; a new kind joins here.
ROWS: dict[str, dict[str, list[Any]]] = {
    "text-classification": {"text": ["one", "two", "three"], "label": [0, 1, 1]},
    "question-answering": {
        "question": ["who", "what", "when"],
        "context": ["Ada wrote it"] * 3,
        "answers": [answers("Ada"), answers("wrote"), answers()],
    },
    "summarization": {"text": ["a b c d", "e f g", "h i"], "summary": ["a b", "e g", "h"]},
    "causal-lm": {"text": ["one two", "three", "four five"]},
    "masked-lm": {"text": ["one two", "three", "four five"]},
}
PREDICTIONS: dict[str, dict[str, Array]] = {
    "text-classification": {"probabilities": np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], np.float32)},
    "question-answering": {"spans": SPANS, "nulls": np.array([0.0, 0.5, 2.0]), "answered": np.array([True, True, False])},
    "summarization": {"texts": np.array(["a b", "f", ""], dtype=object)},
    "causal-lm": {"nats": np.array([3.0, 9.0, 4.0]), "tokens": np.array([2.0, 1.0, 2.0])},
    "masked-lm": {"nats": np.array([3.0, 9.0, 4.0]), "tokens": np.array([2.0, 1.0, 2.0]), "right": np.array([1.0, 0.0, 2.0])},
}


@pytest.fixture(params=kind_names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kind(name: str) -> Kind:
    kind_class = load_kind(name)
    return kind_class(kind_class.config_class(), ("a", "b") if name == "text-classification" else ())


def test_a_kind_has_a_flow_a_deployment_and_a_page(name: str) -> None:
    assert FLOWS[name].name == name
    entrypoints = {
        entry["name"]: entry["entrypoint"] for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    assert entrypoints[name] == f"flows.experiments.{name.replace('-', '_')}"
    page = (ROOT / "docs" / "kinds" / f"{name}.md").read_text(encoding="utf-8")
    assert f"python -m flows run {name}" in page
    assert f"(docs/kinds/{name}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_quickstart_has_its_columns_and_rows_enough(name: str, kind: Kind) -> None:
    index = read_split([kind.adapt(kind.quickstart())], kind.columns(), None, {}, check=kind.fault)
    assert len(index.folded) >= 500
    assert not any(index.empty)
    assert len(set(index.folded)) > 0.95 * len(index.folded)


def test_the_settings_that_it_reads_are_there(name: str, kind: Kind) -> None:
    assert set(kind.reads) <= STEPS
    assert set(kind.judged_by) <= set(kind.reads.get("evaluate", ())), "the champion's scores would be found again for others"
    for setting in (setting for read in kind.reads.values() for setting in read):
        value: Any = kind.config.model_dump()
        for part in setting.split("."):
            assert part in value, f"{setting} is no setting of {name}"
            value = value[part]


def test_metrics_are_functions_of_sums_over_rows(name: str, kind: Kind) -> None:
    rows, predictions = ROWS[name], PREDICTIONS[name]
    statistics = kind.statistics(predictions, rows)
    assert statistics.shape[0] == 3
    one_by_one = [
        kind.statistics(
            {key: values[number : number + 1] for key, values in predictions.items()},
            {key: values[number : number + 1] for key, values in rows.items()},
        )
        for number in range(3)
    ]
    np.testing.assert_allclose(np.concatenate(one_by_one), statistics)
    metrics = kind.metrics(statistics.sum(0))
    assert kind.primary_metric in metrics
    assert {metric.partition("/")[0] for metric in metrics} <= kind.metric_names
    assert kind.lower_is_better & kind.metric_names or not kind.lower_is_better
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())
    # What is said of metrics is said of some that a problem of the kind has.
    assert kind.loss_metric is None or kind.loss_metric in metrics
    bounded = {metric: value for metric, value in metrics.items() if metric not in kind.unbounded | kind.neutral}
    assert all(-1 <= value <= 1 for value in bounded.values()), bounded


def test_a_row_has_a_score_columns_and_words_for_the_report(name: str, kind: Kind) -> None:
    rows, predictions = ROWS[name], PREDICTIONS[name]
    scores = kind.row_scores(predictions, rows)
    assert scores.shape == (3,)
    # The first row was given a better prediction than the second.
    assert scores[0] > scores[1] or (kind.right_or_wrong and scores[0] == scores[1] == 1)
    assert not kind.right_or_wrong or set(scores.tolist()) <= {0.0, 1.0}
    table = kind.table(predictions, rows)
    assert {len(column) for column in table.values()} == {3}
    assert not {"id", "score"} & set(table)
    columns = {key: column.to_pylist() for key, column in table.items()}
    for number in range(3):
        texts, expected = kind.shown_row({"id": str(number), **{role: values[number] for role, values in rows.items()}})
        assert texts
        assert all(isinstance(text, str) for text in (*texts, expected))
        entry = {"id": str(number), "score": scores[number], **{key: values[number] for key, values in columns.items()}}
        assert kind.shown_prediction(entry)


def blanked(kind: Kind, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return rows whose targets nobody knows."""
    blanks = {column.role: blank(column.form) for column in kind.columns() if not column.is_input}
    return rows | {role: [value] * 3 for role, value in blanks.items()}


def test_what_is_told_of_predictions_needs_no_targets(name: str, kind: Kind) -> None:
    rows, predictions = ROWS[name], PREDICTIONS[name]
    known = {key: column.to_pylist() for key, column in kind.table(predictions, rows).items()}
    table = kind.prediction_table(predictions, blanked(kind, rows))
    assert {len(column) for column in table.values()} == {3}
    assert not {"id", "model", "score"} & set(table)
    # What evaluation tells too has the same values, and there is something of it.
    assert set(table) & set(known)
    assert all(column.to_pylist() == known[key] for key, column in table.items() if key in known)
    assert all(is_plain(column.type) for column in table.values())
    # Types depend on no values: shards of different rows go into one file.
    one = kind.prediction_table(
        {key: values[2:] for key, values in predictions.items()},
        {key: values[2:] for key, values in blanked(kind, rows).items()},
    )
    assert {key: column.type for key, column in one.items()} == {key: column.type for key, column in table.items()}


@pytest.mark.parametrize("name", ["causal-lm", "masked-lm"])
def test_a_column_with_a_metrics_name_is_that_metric_of_the_row(name: str, kind: Kind) -> None:
    rows, predictions = ROWS[name], PREDICTIONS[name]
    table, statistics = kind.prediction_table(predictions, rows), kind.statistics(predictions, rows)
    shared = set(table) & set(kind.metrics(statistics[0]))
    assert shared == ({"loss", "bits_per_byte"} if name == "causal-lm" else {"loss"})
    for column in shared:
        np.testing.assert_allclose(table[column].to_pylist(), [kind.metrics(row)[column] for row in statistics])


def is_plain(form: pa.DataType) -> bool:
    is_number = pa.types.is_floating(form) or pa.types.is_integer(form)
    return is_number or pa.types.is_string(form) or form == pa.list_(pa.string())


def test_blank_targets_are_no_fault_of_what_is_read(name: str, kind: Kind) -> None:
    row = {role: values[0] for role, values in blanked(kind, ROWS[name]).items()}
    fault = kind.fault(row)
    assert fault is None or fault[0] not in {column.role for column in kind.columns() if column.is_input}


def test_rows_without_a_fault_have_none(name: str, kind: Kind) -> None:
    fine = {role: values[0] for role, values in ROWS[name].items()}
    assert kind.fault(fine) is None
