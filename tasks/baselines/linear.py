"""The step `baseline-linear`: a linear model on the words and pairs of words of a text, which needs no pretrained model.

Source: Wang and Manning 2012, Baselines and Bigrams (aclanthology.org/P12-2018); Salton and Buckley 1988 for the weights, TF-IDF.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.baselines.fitting import fit_best
from tasks.baselines.plan import draw, label_form, most_rows
from tasks.baselines.scores import score
from tasks.compute.client import ComputeProcess
from tasks.kinds.kind import Rows
from tasks.records import DatasetRef, Scores
from tasks.steps import Run, read_json, step
from tasks.text import WORD

if TYPE_CHECKING:
    import datasets

_MOST_CHARACTERS = 4_000
_HASHED = 2**20
_MOST_FEATURES = 50_000
_MOST_COEFFICIENTS = 4_000_000
_STRENGTHS = (1.0, 10.0, 100.0)
_BATCH_ROWS = 2_000


@step("baseline-linear", reads=("kind", "seed"))
def baseline_linear(run: Run, folder: Path, *, dataset: DatasetRef, compute: ComputeProcess) -> Scores:
    """Score a linear model on words and pairs of words (TF-IDF), on the same rows."""
    import datasets

    started, source = time.monotonic(), run.store.fetch(dataset.key)
    labels = read_json(source / "info.json")["labels"]
    kind, outputs, seed = baseline_linear.kind(run, labels), max(1, len(labels)), run.config.seed
    form = label_form(kind)
    assert form is not None, "it is planned for rows with labels alone"
    train, test = (datasets.Dataset.load_from_disk(str(source / split)) for split in ("train", "test"))
    train = train.select(draw(len(train), most_rows(dataset, outputs), seed))
    words = Words(train, features=min(_MOST_FEATURES, _MOST_COEFFICIENTS // outputs))
    predict = fit_best(form, words(train), train["label"][:], outputs, _STRENGTHS, seed)
    predicted = np.concatenate([predict(words.of(batch)) for batch in test.iter(_BATCH_ROWS)])
    return score(folder, kind, kind.gather(predicted, test, test), test, device="cpu", started=started)


class Words:
    """Turns rows into weights (TF-IDF) of the words and pairs of words that are in most rows of train.

    They are known by hashes: a vocabulary of all pairs would take more memory than all else.
    """

    def __init__(self, train: "datasets.Dataset", features: int) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        self._hash = HashingVectorizer(
            token_pattern=WORD, ngram_range=(1, 2), n_features=_HASHED, alternate_sign=False, norm=None, dtype=np.float32
        )
        self._columns = np.arange(_HASHED)
        counts = self._counts(train)
        rows = np.bincount(counts.indices, minlength=_HASHED)
        # The order of equal ones is that of their hashes, whatever the machine.
        chosen = np.argsort(-rows, kind="stable")[:features]
        self._columns = np.sort(chosen[rows[chosen] > 0])
        self._weigh = TfidfTransformer(sublinear_tf=True).fit(counts[:, self._columns])

    def __call__(self, rows: "datasets.Dataset") -> Any:
        """Return the weights, a sparse array of shape (rows, features) in float32."""
        return self._weigh.transform(self._counts(rows))

    def of(self, batch: Rows) -> Any:
        """Return the weights of a batch of rows."""
        return self._weigh.transform(self._hash.transform(_texts(batch))[:, self._columns])

    def _counts(self, rows: "datasets.Dataset") -> Any:
        from scipy import sparse

        parts = [self._hash.transform(_texts(batch))[:, self._columns] for batch in rows.iter(_BATCH_ROWS)]
        return sparse.vstack(parts, format="csr")


def _texts(batch: Rows) -> Sequence[str]:
    """Return rows' texts, of a pair both, each cut where it is longer than a model would read."""
    parts = [batch[name] for name in ("text", "pair") if name in batch]
    return [" ".join(text[:_MOST_CHARACTERS] for text in texts) for texts in zip(*parts, strict=True)]
