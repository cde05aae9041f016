"""A number per row: metrics and their sources, as functions of sums of numbers, predictions, their squares and products.

Spearman's rank correlation is not among them: ranks depend on all other rows, so it is no function of sums over rows. Compute it
from `predictions_before.parquet` and `predictions_after.parquet`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.kinds.kind import Array, Metrics
from tasks.scoring.ratios import ratio

if TYPE_CHECKING:
    import pandas as pd

# A spread of less than a millionth of the values' size counts as none: a difference of sums in float64 knows it no better.
_LEAST_VARIANCE = 1e-12
_QUARTERS = 4


def regression_statistics(predictions: Array, references: Array) -> Array:
    """Return a row's part of the sums that all metrics are functions of.

    Args:
        predictions: shape (rows,).
        references: shape (rows,).

    Returns:
        Array: shape (rows, 8): 1, y, p, y², p², y * p, |p - y|, (p - y)².
    """
    y, p = references.astype(np.float64), predictions.astype(np.float64)
    error = p - y
    return np.stack([np.ones(len(y)), y, p, y * y, p * p, y * p, np.abs(error), error * error], axis=1)


def regression_metrics(sums: Array) -> Metrics:
    """Return mean squared error, its root, mean absolute error, R² and Pearson's correlation.

    Where all references are equal, R² is 1 for predictions without error, else 0, as scikit-learn has it; where all references or
    all predictions are equal, Pearson's correlation is 0.

    Args:
        sums: Column sums of `regression_statistics`, shape (…, 8).
    """
    rows, y, p, yy, pp, yp, absolute, squared = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    spread_y, spread_p = _spread(rows, y, yy), _spread(rows, p, pp)
    together = yp - y * p / rows
    return {
        "r2": np.where(spread_y > 0, 1.0 - ratio(squared, spread_y), squared == 0)[()],
        "pearson": np.clip(ratio(together, spread_y**0.5 * spread_p**0.5), -1.0, 1.0),
        "mae": absolute / rows,
        "rmse": (squared / rows) ** 0.5,
        "mse": squared / rows,
    }


def _spread(rows: Array, total: Array, squares: Array) -> Array:
    """Return the sum of squared differences from the mean, 0 where it cannot be told from rounding."""
    found = squares - total * total / rows
    return np.where(found > _LEAST_VARIANCE * squares, found, 0.0)


def regression_analysis(before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
    """Return where a difference comes from: the mean absolute error by quarters of the rows, the lowest numbers first.

    Args:
        before: Columns `label` and `prediction`, numbers.
        after: The same rows of another model.
    """
    label = before["label"].to_numpy()
    errors = {name: (frame["prediction"] - frame["label"]).to_numpy() for name, frame in (("before", before), ("after", after))}
    parts = [part for part in np.array_split(np.argsort(label, kind="stable"), _QUARTERS) if len(part)]
    told = "; ".join(
        f"{label[part[0]]:.4g} to {label[part[-1]]:.4g}: "
        f"{np.abs(errors['before'][part]).mean():.4g} → {np.abs(errors['after'][part]).mean():.4g}"
        for part in parts
    )
    bias = {name: error.mean() for name, error in errors.items()}
    return {
        "sources": [
            f"Mean absolute error by quarters of the rows, from the lowest numbers to the highest: {told}.",
            f"Predictions are off by {bias['before']:+.4g} before and {bias['after']:+.4g} after in the mean.",
        ]
    }
