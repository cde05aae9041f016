"""Tests of all baselines of a run, in a flow: what they learn, that the store has them again, and that none fails a run."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from prefect import flow
from prefect.exceptions import TerminationSignal
from scipy import sparse
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from blocks.errors import StoreUnavailable
from tasks import steps
from tasks.baselines.linear import baseline_linear
from tasks.baselines.probe import baseline_probe
from tasks.baselines.run import Found, find_baselines, run_baselines
from tasks.baselines.simplest import simplest
from tasks.baselines.zero_shot import baseline_zero_shot
from tasks.compute.client import ComputeProcess
from tasks.data.step import load_dataset
from tasks.errors import Preempted
from tasks.inputs import pin_inputs
from tasks.kinds import load_kind
from tasks.records import DatasetRef, Inputs
from tasks.steps import Run
from tasks.tokenization import tokenize
from tests.helpers import topic_rows, write_csv

TRAINING = {"max_length": 32, "device": "cpu", "precision": "fp32"}
SHARE = {"time_share": 1.0}


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("data") / "topics.csv", topic_rows(600))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory, decoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("models") / "writer"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(decoder)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(decoder).save_pretrained(folder)
    return folder


@pytest.fixture
def lines(prefect_api: str) -> Iterator[list[str]]:
    """Collect the log of flow and task runs."""
    assert prefect_api
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(f"{record.levelname} {record.getMessage()}")

    collector = Collector()
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addHandler(collector)
    yield found
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).removeHandler(collector)


@pytest.fixture(autouse=True)
def compute_in_flows(kept_compute: ComputeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ComputeProcess", lambda: kept_compute)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(steps.TASK_OPTIONS, "retry_delay_seconds", 0)


def configured(store: Path, source: Path, model: Path, kind: str = "text-classification", **values: Any) -> Run:
    settings = {"store": str(store), "data": {"source": str(source)}, "model": {"name": str(model)}, "training": TRAINING}
    config = load_kind(kind).config_class.model_validate({**settings, "baselines": SHARE, **values})
    return Run(kind_name=kind, config=config, inputs=Inputs(data_identity="", model_identity=""))


def in_a_flow(run: Run, then: Callable[..., Any]) -> Any:
    @flow
    def one() -> Any:
        pinned = run.model_copy(update={"inputs": pin_inputs(run.kind_name, run.config)})
        with ComputeProcess() as compute:
            dataset = load_dataset(pinned)
            tokens = tokenize(pinned, dataset=dataset, compute=compute)
            return then(pinned, dataset, tokens, compute)

    return one()


def both(run: Run) -> tuple[Found | None, Found, Found | None, Path]:
    """Return what is found before, what is computed, and what is found after that; and the folder of the rows."""

    def then(run: Run, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> Any:
        refs = {"dataset": dataset, "tokens": tokens}
        before = find_baselines(run, **refs)
        return before, run_baselines(run, **refs, compute=compute), find_baselines(run, **refs), run.store.fetch(dataset.key)

    found: tuple[Found | None, Found, Found | None, Path] = in_a_flow(run, then)
    return found


def test_the_baselines_of_a_classifier(tmp_path: Path, topics: Path, writer: Path, lines: list[str]) -> None:
    run = configured(tmp_path, topics, writer)
    before, (scores, skipped), after, rows = both(run)
    assert before is None
    assert after == (scores, skipped)
    assert list(scores) == ["majority", "linear", "zero_shot", "probe"]
    assert skipped == {}
    accuracy = {name: found.metrics["accuracy"] for name, found in scores.items()}
    assert accuracy["majority"] < 0.5
    assert accuracy["linear"] > 0.9
    assert accuracy["probe"] > accuracy["majority"] + 0.1
    test = datasets.Dataset.load_from_disk(str(rows / "test"))
    kind = baseline_linear.kind(run, test.features["label"].names)
    for found in scores.values():
        folder = run.store.fetch(found.key)
        frame = pd.read_parquet(folder / "predictions.parquet")
        assert frame["id"].tolist() == test["id"][:]
        assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == found.metrics
        sums = sparse.load_npz(folder / "statistics.npz").sum(0)
        assert float(kind.metrics(sums)["accuracy"]) == found.metrics["accuracy"]
    assert not [line for line in lines if line.startswith(("WARNING", "ERROR")) and "in more than one split" not in line]
    lines.clear()
    assert both(run)[1] == (scores, skipped)
    names = ["baseline-majority", "baseline-linear", "baseline-zero-shot", "baseline-probe"]
    assert sum("Finished in state Cached(" in line for line in lines) == len(names) + 2
    assert {found.key.split("/")[1] for found in scores.values()} == set(names)


@pytest.mark.parametrize(("problem", "metric", "least"), [("multi_label", "f1_micro", 0.8), ("regression", "r2", 0.3)])
def test_other_problems_are_learnt_too(
    tmp_path: Path, encoder: Path, prefect_api: str, problem: str, metric: str, least: float
) -> None:
    assert prefect_api
    rows = [{"text": row["text"], "label": row["label"]} for row in topic_rows(600)]
    if problem == "regression":
        values = {"sport": 3, "market": 50, "space": 70}
        rows = [{**row, "label": values[row["label"]] + len(row["text"]) / 100} for row in rows]
    source = write_csv(tmp_path / "rows.csv", rows)
    scores, skipped = both(configured(tmp_path / "store", source, encoder, problem=problem))[1]
    simple = "mean" if problem == "regression" else "majority"
    assert list(scores) == [simple, "linear", "probe"]
    assert skipped == {}
    assert scores["linear"].metrics[metric] > least
    assert scores["probe"].metrics[metric] > scores[simple].metrics[metric]


def test_a_guess_about_tokens_is_a_step_too(tmp_path: Path, topics: Path, decoder: Path, prefect_api: str) -> None:
    assert prefect_api
    _, (scores, skipped), after, _ = both(configured(tmp_path, topics, decoder, "causal-lm"))
    assert (list(scores), skipped) == (["unigram"], {})
    assert after == (scores, skipped)
    assert scores["unigram"].metrics["perplexity"] < 60


def test_a_baseline_that_fails_is_a_warning_and_a_reason(
    tmp_path: Path, topics: Path, encoder: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("no\nluck")

    monkeypatch.setattr("tasks.baselines.linear.fit_best", fail)

    def then(run: Run, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> Any:
        refs = {"dataset": dataset, "tokens": tokens}
        done = run_baselines(run, **refs, compute=compute)
        return done, find_baselines(run, **refs), find_baselines(run, **refs, computed=True)

    (scores, skipped), missing, computed = in_a_flow(configured(tmp_path, topics, encoder), then)
    assert list(scores) == ["majority", "probe"]
    assert skipped == {"zero_shot": "the model is no causal language model", "linear": "it failed: no luck"}
    assert "WARNING Baseline 'linear' is left out: it failed: no luck" in lines
    assert missing is None
    assert computed[0] == scores
    assert set(computed[1]) == {"zero_shot", "linear"}


@pytest.mark.parametrize("error", [StoreUnavailable("away"), Preempted("asked"), TerminationSignal(15)])
def test_what_ends_a_run_passes(
    tmp_path: Path, topics: Path, encoder: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    assert prefect_api

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("tasks.baselines.run.simplest", lambda *_, **__: fail)
    run = configured(tmp_path, topics, encoder, baselines={"linear": False, "probe": False, "zero_shot": False})
    caught: list[BaseException] = []

    def then(run: Run, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> None:
        try:
            run_baselines(run, dataset=dataset, tokens=tokens, compute=compute)
        except BaseException as passed:
            caught.append(passed)

    in_a_flow(run, then)
    assert caught == [error]


# ---- keys

RAW, TOKENS = (DatasetRef(key=key, train=300, validation=1, test=1) for key in ("steps/load/1", "steps/tokenize/1"))
STEPS = {
    "majority": (simplest("majority", about_tokens=False), {"dataset": RAW}),
    "linear": (baseline_linear, {"dataset": RAW}),
    "probe": (baseline_probe, {"dataset": RAW, "tokens": TOKENS}),
    "zero_shot": (baseline_zero_shot, {"dataset": RAW}),
}


def keys(inputs: Any = None, **values: Any) -> dict[str, str]:
    config = load_kind("text-classification").config_class.model_validate(values)
    run = Run(kind_name="text-classification", config=config, inputs=Inputs(data_identity="d", model_identity="m"))
    return {name: made.key(run, **{**refs, **(inputs or {})}) for name, (made, refs) in STEPS.items()}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "other", "store": "elsewhere", "gpu_deployment": "a/b"}, set()),
        ({"training": {"learning_rate": 0.5, "batch_size": 2}}, set()),
        ({"baselines": {"simplest": False, "linear": False, "probe": False}}, set()),
        ({"baselines": {"time_share": 0.5}}, {"probe"}),
        ({"training": {"epochs": 7}}, {"probe"}),
        ({"training": {"max_length": 7}}, {"zero_shot"}),
        ({"training": {"precision": "fp32"}}, {"probe", "zero_shot"}),
        ({"seed": 1}, {"linear", "probe", "zero_shot"}),
        ({"model": {"name": "other"}}, {"probe", "zero_shot"}),
        ({"problem": "multi_label"}, set(STEPS)),
        ({"inputs": {"dataset": TOKENS}}, set(STEPS)),
    ],
)
def test_a_key_depends_on_what_decides_the_scores(values: dict[str, Any], expected: set[str]) -> None:
    before, after = keys(), keys(**values)
    assert {name for name in STEPS if before[name] != after[name]} == expected
    assert np.unique(list(before.values())).size == len(STEPS)
