"""How far probabilities are to be believed: the expected calibration error and the reliability curve.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 2 (arXiv 1706.04599), with bins of equal width.
"""

from typing import Any

import numpy as np

from tasks.kinds.kind import Array

BINS = 15


def calibration_statistics(confidence: Array, right: Array) -> Array:
    """Return what rows or decisions add to the calibration error: per bin of confidence, 1 if right less the confidence.

    Args:
        confidence: Probability of what was said, shape (…,).
        right: Whether it is so, shape (…,).

    Returns:
        Array: shape (…, BINS); 0 but for the bin of the confidence.
    """
    found = np.zeros((*confidence.shape, BINS))
    np.put_along_axis(found, _bins(confidence)[..., None], (right - confidence.astype(np.float64))[..., None], -1)
    return found


def calibration_error(sums: Array, decisions: Array) -> Array:
    """Return the expected calibration error, the mean distance of confidence from accuracy over bins, a fraction.

    Args:
        sums: Sums of `calibration_statistics`, shape (…, BINS).
        decisions: How many were summed, shape (…,).
    """
    error: Array = np.abs(sums).sum(-1) / decisions
    return error


def reliability(confidence: Array, right: Array) -> list[dict[str, Any]]:
    """Return the reliability curve: per bin with any, the decisions, their mean confidence and the share that is right."""
    confidence, right = confidence.ravel().astype(np.float64), right.ravel()
    bins = _bins(confidence)
    return [
        {"rows": int(inside.sum()), "confidence": float(confidence[inside].mean()), "right": float(right[inside].mean())}
        for number in range(BINS)
        if (inside := bins == number).any()
    ]


def _bins(confidence: Array) -> Array:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
