"""What all kinds promise the steps, on predictions of models: before and after, any rows, and the settings that a step reads."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from tasks.comparison.analysis import analyse
from tasks.compute.models import Hardware, bind, load_model, load_tokenizer
from tasks.compute.predict import Predictor, score
from tasks.config import ExperimentConfig
from tasks.data.rows import read_split
from tasks.data.step import load_dataset
from tasks.evaluation import evaluate_baseline, evaluate_fine_tuned
from tasks.kinds import kind_names, load_kind
from tasks.kinds.kind import Kind, Predictions
from tasks.metrics import summed_statistics
from tasks.records import Inputs
from tasks.significance import paired_intervals
from tasks.steps import Run
from tasks.tokenization import tokenize
from tasks.training import fine_tune
from tests.architectures import make_architecture
from tests.tasks.kinds.cases import CASES, PROBLEMS, TRAINING, Case

NAMES = [*kind_names(), *(f"text-classification/{problem}" for problem in PROBLEMS)]
ROWS = 14


@dataclass(frozen=True)
class Scored:
    """Rows of a kind, and what two models said of them."""

    kind: Kind
    tokenizer: Any
    rows: datasets.Dataset
    model: Any
    before: Predictions
    after: Predictions

    def statistics(self, rows: Any = slice(None)) -> np.ndarray:
        """Return those of the model before, of chosen rows."""
        return self.kind.statistics({name: values[rows] for name, values in self.before.items()}, self.rows[rows])

    def frame(self, predictions: Predictions) -> pd.DataFrame:
        """Return what `predictions.parquet` has."""
        scores = pa.array(self.kind.row_scores(predictions, self.rows[:]), pa.float64())
        columns = {"id": pa.array(self.rows["id"][:]), "score": scores, **self.kind.table(predictions, self.rows[:])}
        found: pd.DataFrame = pa.table(columns).to_pandas()
        return found


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_architecture("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def score_case(bert: Path) -> Callable[[str], Scored]:
    """Return the function that scores a case's rows with a model, and with that model changed; each case once."""
    known: dict[str, Scored] = {}

    def scored(case: str) -> Scored:
        if case not in known:
            kind, _, problem = case.partition("/")
            known[case] = _score(kind, PROBLEMS[problem] if problem else CASES[kind], bert)
        return known[case]

    return scored


def _score(name: str, case: Case, folder: Path) -> Scored:
    # So few tokens that the longest texts take more than one window.
    settings = {**case.settings_for("bert"), "training": {**TRAINING, "max_length": 24}}
    kind = bind(name, settings, case.labels)
    tokenizer = load_tokenizer(folder, remote_code=False)
    rows = datasets.Dataset.from_list([{"id": str(number), **row} for number, row in enumerate(case.rows(ROWS, 1))])
    torch.manual_seed(0)
    model, head = load_model(kind, folder, tokenizer, trained=False, allow_pickle=False, remote_code=False)
    encoded = {train: kind.encode(tokenizer, rows[:], train=train) for train in (True, False)}
    kind.start(model, head, datasets.Dataset.from_dict(encoded[True].features))
    owners = encoded[False].rows if encoded[False].rows is not None else list(range(ROWS))
    lengths = [len(ids) for ids in encoded[False].features["input_ids"]]
    features = datasets.Dataset.from_dict({**encoded[False].features, "row": owners, "length": lengths})
    predictor = Predictor(kind, tokenizer, Hardware("cpu", "fp32"))
    found = []
    for _ in range(2):
        raw = predictor(model, features, rows)
        found.append(kind.decide(raw, kind.calibrate(raw, rows) if kind.calibrated else {}))
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.2)
    return Scored(kind, tokenizer, rows, model, found[0], found[1])


@pytest.fixture(params=NAMES)
def scored(request: pytest.FixtureRequest, score_case: Callable[[str], Scored]) -> Scored:
    return score_case(request.param)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_quickstart_of_each_problem_has_rows_enough(problem: str) -> None:
    kind = bind("text-classification", {"problem": problem})
    index = read_split([kind.adapt(kind.quickstart())], kind.columns(), None, {}, check=kind.fault)
    assert len(index.folded) >= 500


