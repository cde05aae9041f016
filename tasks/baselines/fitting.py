"""Linear models of labels, by what a text's label is; scikit-learn is imported inside functions only."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tasks.data.values import Form
from tasks.kinds.kind import Array

_HELD_OUT = 0.2
_ITERATIONS = 200
# Ten times the library's: on AG News half the time, and the same scores within 0.001.
_TOLERANCE = 1e-3
_LEAST = 1e-7

Predict = Callable[[Any], Array]
"""From features, (rows, k), to what a kind keeps of a model's logits, one per row."""


def fit_best(form: Form, features: Any, labels: Sequence[Any], outputs: int, strengths: Sequence[float], seed: int) -> Predict:
    """Fit the linear model whose strength does best on a fifth of the rows, which are held out for that, to all of them.

    Args:
        form: Of the labels.
        features: shape (rows, k), dense or sparse.
        labels: Per row a class's number, a list of numbers, or a number.
        outputs: Number of classes.
        strengths: To choose from: the weight of the rows against that of small coefficients (`C` in scikit-learn).
        seed: Decides which rows are held out.
    """
    from threadpoolctl import threadpool_limits

    targets = _targets(form, labels, outputs)
    order = np.random.default_rng(seed).permutation(len(targets))
    held = max(1, round(_HELD_OUT * len(order)))
    out, kept = np.sort(order[:held]), np.sort(order[held:])
    # The vectors are short: on two cores two threads, which wait for each other, took five times as long as one.
    with threadpool_limits(1):
        losses = [
            _loss(form, _fit(form, features[kept], targets[kept], outputs, strength)(features[out]), targets[out])
            for strength in strengths
        ]
        return _fit(form, features, targets, outputs, strengths[int(np.argmin(losses))])


def _targets(form: Form, labels: Sequence[Any], outputs: int) -> Array:
    """Return class numbers (rows,), 1 or 0 of each label (rows, labels), or numbers (rows,)."""
    if form != "labels":
        return np.asarray(labels, np.float64 if form == "number" else np.int64)
    found = np.zeros((len(labels), outputs), np.int64)
    for row, numbers in enumerate(labels):
        found[row, numbers] = 1
    return found


def _fit(form: Form, features: Any, targets: Array, outputs: int, strength: float) -> Predict:
    if form == "number":
        return _fit_number(features, targets, strength)
    if form == "label":
        return _fit_classes(features, targets, outputs, strength)
    each = [_fit_classes(features, targets[:, label], 2, strength) for label in range(outputs)]
    return lambda new: np.stack([predict(new)[:, 1] for predict in each], axis=1)


def _fit_number(features: Any, targets: Array, strength: float) -> Predict:
    from sklearn.linear_model import Ridge

    # On the scale of their deviation, so that a strength means the same whatever the numbers are.
    mean, deviation = float(targets.mean()), float(targets.std()) or 1.0
    model = Ridge(alpha=1 / strength).fit(features, (targets - mean) / deviation)

    def predict(new: Any) -> Array:
        numbers: Array = np.asarray(model.predict(new), np.float64) * deviation + mean
        return numbers

    return predict


def _fit_classes(features: Any, targets: Array, outputs: int, strength: float) -> Predict:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    present = np.unique(targets)
    model: Any = None
    if len(present) > 1:
        with warnings.catch_warnings():
            # Where it is not at its end after so many iterations, it is near it; what it is worth is measured.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=strength, tol=_TOLERANCE, max_iter=_ITERATIONS).fit(features, targets)

    def predict(new: Any) -> Array:
        found = np.zeros((new.shape[0], outputs), np.float32)
        found[:, present] = model.predict_proba(new) if model is not None else 1.0
        return found

    return predict


def _loss(form: Form, outputs: Array, targets: Array) -> float:
    """Return the mean squared error of numbers, or the mean nats of classes or of decisions."""
    if form == "number":
        return float(np.mean((outputs - targets) ** 2))
    one = form == "label"
    likelihood = outputs[np.arange(len(targets)), targets] if one else np.where(targets == 1, outputs, 1 - outputs)
    return float(-np.log(np.clip(likelihood, _LEAST, 1)).mean())
