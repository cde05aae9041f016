"""Time of 10,000 resamples of both models' rows: `python tests/benchmarks/intervals.py [ROWS …]`, by default 10,000 and 100,000.

Beside it, SciPy's paired bootstrap of one mean over the same rows, with a tenth of the resamples; its time is given for as many.
"""

import sys
import time
from typing import Any

import numpy as np
import scipy.stats
from scipy import sparse

from tasks.scoring.classes import class_metrics, class_statistics
from tasks.scoring.rouge import rouge_metrics
from tasks.significance import RESAMPLES, paired_intervals

CLASSES = 8
_PEER_RESAMPLES = RESAMPLES // 10


def seconds(function: Any, *arguments: Any, **settings: Any) -> float:
    """Return the time that a call takes."""
    started = time.perf_counter()
    function(*arguments, **settings)
    return time.perf_counter() - started


def classified(rng: np.random.Generator, references: np.ndarray) -> Any:
    """Return the statistics of a classifier that is right on most rows."""
    logits = rng.normal(size=(len(references), CLASSES))
    logits[np.arange(len(references)), references] += 2
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return sparse.csr_array(class_statistics(scores.astype(np.float32), references))


def main() -> None:
    """Measure and print a line for each sort of statistics."""
    labels = [str(number) for number in range(CLASSES)]
    for rows in [int(word) for word in sys.argv[1:]] or [10_000, 100_000]:
        rng = np.random.default_rng(0)
        references = rng.integers(0, CLASSES, rows)
        before, after = (classified(rng, references) for _ in range(2))
        counts = [part @ sparse.diags_array((np.arange(before.shape[1]) < 3 * CLASSES).astype(float)) for part in (before, after)]
        texts = [sparse.csr_array(np.append(rng.random((rows, 16)), np.ones((rows, 1)), 1)) for _ in range(2)]
        means = [part[:, [0]].toarray().ravel() for part in texts]
        peer = seconds(
            scipy.stats.bootstrap,
            means,
            lambda old, new, axis: new.mean(axis) - old.mean(axis),
            paired=True,
            n_resamples=_PEER_RESAMPLES,
            batch=max(1, 4_000_000 // rows),
        ) * (RESAMPLES / _PEER_RESAMPLES)
        for name, metrics, pair in (
            ("classes, counts alone", lambda sums: class_metrics(sums, labels), counts),
            ("classes, all metrics", lambda sums: class_metrics(sums, labels), (before, after)),
            ("ROUGE, 17 sums a row", rouge_metrics, texts),
        ):
            found = seconds(paired_intervals, metrics, *pair)
            sys.stdout.write(
                f"{rows:>9,} rows  {name:<22}  {found:6.2f} s  {found / peer:5.2f} of scipy.stats.bootstrap's time\n"
            )


if __name__ == "__main__":
    main()
