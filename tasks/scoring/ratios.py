"""What metrics of several sorts are made of."""

from collections.abc import Sequence

import numpy as np

from tasks.kinds.kind import Array, Metrics


def per_label(labels: Sequence[str], **scores: Array) -> Metrics:
    """Return scores of shape (…, labels) as metrics with names such as `f1/sport`."""
    return {
        f"{name}/{label}": value
        for name, values in scores.items()
        for label, value in zip(labels, np.moveaxis(values, -1, 0), strict=True)
    }


def ratio(numerator: Array, denominator: Array) -> Array:
    """Return the quotient of two arrays of one shape, 0 where the denominator is."""
    found: Array = np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) > 0)[()]
    return found
