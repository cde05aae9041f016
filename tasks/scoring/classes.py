"""One of several classes per row: metrics and their sources, as functions of counts per class and the likelihoods.

Source: Gorodkin 2004 for the Matthews correlation of several classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.kinds.kind import Array, Metrics
from tasks.scoring.calibration import BINS, calibration_error, calibration_statistics, reliability
from tasks.scoring.ratios import per_label, ratio

if TYPE_CHECKING:
    import pandas as pd

_PAIRS = 5


def class_statistics(probabilities: Array, references: Array) -> Array:
    """Return the row's class, the predicted one, that class if it is right, its negative log likelihood, and its calibration.

    Args:
        probabilities: shape (rows, classes).
        references: Class numbers, shape (rows,).

    Returns:
        Array: shape (rows, 3 * classes + 1 + BINS): one-hot of the reference, of the prediction and, where they are one, of that;
        nats; see `calibration_statistics`.
    """
    rows, classes = probabilities.shape
    found = np.zeros((rows, 3 * classes + 1 + BINS))
    number, predicted = np.arange(rows), probabilities.argmax(1)
    found[number, references] = found[number, classes + predicted] = 1.0
    right = predicted == references
    found[number[right], 2 * classes + predicted[right]] = 1.0
    found[:, 3 * classes] = _nats(probabilities, references)
    found[:, -BINS:] = calibration_statistics(probabilities[number, predicted], right)
    return found


def _nats(probabilities: Array, references: Array) -> Array:
    """Return each row's negative log likelihood, in nats."""
    likelihood = probabilities[np.arange(len(references)), references].astype(np.float64)
    # As scikit-learn's log_loss: a probability of zero counts as the type's smallest step.
    nats: Array = -np.log(np.clip(likelihood, np.finfo(probabilities.dtype).eps, 1.0))
    return nats


def class_metrics(sums: Array, labels: Sequence[str]) -> Metrics:
    """Return accuracy, F1, Matthews correlation, log loss, calibration error, and precision, recall and F1 per class.

    A ratio with a zero denominator is 0.

    Args:
        sums: Column sums of `class_statistics`, shape (…, 3 * classes + 1 + BINS).
        labels: Names of the classes.
    """
    sums = np.asarray(sums, np.float64)
    counts = sums[..., : 3 * len(labels)].reshape(*sums.shape[:-1], 3, len(labels))
    support, predicted, correct = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    rows, right = support.sum(-1), correct.sum(-1)
    precision, recall = ratio(correct, predicted), ratio(correct, support)
    f1 = ratio(2 * correct, support + predicted)
    covariance = right * rows - (predicted * support).sum(-1)
    spread = np.sqrt(rows**2 - (predicted**2).sum(-1)) * np.sqrt(rows**2 - (support**2).sum(-1))
    return {
        "accuracy": right / rows,
        "f1_weighted": (f1 * support).sum(-1) / rows,
        "f1_macro": f1.mean(-1),
        "matthews_correlation": ratio(covariance, spread),
        "log_loss": sums[..., 3 * len(labels)] / rows,
        "calibration_error": calibration_error(sums[..., -BINS:], rows),
        **per_label(labels, precision=precision, recall=recall, f1=f1),
    }


def class_analysis(before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
    """Return where a difference comes from, as JSON.

    Args:
        before: Columns `label` and `prediction`, categorical with the same classes, and `probabilities`.
        after: The same rows of another model.

    Returns:
        dict: `labels`; `classes` (per class the rows, those right before and after, fixed and broken); `confusion` (matrices of
        counts; rows: labels); `reliability` (see there, before and after); the pairs of classes whose confusion fell most
        (`resolved`) and that are confused most after (`remaining`); `sources`, the same in sentences.
    """
    labels = [str(label) for label in before["label"].cat.categories]
    reference = before["label"].cat.codes.to_numpy()
    right = {name: frame["prediction"].cat.codes.to_numpy() == reference for name, frame in _named(before, after)}
    confusion = {name: _confusion(frame, len(labels)) for name, frame in _named(before, after)}
    found: dict[str, Any] = {
        "labels": labels,
        "classes": [
            {"label": label, **_counts(reference == number, right["before"], right["after"])}
            for number, label in enumerate(labels)
        ],
        "confusion": {name: matrix.tolist() for name, matrix in confusion.items()},
        "reliability": {
            name: reliability(np.array(frame["probabilities"].to_list()).max(1), right[name])
            for name, frame in _named(before, after)
        },
        "resolved": _top_pairs(labels, confusion, confusion["before"] - confusion["after"]),
        "remaining": _top_pairs(labels, confusion, confusion["after"]),
    }
    return {**found, "sources": _sources(found)}


def _named(before: "pd.DataFrame", after: "pd.DataFrame") -> "tuple[tuple[str, pd.DataFrame], tuple[str, pd.DataFrame]]":
    return ("before", before), ("after", after)


def _counts(members: Array, before: Array, after: Array) -> dict[str, int]:
    old, new = before[members], after[members]
    return {
        "rows": int(members.sum()),
        "right_before": int(old.sum()),
        "right_after": int(new.sum()),
        "fixed": int((~old & new).sum()),
        "broken": int((old & ~new).sum()),
    }


def _confusion(frame: "pd.DataFrame", classes: int) -> Array:
    cells = frame["label"].cat.codes.astype(np.int64) * classes + frame["prediction"].cat.codes
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def _top_pairs(labels: list[str], confusion: dict[str, Array], weight: Array) -> list[dict[str, Any]]:
    """Return the off-diagonal cells of the greatest positive weight: rows of a label taken for another."""
    weight = weight.copy()
    np.fill_diagonal(weight, 0)
    order = np.argsort(-weight, axis=None, kind="stable")[:_PAIRS]
    cells = [divmod(int(cell), len(labels)) for cell in order if weight.flat[cell] > 0]
    return [
        {
            "label": labels[row],
            "taken_for": labels[column],
            "before": int(confusion["before"][row, column]),
            "after": int(confusion["after"][row, column]),
        }
        for row, column in cells
    ]


def _sources(found: dict[str, Any]) -> list[str]:
    told = []
    classes = sorted(found["classes"], key=lambda entry: entry["broken"] - entry["fixed"])
    if gains := [entry for entry in classes if entry["fixed"] > entry["broken"]][:3]:
        listed = ", ".join(f"“{entry['label']}” ({entry['fixed'] - entry['broken']:+,})" for entry in gains)
        told.append(f"The classes that gained most rows: {listed}.")
    if losses := [entry for entry in reversed(classes) if entry["fixed"] < entry["broken"]][:3]:
        listed = ", ".join(f"“{entry['label']}” ({entry['fixed'] - entry['broken']:+,})" for entry in losses)
        told.append(f"The classes that lost rows: {listed}.")
    for key, what in (("resolved", "The confusions that fell most"), ("remaining", "The most frequent confusions that are left")):
        if pairs := found[key]:
            listed = "; ".join(
                f"“{pair['label']}” taken for “{pair['taken_for']}” ({pair['before']:,} → {pair['after']:,})" for pair in pairs
            )
            told.append(f"{what}: {listed}.")
    return told
