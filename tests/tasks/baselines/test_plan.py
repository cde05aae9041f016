"""Tests of the plan: what is left out and why, and how many rows a probe may learn from."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.baselines.plan import are_words, draw, most_rows, plan
from tasks.kinds import load_kind
from tasks.models import model_identity
from tasks.records import DatasetRef, Inputs
from tasks.steps import Run

WORDS = ["sport", "market"]
KIND = "text-classification"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]}))
    return folder


def planned(
    model: Path,
    *,
    train: int = 5000,
    test: int = 300,
    labels: list[str] | None = None,
    kind: str = KIND,
    **config: Any,
) -> Any:
    store = model.parent / "store"
    settings = load_kind(kind).config_class.model_validate({"store": str(store), "model": {"name": str(model)}, **config})
    run = Run(kind_name=kind, config=settings, inputs=Inputs(data_identity="d", model_identity=model_identity(settings.model)))
    key, source = f"steps/load-dataset/{len(labels or WORDS)}-{hash(tuple(labels or WORDS)) % 1000}", model.parent / "rows"
    source.mkdir(exist_ok=True)
    (source / "info.json").write_text(json.dumps({"labels": WORDS if labels is None else labels}))
    if run.store.find(key) is None:
        run.store.publish(source, key, {})
    return plan(run, DatasetRef(key=key, train=train, validation=test, test=test))


def test_all_are_wanted_where_all_fit(model: Path) -> None:
    found = planned(model)
    assert found.wanted == ("majority", "linear", "zero_shot", "probe")
    assert found.skipped == {}
    # 0.1 of 3 x 2 x 5,000 passes are 3,000; zero-shot takes two for each of 300 rows, the probe one.
    assert found.probe_rows == 3000 - 600 - 300


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        ({"training": {"epochs": 3}}, 4500 - 900),
        ({"baselines": {"time_share": 0.2}}, 5000),
        ({"baselines": {"zero_shot": False}}, 2700),
    ],
)
def test_a_probe_learns_from_as_many_rows_as_the_share_leaves(model: Path, config: dict[str, Any], rows: int) -> None:
    assert planned(model, **config).probe_rows == rows


def test_what_is_not_set_is_not_mentioned(model: Path) -> None:
    none = dict.fromkeys(("simplest", "linear", "probe", "zero_shot"), False)
    found = planned(model, baselines=none)
    assert (found.wanted, found.skipped) == ((), {})


@pytest.mark.parametrize("kind", ["summarization", "causal-lm", "masked-lm", "question-answering"])
def test_kinds_without_labels_have_the_simplest_alone(model: Path, kind: str) -> None:
    found = planned(model, kind=kind)
    assert len(found.wanted) == 1
    assert found.skipped == {}


def test_problems_of_several_labels_and_of_numbers_have_no_zero_shot(model: Path) -> None:
    assert planned(model, problem="multi_label").wanted == ("majority", "linear", "probe")
    assert planned(model, problem="regression", labels=[]).wanted == ("mean", "linear", "probe")


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], ["GPTNeoModel"], ["T5ForConditionalGeneration"], None])
def test_a_model_that_predicts_no_next_token_is_not_asked(model: Path, architectures: Any) -> None:
    (model / "config.json").write_text(json.dumps({"architectures": architectures}))
    found = planned(model)
    assert "zero_shot" not in found.wanted
    assert found.skipped == {"zero_shot": "the model is no causal language model"}


def test_numbers_are_no_names(model: Path) -> None:
    reason = planned(model, labels=["0", "1\n", "2", "3"]).skipped["zero_shot"]
    assert reason == "its classes have no names that a model could know ('0', '1\\n', '2', …)"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["sport", "sci_tech"], True),
        (["World", "Sci/Tech"], True),
        (["気象", "経済"], True),
        (["sport", "3"], False),
        (["LABEL_0", "LABEL_1"], False),
        (["class 1", "class 2"], False),
        (["+", "-"], False),
        (["4.5"], False),
    ],
)
def test_words_and_other_names(labels: list[str], words: bool) -> None:
    assert are_words(labels) is words


def test_a_share_that_is_too_small_is_told(model: Path) -> None:
    found = planned(model, train=1000, test=400)
    assert found.skipped == {"zero_shot": "it takes 800 readings of a text, and baselines.time_share, 0.1, allows 600"}
    # What it would have taken is left for the probe.
    assert found.probe_rows == 200


def test_a_probe_is_left_out_where_too_few_rows_are_left(model: Path) -> None:
    found = planned(model, train=1000, test=401, baselines={"zero_shot": False})
    assert found.skipped == {"probe": "baselines.time_share, 0.1, leaves 199 train rows to learn from, and it takes 200"}
    assert "probe" in planned(model, train=1000, test=400, baselines={"zero_shot": False}).wanted
    # Of a small train split all is enough.
    assert planned(model, train=60, test=10, baselines={"zero_shot": False, "time_share": 0.2}).probe_rows == 60


def test_many_classes_want_many_rows(model: Path) -> None:
    labels = [f"name-{'abcdefghij'[number % 10]}{'abcdefghij'[number // 10 % 10]}{number // 100}" for number in range(1000)]
    reason = planned(model, train=50_000, labels=labels).skipped["linear"]
    assert reason == "1,000 classes leave 4,000 train rows to learn from, and it takes 10,000"


@pytest.mark.parametrize(("train", "outputs", "rows"), [(500, 2, 500), (90_000, 2, 20_000), (90_000, 400, 10_000)])
def test_linear_models_learn_from_so_many_rows_at_most(train: int, outputs: int, rows: int) -> None:
    assert most_rows(DatasetRef(train=train, validation=1, test=1), outputs) == rows


def test_a_model_whose_configuration_cannot_be_read_is_a_reason(model: Path) -> None:
    (model / "config.json").write_text("no JSON")
    assert planned(model).skipped["zero_shot"].startswith("the model's configuration cannot be read: ")


def test_rows_are_drawn_by_the_seed_and_stay_in_order() -> None:
    first, again, other = draw(100, 30, 1), draw(100, 30, 1), draw(100, 30, 2)
    assert first.tolist() == again.tolist() == sorted(set(first.tolist()))
    assert len(first) == 30
    assert first.tolist() != other.tolist()
    assert draw(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