@pytest.mark.parametrize("name", kind_names())
def test_every_setting_of_its_own_is_read_by_a_step(name: str) -> None:
    kind = load_kind(name)
    common, own = ExperimentConfig().model_dump(), kind.config_class().model_dump()
    read = tuple(f"{prefix}." for prefixes in kind.reads.values() for prefix in prefixes)
    for group, value in own.items():
        if group not in common:
            settings = [f"{group}.{setting}." for setting in value] if isinstance(value, dict) else [f"{group}."]
            assert [setting for setting in settings if not setting.startswith(read)] == []


@pytest.mark.parametrize("name", kind_names())
def test_the_names_of_metrics_are_those_of_metrics(name: str, score_case: Callable[[str], Scored]) -> None:
    kind = load_kind(name)
    found = [score_case(case).kind for case in NAMES if case.partition("/")[0] == name]
    sums = [score_case(case).statistics().sum(0) for case in NAMES if case.partition("/")[0] == name]
    metrics = {metric for bound, total in zip(found, sums, strict=True) for metric in bound.metrics(total)}
    assert kind.lower_is_better | kind.neutral | kind.unbounded <= metrics
    assert not kind.lower_is_better & kind.neutral


# What a kind does with rows


def test_rows_become_features_of_rows(scored: Scored) -> None:
    kind, tokenizer, rows = scored.kind, scored.tokenizer, scored.rows
    for train in (True, False):
        encoded = kind.encode(tokenizer, rows[:], train=train)
        counts = {len(values) for values in encoded.features.values()}
        assert len(counts) == 1
        assert len(encoded.truncated) == ROWS
        assert encoded.rows is None or (len(encoded.rows),) == tuple(counts)
        assert encoded.rows is not None or counts == {ROWS}
        assert set(encoded.rows or [0]) <= set(range(ROWS))
        assert max(map(len, encoded.features["input_ids"])) <= kind.config.training.max_length
    # What is scored of a row does not depend on the rows beside it.
    whole = kind.encode(tokenizer, rows[:], train=False)
    halves = [kind.encode(tokenizer, rows[part], train=False) for part in (slice(0, 5), slice(5, None))]
    assert whole.features == {name: [*halves[0].features[name], *halves[1].features[name]] for name in whole.features}
    assert whole.truncated == halves[0].truncated + halves[1].truncated


@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces a better way:FutureWarning")
def test_a_batch_gives_a_loss_over_items(scored: Scored) -> None:
    kind, tokenizer = scored.kind, scored.tokenizer
    features = kind.encode(tokenizer, scored.rows[:], train=True).features
    listed = [dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True)]
    batch = kind.collator(tokenizer, train=True)(listed)
    assert kind.loss_items(batch) > 0
    loss = scored.model(**batch).loss
    assert loss.requires_grad
    assert torch.isfinite(loss)


@pytest.mark.parametrize("train", [True, False])
def test_a_batch_is_padded_as_asked_for(scored: Scored, train: bool) -> None:
    kind, tokenizer = scored.kind, scored.tokenizer
    features = kind.encode(tokenizer, scored.rows[:], train=train).features
    listed = [dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True)]
    longest = max(map(len, features["input_ids"]))
    widths = [kind.collator(tokenizer, train=train, pad_to_multiple_of=size)(listed)["input_ids"].shape[1] for size in (1, 11)]
    assert widths == [longest, -(-longest // 11) * 11]


def test_a_step_reads_all_the_settings_that_matter_to_it(scored: Scored) -> None:
    kind, tokenizer, rows = scored.kind, scored.tokenizer, scored.rows
    run = Run(kind_name=kind.name, config=kind.config, inputs=Inputs(data_identity="d", model_identity="m"))
    load, prepare, learn, predict, predict_again = (
        step.kind(run, kind.labels) for step in (load_dataset, tokenize, fine_tune, evaluate_baseline, evaluate_fine_tuned)
    )
    assert load.columns() == kind.columns()
    for train in (True, False):
        assert prepare.encode(tokenizer, rows[:], train=train) == kind.encode(tokenizer, rows[:], train=train)
    features = kind.encode(tokenizer, rows[:], train=True).features
    listed = [dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True)]
    batches = [bound.collator(tokenizer, train=True)(listed) for bound in (learn, kind)]
    assert all(torch.equal(value, batches[1][name]) for name, value in batches[0].items())
    for bound in (learn, predict, predict_again):
        np.testing.assert_array_equal(bound.statistics(scored.before, rows[:]), scored.statistics())
        assert (bound.primary_metric, bound.loss_metric) == (kind.primary_metric, kind.loss_metric)


# What a kind says of predictions


def test_metrics_are_functions_of_sums_over_any_rows(scored: Scored) -> None:
    kind, all_rows = scored.kind, scored.statistics()
    assert all_rows.ndim == 2
    assert len(all_rows) == ROWS
    halves = [scored.statistics(part) for part in (slice(0, 5), slice(5, None))]
    np.testing.assert_allclose(np.concatenate(halves), all_rows)
    metrics = kind.metrics(all_rows.sum(0))
    assert kind.metrics(halves[0].sum(0) + halves[1].sum(0)) == pytest.approx(metrics)
    assert score(kind, summed_statistics(kind, scored.before, scored.rows), len(scored.rows)) == pytest.approx(metrics)
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())
    assert json.loads(json.dumps(metrics)) == metrics


