"""Tests of a whole run: from a file of rows to the report, in this process, against a real Prefect server."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from flows.experiments import text_classification
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.records import Report
from tests.helpers import NO_BASELINES, TOPICS, topic_rows, write_csv

STEPS = ["load-dataset", "tokenize", "evaluate-baseline", "fine-tune", "evaluate-fine-tuned", "compare", "compare-baselines"]
STEPS += ["baseline-majority", "baseline-linear"]


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    report: Report
    config: TextClassificationConfig
    store: Path

    @property
    def folder(self) -> Path:
        return self.store / self.report.key

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def run(store: Path, source: Path, model: Path, **values: Any) -> Finished:
    training = {"epochs": 3, "learning_rate": 0.01, "max_length": 32, **values.pop("training", {})}
    config = TextClassificationConfig.model_validate(
        {
            "name": "topics",
            "store": str(store),
            "data": {"source": str(source)},
            "model": {"name": str(model)},
            "training": training,
            **values,
        }
    )
    return Finished(text_classification(config), config, store)


@pytest.fixture(scope="module")
def finished(
    prefect_api: str, kept_compute: Any, tmp_path_factory: pytest.TempPathFactory, topics_csv: Path, encoder: Path
) -> Finished:
    return run(tmp_path_factory.mktemp("store"), topics_csv, encoder)


def task_states(api: str, report: Report) -> dict[str, str]:
    flow_runs = {"flow_runs": {"name": {"any_": [report.flow_run]}}}
    runs = httpx.post(f"{api}/flow_runs/filter", json=flow_runs).json()
    found = next(entry for entry in runs if entry["id"].startswith(report.key[-8:]))
    tasks = httpx.post(f"{api}/task_runs/filter", json={"flow_runs": {"id": {"any_": [found["id"]]}}}).json()
    return {entry["name"]: entry["state"]["name"] for entry in tasks}


def test_fine_tuning_learns_what_the_untouched_model_does_not_know(finished: Finished) -> None:
    assert finished.report.before["accuracy"] < 0.7
    assert finished.report.after["accuracy"] > 0.9
    for name, value in finished.report.difference.items():
        assert value == finished.report.after[name] - finished.report.before[name]


def test_every_step_is_published_under_its_key(finished: Finished) -> None:
    assert list(finished.report.steps) == STEPS
    for name, key in finished.report.steps.items():
        assert key.startswith(f"steps/{name}/")
        assert (finished.store / key / "manifest.json").is_file()


def test_the_runs_folder_has_all_that_belongs_to_a_run(finished: Finished) -> None:
    assert finished.report.key.startswith("runs/topics-topics.csv-tiny-bert-")
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {
        *("report.html", "metrics.json", "run.json", "model_card.md", "manifest.json"),
        *("scores.png", "forest.png", "reliability.png", "confusion.png", "training.png"),
        *("predictions_before.parquet", "predictions_after.parquet"),
    }
    assert finished.report.report == str(finished.folder / "report.html")


def test_metrics_json_holds_flat_numbers_before_after_and_difference(finished: Finished) -> None:
    metrics = finished.read("metrics.json")
    assert metrics["schema"] == 1
    assert metrics["kind"] == "text-classification"
    expected = {"accuracy", "f1_weighted", "f1_macro", "matthews_correlation", "log_loss", "calibration_error"}
    expected |= {f"{metric}/{label}" for metric in ("precision", "recall", "f1") for label in TOPICS}
    for part in ("before", "after", "difference"):
        assert set(metrics[part]) == expected
        assert all(isinstance(value, float) for value in metrics[part].values())
    assert metrics["after"] == finished.report.after
    assert set(metrics["intervals"]) == expected
    for name, (low, high) in metrics["intervals"].items():
        assert low <= metrics["difference"][name] <= high
    assert metrics["verdict"]["word"] == finished.report.verdict == "improved"
    assert metrics["verdict"]["p_value"] < 0.05
    low, high = metrics["intervals"]["accuracy"]
    assert f"Improved: Accuracy on {finished.report.rows} test rows" in finished.report.outcome
    assert f"95 % interval {100 * low:+.1f} to {100 * high:+.1f} points" in (finished.folder / "report.html").read_text()


def test_run_json_is_the_record_with_config_versions_and_durations(finished: Finished) -> None:
    content = finished.read("run.json")
    assert {name: content[name] for name in Report.model_fields} == finished.report.model_dump(mode="json")
    assert content["config"] == finished.config.model_dump(mode="json")
    assert content["versions"]["prefect"]
    assert content["device_seconds"]["Fine-tuning"] > 0


def test_predictions_are_kept_row_by_row_and_give_the_metrics(finished: Finished) -> None:
    rows = pd.read_csv(finished.config.data.source)
    for name, metrics in (("before", finished.report.before), ("after", finished.report.after)):
        predictions = pd.read_parquet(finished.folder / f"predictions_{name}.parquet")
        # The row id is the row's position in the source.
        assert predictions["label"].tolist() == rows["label"].iloc[predictions["id"].astype(int)].tolist()
        assert (predictions["label"] == predictions["prediction"].astype(str)).mean() == pytest.approx(metrics["accuracy"])
        np.testing.assert_allclose(np.stack(predictions["probabilities"]).sum(1), 1, rtol=1e-5)


def test_the_models_folder_loads_as_it_is_and_predicts_what_was_scored(finished: Finished) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(finished.report.model)
    tokenizer = AutoTokenizer.from_pretrained(finished.report.model)
    kept = pd.read_parquet(finished.folder / "predictions_after.parquet").head(5)
    texts = pd.read_csv(finished.config.data.source)["text"].iloc[kept["id"].astype(int)].tolist()
    with torch.inference_mode():
        numbers = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.argmax(-1).tolist()
    assert [model.config.id2label[number] for number in numbers] == kept["prediction"].tolist()


def test_a_second_run_finds_every_step_done(finished: Finished, prefect_api: str, topics_csv: Path, encoder: Path) -> None:
    again = run(finished.store, topics_csv, encoder)
    states = task_states(prefect_api, again.report)
    assert {name: states[name] for name in STEPS} == dict.fromkeys(STEPS, "Cached")
    assert again.report.steps == finished.report.steps
    assert again.report.key != finished.report.key


def test_only_what_a_setting_touches_is_computed_again(
    finished: Finished, prefect_api: str, topics_csv: Path, encoder: Path
) -> None:
    again = run(finished.store, topics_csv, encoder, training={"weight_decay": 0.1})
    states = task_states(prefect_api, again.report)
    assert {name for name in STEPS if states[name] == "Cached"} == {
        *("load-dataset", "tokenize", "evaluate-baseline", "baseline-majority", "baseline-linear"),
    }


def test_the_same_seed_gives_the_same_metrics_to_the_last_digit(
    finished: Finished, tmp_path: Path, topics_csv: Path, encoder: Path
) -> None:
    again = run(tmp_path / "store", topics_csv, encoder)
    assert (again.folder / "metrics.json").read_bytes() == (finished.folder / "metrics.json").read_bytes()
    other = run(tmp_path / "other", topics_csv, encoder, seed=7, baselines=NO_BASELINES)
    assert other.read("metrics.json")["after"] != finished.read("metrics.json")["after"]


def test_a_decoder_without_a_pad_token_is_fine_tuned(prefect_api: str, tmp_path: Path, topics_csv: Path, decoder: Path) -> None:
    done = run(tmp_path / "store", topics_csv, decoder, baselines=NO_BASELINES)
    assert done.report.after["accuracy"] > 0.8
    config = json.loads((Path(done.report.model) / "config.json").read_text())
    assert config["pad_token_id"] is not None


def test_pairs_of_texts_and_integer_labels(prefect_api: str, tmp_path: Path, encoder: Path) -> None:
    rows = topic_rows(240)
    pairs = [
        {"left": row["text"], "right": other["text"], "same": int(row["label"] == other["label"])}
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    source = write_csv(tmp_path / "pairs.csv", pairs)
    columns = {"text_column": "left", "pair_column": "right", "label_column": "same"}
    done = run(tmp_path / "store", source, encoder, data={"source": str(source), **columns}, baselines=NO_BASELINES)
    assert "precision/1" in done.report.after


def test_rows_shared_by_train_and_test_are_dropped_from_train_and_told(prefect_api: str, tmp_path: Path, encoder: Path) -> None:
    train = topic_rows(120)
    test = [{**row, "text": row["text"].upper()} for row in train[:5]] + topic_rows(20, seed=9)
    write_csv(tmp_path / "data" / "train.csv", train)
    write_csv(tmp_path / "data" / "validation.csv", topic_rows(20, seed=8))
    write_csv(tmp_path / "data" / "test.csv", test)
    done = run(tmp_path / "store", tmp_path / "data", encoder, baselines=NO_BASELINES)
    page = (done.folder / "report.html").read_text(encoding="utf-8")
    assert "5 of train in test (0 of them exactly); dropped from train" in page
    assert done.report.rows == 25


def test_the_prefect_ui_gets_a_table_a_summary_the_chart_and_progress(finished: Finished, prefect_api: str) -> None:
    found = httpx.post(f"{prefect_api}/artifacts/filter", json={}).json()
    kinds = {(entry["key"], entry["type"]) for entry in found}
    assert {("topics-metrics", "table"), ("topics-summary", "markdown"), ("topics-scores", "image")} <= kinds
    assert ("fine-tune-progress", "progress") in kinds
    summary = next(entry["data"] for entry in found if entry["key"] == "topics-summary")
    assert "report.html" in summary
