"""Any number of labels per row: metrics and their sources, as functions of counts per label and of sums per row.

Source: Sorower 2010, A literature survey on algorithms for multi-label learning, for the metrics of single rows.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.kinds.kind import Array, Metrics
from tasks.scoring.calibration import BINS, calibration_error, calibration_statistics, reliability
from tasks.scoring.ratios import per_label, ratio

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD = 0.5
"""A label is predicted where its probability is at least this."""
_OF_ROWS = 5 + BINS  # sums that are not of one label
_NAMED = 3


def multilabel_statistics(probabilities: Array, references: Array) -> Array:
    """Return a row's counts per label and what it adds to the metrics of rows.

    Args:
        probabilities: One per label, shape (rows, labels).
        references: Whether the row has the label, shape (rows, labels).

    Returns:
        Array: shape (rows, 3 * labels + 5 + BINS): per label whether it was rightly predicted, wrongly predicted, missed; then 1,
        whether all labels are right, how many are not, F1 of the row, nats per label; see `calibration_statistics` of all labels.
    """
    predicted, wanted = probabilities >= THRESHOLD, references.astype(bool)
    hits, alarms, misses = predicted & wanted, predicted & ~wanted, ~predicted & wanted
    wrong = (alarms | misses).sum(1)
    rest = [np.ones(len(wanted)), wrong == 0, wrong, row_f1(probabilities, references), _nats(probabilities, wanted)]
    calibration = calibration_statistics(probabilities, wanted).sum(1)
    return np.concatenate([hits, alarms, misses, np.stack(rest, 1), calibration], axis=1).astype(np.float64)


def row_f1(probabilities: Array, references: Array) -> Array:
    """Return the F1 of each row's set of labels, shape (rows,): 1 where there are none and none are predicted."""
    predicted, wanted = probabilities >= THRESHOLD, references.astype(bool)
    sizes = (predicted.sum(1) + wanted.sum(1)).astype(np.float64)
    f1: Array = np.divide(2.0 * (predicted & wanted).sum(1), sizes, out=np.ones(len(sizes)), where=sizes > 0)
    return f1


def _nats(probabilities: Array, wanted: Array) -> Array:
    """Return the mean negative log likelihood of each row's labels, in nats: the training loss."""
    likelihood = np.where(wanted, probabilities.astype(np.float64), 1.0 - probabilities.astype(np.float64))
    # As scikit-learn's log_loss: a probability of zero counts as the type's smallest step.
    nats: Array = -np.log(np.clip(likelihood, np.finfo(probabilities.dtype).eps, 1.0)).mean(1)
    return nats


def multilabel_metrics(sums: Array, labels: Sequence[str]) -> Metrics:
    """Return F1 over decisions, labels and rows, exact matches, Hamming loss, log loss, calibration error, each label's scores.

    A ratio of counts with a zero denominator is 0; for F1 over rows see `row_f1`.

    Args:
        sums: Column sums of `multilabel_statistics`, shape (…, 3 * labels + 5 + BINS).
        labels: Names of the labels.
    """
    sums = np.asarray(sums, np.float64)
    hits, alarms, misses = np.moveaxis(sums[..., :-_OF_ROWS].reshape(*sums.shape[:-1], 3, len(labels)), -2, 0)
    rows, exact, wrong, f1_rows, nats = np.moveaxis(sums[..., -_OF_ROWS:-BINS], -1, 0)
    support, predicted = hits + misses, hits + alarms
    precision, recall = ratio(hits, predicted), ratio(hits, support)
    f1 = ratio(2 * hits, support + predicted)
    return {
        "f1_micro": ratio(2 * hits.sum(-1), (support + predicted).sum(-1)),
        "f1_macro": f1.mean(-1),
        "f1_weighted": ratio((f1 * support).sum(-1), support.sum(-1)),
        "f1_samples": f1_rows / rows,
        "subset_accuracy": exact / rows,
        "hamming_loss": wrong / (rows * len(labels)),
        "log_loss": nats / rows,
        "calibration_error": calibration_error(sums[..., -BINS:], rows * len(labels)),
        **per_label(labels, precision=precision, recall=recall, f1=f1),
    }


def multilabel_analysis(before: "pd.DataFrame", after: "pd.DataFrame", labels: Sequence[str]) -> dict[str, Any]:
    """Return where a difference comes from, as JSON.

    Args:
        before: Columns `labels` and `predictions`, lists of names, and `probabilities`.
        after: The same rows of another model.
        labels: Names of the labels.

    Returns:
        dict: `labels`; `classes` (per label the rows that have it; of all rows those for which it was decided rightly before and
        after, fixed and broken); `reliability` (see there, of all decisions, before and after); `sources`, the same in sentences.
    """
    wanted = _membership(before["labels"], labels)
    right = {name: _membership(frame["predictions"], labels) == wanted for name, frame in (("before", before), ("after", after))}
    classes = [
        {
            "label": label,
            "rows": int(wanted[:, number].sum()),
            "right_before": int(right["before"][:, number].sum()),
            "right_after": int(right["after"][:, number].sum()),
            "fixed": int((~right["before"] & right["after"])[:, number].sum()),
            "broken": int((right["before"] & ~right["after"])[:, number].sum()),
        }
        for number, label in enumerate(labels)
    ]
    curves = {
        name: reliability(np.array(frame["probabilities"].to_list()), wanted)
        for name, frame in (("before", before), ("after", after))
    }
    return {"labels": list(labels), "classes": classes, "reliability": curves, "sources": _sources(classes, wanted, right)}


def _membership(sets: Any, labels: Sequence[str]) -> Array:
    """Return, of rows of lists of names, whether each has each label, shape (rows, labels)."""
    numbers = {label: number for number, label in enumerate(labels)}
    found = np.zeros((len(sets), len(labels)), bool)
    for row, names in enumerate(sets):
        found[row, [numbers[name] for name in names]] = True
    return found


def _sources(classes: Sequence[dict[str, Any]], wanted: Array, right: dict[str, Array]) -> list[str]:
    exact = {name: int(matrix.all(1).sum()) for name, matrix in right.items()}
    told = [f"All labels are right in {exact['before']:,} of {len(wanted):,} rows before and in {exact['after']:,} after."]
    order = sorted(classes, key=lambda entry: entry["broken"] - entry["fixed"])
    for what, chosen in (
        ("The labels decided rightly in more rows than before", [entry for entry in order if entry["fixed"] > entry["broken"]]),
        ("The labels decided rightly in fewer", [entry for entry in reversed(order) if entry["fixed"] < entry["broken"]]),
    ):
        if chosen:
            listed = ", ".join(f"“{entry['label']}” ({entry['fixed'] - entry['broken']:+,})" for entry in chosen[:_NAMED])
            told.append(f"{what}: {listed}.")
    return told