def test_metrics_of_many_sums_are_those_of_each(scored: Scored) -> None:
    rng = np.random.default_rng(0)
    sums = rng.multinomial(ROWS, [1 / ROWS] * ROWS, (2, 3)) @ scored.statistics()
    found = scored.kind.metrics(sums)
    for place in np.ndindex(2, 3):
        alone = scored.kind.metrics(sums[place])
        assert alone == pytest.approx({name: found[name][place] for name in alone}, nan_ok=True)
    assert all(np.shape(values) == (2, 3) for values in found.values())


def test_metrics_have_one_name_before_and_after(scored: Scored) -> None:
    kind, rows = scored.kind, scored.rows[:]
    before, after = (kind.metrics(kind.statistics(found, rows).sum(0)) for found in (scored.before, scored.after))
    assert list(before) == list(after)
    assert kind.primary_metric in before
    assert kind.primary_metric not in kind.neutral
    assert kind.loss_metric is None or kind.loss_metric in before
    assert kind.loss_metric is None or kind.loss_metric in kind.lower_is_better
    assert all(value <= 1 for found in (before, after) for name, value in found.items() if name not in kind.unbounded)


def test_a_row_has_a_score_of_its_own(scored: Scored) -> None:
    kind, rows = scored.kind, scored.rows
    scores = kind.row_scores(scored.before, rows[:])
    assert scores.shape == (ROWS,)
    assert np.isfinite(scores).all()
    order = np.arange(ROWS)[::-1]
    backwards = kind.row_scores({name: values[order] for name, values in scored.before.items()}, rows[order])
    np.testing.assert_allclose(backwards, scores[order])
    assert not kind.right_or_wrong or set(scores.tolist()) <= {0, 1}


def test_before_and_after_can_be_compared(scored: Scored) -> None:
    kind, rows = scored.kind, scored.rows[:]
    frames = [scored.frame(found) for found in (scored.before, scored.after)]
    metrics = [kind.metrics(kind.statistics(found, rows).sum(0)) for found in (scored.before, scored.after)]
    statistics = [sparse.csr_array(kind.statistics(found, rows)) for found in (scored.before, scored.after)]
    intervals = paired_intervals(kind.metrics, *statistics, resamples=200)
    assert list(intervals) == list(metrics[0])
    for name, found in intervals.items():
        assert found.low <= metrics[1][name] - metrics[0][name] <= found.high
    analysis = analyse(kind, frames[0], frames[1], metrics[0], metrics[1], intervals)
    assert json.loads(json.dumps(analysis)) == analysis
    assert [entry["name"] for entry in analysis["metrics"]] == list(metrics[0])
    assert all(isinstance(sentence, str) and sentence.endswith(".") for sentence in analysis["sources"])


def test_the_model_card_can_say_how_the_model_is_used(scored: Scored) -> None:
    compile(scored.kind.usage, "usage", "exec")
    assert "path/to/this/folder" in scored.kind.usage
    assert scored.kind.pipeline_tag
