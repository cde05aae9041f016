"""Each kind with each architecture that it supports: before, a few steps of training, after; and a clear line for the others.

A new kind joins by its rows and settings in `CASES`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.errors import InputError
from tasks.kinds import kind_names
from tests.architectures import ARCHITECTURES, DECODERS, ENCODER_DECODERS, make_architecture
from tests.helpers import TOPICS, topic_rows
from tests.tasks.kinds.language_models import Lab, texts

LABELS = list(TOPICS)
TRAINING: dict[str, Any] = {"epochs": 1, "learning_rate": 0.01, "batch_size": 8, "max_length": 32}


@dataclass(frozen=True)
class Case:
    """What a kind is tried on."""

    rows: Callable[[int, int], list[dict[str, Any]]]
    """From a number and a seed to rows, as `load-dataset` leaves them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the kind."""
    decoder_settings: Mapping[str, Any] = field(default_factory=dict)
    """Further ones for decoders."""
    labels: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Architectures that make no sense here, and what is said of them."""


def labelled(count: int, seed: int) -> list[dict[str, Any]]:
    return [{"text": row["text"], "label": LABELS.index(row["label"])} for row in topic_rows(count, seed=seed)]


def summarized(count: int, seed: int) -> list[dict[str, Any]]:
    return [{"text": row["text"], "summary": " ".join(row["text"].split()[:2])} for row in topic_rows(count, seed=seed)]


def answered(count: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    for row in topic_rows(count, seed=seed):
        answer = row["text"].split()[1]
        answers = json.dumps({"text": [answer], "answer_start": [row["text"].index(f" {answer}") + 1]})
        rows.append({"question": f"which {row['label']}", "context": row["text"], "answers": answers})
    return rows


NO_DECODER = "of which transformers makes no decoder; choose"
NO_MASK = "has no mask token, .*; choose an encoder"
NO_ENCODER = "and no encoder that guesses hidden tokens; choose"
CASES = {
    "text-classification": Case(labelled, labels=tuple(LABELS)),
    "summarization": Case(
        summarized,
        {"generation": {"max_target_length": 8, "max_new_tokens": 4}},
        {"generation": {"max_target_length": 8, "max_new_tokens": 4, "template": "{document} it was"}},
        refused=dict.fromkeys(("distilbert", "deberta-v2", "modernbert"), "transformers cannot make a decoder of; choose"),
    ),
    "question-answering": Case(answered, {"answers": {"stride": 4}}),
    "causal-lm": Case(
        texts,
        {"language": {"samples": 1, "sample_tokens": 4}},
        refused=dict.fromkeys(("distilbert", "deberta-v2", "modernbert"), NO_DECODER)
        | dict.fromkeys(ENCODER_DECODERS, "an encoder-decoder, which does not go on with a text; choose"),
    ),
    "masked-lm": Case(texts, refused=dict.fromkeys((*DECODERS, "t5"), NO_MASK) | {"bart": NO_ENCODER}),
}
SUPPORTED = [(kind, name) for kind, case in CASES.items() for name in ARCHITECTURES if name not in case.refused]
REFUSED = [(kind, name) for kind, case in CASES.items() for name in case.refused]


def test_every_kind_is_tried() -> None:
    assert sorted(CASES) == kind_names()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of the models by architecture."""
    root = tmp_path_factory.mktemp("architectures")
    return {name: make_architecture(name, root / name) for name in ARCHITECTURES}


def lab(root: Path, kind: str, name: str, model: Path) -> Lab:
    """Return a kind's rows, of which the same validate and test, with a model's tokens."""
    case = CASES[kind]
    settings = {**case.settings, **(case.decoder_settings if name in DECODERS else {}), "training": TRAINING}
    # Which tokens are hidden hangs on a row's id too.
    held_out = [{"id": str(number), **row} for number, row in enumerate(case.rows(6, 1))]
    splits = {"train": case.rows(16, 0), "validation": held_out, "test": held_out}
    made = Lab(root, kind, model, settings, labels=case.labels, **splits)
    made.tokenize()
    return made


def predictions(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions.parquet")


@pytest.mark.parametrize(("kind", "name"), SUPPORTED)
def test_a_model_goes_from_before_to_after(
    kind: str, name: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lab(tmp_path, kind, name, models[name])
    before, batched = made.evaluate(made.model, trained=False)
    assert before["head"] in ("fresh", "pretrained", "warm-started")
    with monkeypatch.context() as patch:
        patch.setattr("tasks.compute.predict._ROWS_PER_BATCH", 1)
        _, alone = made.evaluate(made.model, trained=False)
    # Rows say the same whatever stands beside them in a batch.
    pd.testing.assert_frame_equal(predictions(batched), predictions(alone), rtol=1e-3, atol=1e-4)

    answer, folder = made.train()
    assert (answer["stop_reason"], answer["steps"]) == ("finished", answer["planned_steps"])
    after, scored = made.evaluate(folder, trained=True)
    assert after["head"] == "trained"
    # Validation, which was scored in memory, has the rows of test.
    assert after["metrics"] == pytest.approx(answer["validation"], rel=1e-4, abs=1e-5)
    numbers = predictions(scored).select_dtypes("number").columns.difference(["score"])
    changed = not predictions(scored)[numbers].equals(predictions(batched)[numbers])
    assert changed or kind == "summarization", "training changed nothing"


@pytest.mark.parametrize(("kind", "name"), REFUSED)
def test_what_makes_no_sense_is_told_in_one_line(kind: str, name: str, models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=CASES[kind].refused[name]) as caught:
        lab(tmp_path, kind, name, models[name]).evaluate(models[name], trained=False)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
