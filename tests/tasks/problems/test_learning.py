"""Tests of learning labels and numbers through the compute process's commands: before, training, after, and the folder."""

import io
import random
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from tasks.compute.channel import Channel
from tasks.compute.predict import evaluate
from tasks.compute.train import train
from tasks.kinds.text_classification import KIND, TextClassificationConfig
from tests.helpers import COMMON, TOPICS
from tests.tasks.compute.commands import evaluate_arguments, save_tokens, train_arguments

LABELS = list(TOPICS)
SIZES = {"train": 96, "validation": 24, "test": 50}


def texts(count: int, seed: int) -> list[tuple[str, list[int]]]:
    """Return texts of words about any number of topics, and those topics."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        topics = [number for number in range(len(LABELS)) if rng.random() < 0.5]
        words = [rng.choice(TOPICS[LABELS[number]]) for number in topics for _ in range(3)] + rng.choices(COMMON, k=2)
        rng.shuffle(words)
        found.append((" ".join(words), topics))
    return found


def save_rows(folder: Path, problem: str) -> Path:
    label = {
        "multi_label": datasets.List(datasets.ClassLabel(names=LABELS)),
        "regression": datasets.Value("float64"),
    }[problem]
    features = datasets.Features({"id": datasets.Value("string"), "text": datasets.Value("string"), "label": label})
    for seed, (split, size) in enumerate(SIZES.items()):
        rows = [
            {"id": f"{split}-{number}", "text": text, "label": topics if problem == "multi_label" else 1000 + 50 * len(topics)}
            for number, (text, topics) in enumerate(texts(size, seed))
        ]
        datasets.Dataset.from_list(rows, features=features).save_to_disk(str(folder / split))
    return folder


@pytest.mark.parametrize(("problem", "metric", "least"), [("multi_label", "f1_micro", 0.9), ("regression", "r2", 0.5)])
def test_training_learns_and_the_folder_works_as_its_card_says(
    problem: str, metric: str, least: float, encoder: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"problem": problem, "training": {"max_length": 16}}
    labels = {"labels": LABELS if problem == "multi_label" else [], "settings": settings}
    tokens = save_tokens(tmp_path / "tokens", save_rows(tmp_path / "rows", problem), encoder, **labels)
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    before = evaluate(Channel(io.StringIO()), **evaluate_arguments(tokens, encoder, tmp_path / "before", **labels))
    answer = train(
        Channel(io.StringIO()),
        **train_arguments(tokens, encoder, tmp_path / "model", epochs=8, learning_rate=0.01) | labels,
    )
    trained = evaluate_arguments(tokens, tmp_path / "model", tmp_path / "after", trained=True, **labels)
    after = evaluate(Channel(io.StringIO()), **trained)
    assert (before["head"], after["head"], after["rows"]) == ("fresh", "trained", SIZES["test"])
    assert before["metrics"][metric] < least - 0.3
    assert after["metrics"][metric] > least
    assert max(entry["loss"] for entry in answer["history"] if "loss" in entry) < 5
    if problem == "regression":
        # Freshly initialised or not, a head that says about 0 would be off by a thousand.
        assert before["metrics"]["mae"] < 200
    agrees_with_the_card(problem, tmp_path)


def agrees_with_the_card(problem: str, folder: Path) -> None:
    """Run the lines of the model card on a test row and compare with what the run predicted."""
    frame = pd.read_parquet(folder / "after" / "predictions.parquet")
    rows = datasets.Dataset.load_from_disk(str(folder / "rows" / "test"))
    usage = KIND(TextClassificationConfig.model_validate({"problem": problem})).usage
    lines = usage.replace("path/to/this/folder", str(folder / "model")).replace("A text.", rows["text"][0])
    found: dict[str, Any] = {}
    exec(lines, found)
    if problem == "multi_label":
        assert sorted(found["found"]) == sorted(frame["predictions"][0])
    else:
        assert found["number"] == pytest.approx(frame["prediction"][0], rel=1e-4)
