"""From a baseline's predictions to its scores, in the same files as a model's; knows no Prefect, as the compute process."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.kinds.kind import Kind, Predictions
from tasks.metrics import scores_of, write_predictions
from tasks.records import Scores, Split

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase


def score(folder: Path, kind: Kind, predictions: Predictions, rows: "datasets.Dataset", *, device: str, started: float) -> Scores:
    """Write `predictions.parquet`, `statistics.npz` and `metrics.json` of predictions that nothing was chosen for.

    Args:
        folder: Where to.
        kind: The kind.
        predictions: What `Kind.gather` would return.
        rows: The test rows.
        device: Device and precision.
        started: When work on the baseline began, on the monotonic clock.
    """
    return _score(folder, kind, kind.decide(predictions, {}), rows, {}, device, started)


def score_guess(
    folder: Path,
    kind: Kind,
    dataset: Path,
    tokens: Path | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> Scores:
    """Score the kind's simplest guess; what depends on validation is chosen there, as for a model.

    Args:
        folder: Where the files of `score` go.
        kind: The kind.
        dataset: Folder of the rows.
        tokens: Folder of what they became, if the guess is about tokens.
        tokenizer: The model's, if it is.
    """
    import datasets

    started = time.monotonic()
    train = datasets.Dataset.load_from_disk(str(dataset / "train"))

    def guess(split: Split) -> "tuple[Predictions, datasets.Dataset]":
        rows = datasets.Dataset.load_from_disk(str(dataset / split))
        features = datasets.Dataset.load_from_disk(str(tokens / split)) if tokens else None
        return kind.guess(train, rows, features, tokenizer), rows

    calibration = kind.calibrate(*guess("validation")) if kind.calibrated else {}
    predictions, rows = guess("test")
    return _score(folder, kind, kind.decide(predictions, calibration), rows, calibration, "cpu", started)


def _score(
    folder: Path,
    kind: Kind,
    predictions: Predictions,
    rows: "datasets.Dataset",
    calibration: dict[str, float],
    device: str,
    started: float,
) -> Scores:
    metrics = scores_of(kind, write_predictions(folder, kind, predictions, rows))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Scores(
        metrics=metrics,
        rows=len(rows),
        head="none",
        calibration=calibration,
        device=device,
        seconds=time.monotonic() - started,
    )
