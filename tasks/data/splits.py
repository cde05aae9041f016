"""Which row goes into which split, and what is worth knowing of the data: pure functions over `Arrays`."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.data.rows import Arrays
from tasks.errors import DataError
from tasks.records import SPLITS, Split

Rows = np.ndarray[Any, np.dtype[np.int64]]
BUCKETS = 10_000
_SALT = b"finetune-flows split 1\0"
_SHARE = 1_000  # buckets of a split that is cut from train: a tenth
_BUCKETS_OF: dict[Split, range] = {"test": range(_SHARE), "validation": range(_SHARE, 2 * _SHARE)}
_MOST_CLASSES_LISTED = 20


@dataclass(frozen=True)
class Plan:
    """The rows of each split, as positions in the given split that they come from, and what was found on the way."""

    rows: dict[Split, tuple[Split, Rows]]
    """Split -> (given split, sorted positions in it)."""
    checks: dict[str, Any]
    """Findings for the report; JSON."""


def side(folded_hash: int) -> int:
    """Return the bucket, 0 to 9,999, of a row by the hash of its folded text: it never moves as the data grows."""
    digest = hashlib.sha256(_SALT + int(folded_hash).to_bytes(8, "big")).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def plan_splits(
    given: dict[Split, Arrays],
    names: list[str],
    *,
    duplicates: Literal["drop", "report", "refuse"] = "drop",
    max_train_rows: int | None = None,
    max_test_rows: int | None = None,
    seed: int = 0,
) -> Plan:
    """Assign every row of the given splits to train, validation, test or to none.

    Empty texts are left out everywhere. Where validation or test is not given, it is cut from train by `side`. Rows that train
    shares with validation or test after folding, and validation with test, are dropped, reported or refused. Limits
    are drawn last.

    Args:
        given: The given splits; `train` at least.
        names: Class names in the order of `labels`; empty where the kind has no classes.
        duplicates: What to do with shared rows.
        max_train_rows: Limit of train.
        max_test_rows: Limit each of validation and test.
        seed: Seed of the draw.

    Raises:
        DataError: a split is left without rows, labels do not fit, or shared rows are refused.
    """
    empty = {split: int(arrays.empty.sum()) for split, arrays in given.items()}
    rows = _cut(given)
    shared = {
        "train_test": _shared(given, rows, "train", "test"),
        "train_validation": _shared(given, rows, "train", "validation"),
        "validation_test": _shared(given, rows, "validation", "test"),
    }
    if duplicates == "refuse":
        _refuse(shared)
    if duplicates == "drop":
        rows = _drop_shared(given, rows)
    rng = np.random.default_rng(seed)
    limits: dict[Split, int | None] = {"train": max_train_rows, "validation": max_test_rows, "test": max_test_rows}
    for split, limit in limits.items():
        origin, chosen = rows[split]
        if limit is not None and limit < len(chosen):
            rows[split] = (origin, np.sort(rng.choice(chosen, limit, replace=False)))
    _check_rows(rows)
    if names:
        _check_classes(given, rows, names)
    _check_targets(given, rows)
    checks = {
        "rows_given": {split: len(arrays.empty) for split, arrays in given.items()},
        "rows": {split: len(rows[split][1]) for split in SPLITS},
        "cut_from_train": [split for split in ("validation", "test") if split not in given],
        "empty": empty,
        "duplicates": duplicates,
        "shared": shared,
        "repeated": {split: _repeated(given[rows[split][0]].folded[rows[split][1]]) for split in SPLITS},
        "contradictory": _contradictory(given),
        "words": {split: _quantiles(given[rows[split][0]].words[rows[split][1]]) for split in SPLITS},
        "classes": {
            split: np.bincount(_labels(given, rows, split), minlength=len(names)).tolist() if names else [] for split in SPLITS
        },
    }
    return Plan(rows, checks)


def _cut(given: dict[Split, Arrays]) -> dict[Split, tuple[Split, Rows]]:
    rows: dict[Split, tuple[Split, Rows]] = {split: (split, np.flatnonzero(~arrays.empty)) for split, arrays in given.items()}
    missing = [split for split in SPLITS if split not in given]
    if missing:
        train = rows["train"][1]
        buckets = np.fromiter((side(value) for value in given["train"].groups[train]), np.int64, len(train))
        taken = np.zeros(len(train), bool)
        for split in missing:
            inside = (buckets >= _BUCKETS_OF[split].start) & (buckets < _BUCKETS_OF[split].stop)
            rows[split] = ("train", train[inside])
            taken |= inside
        rows["train"] = ("train", train[~taken])
    return rows


def _values(given: dict[Split, Arrays], rows: dict[Split, tuple[Split, Rows]], split: Split, field: str) -> np.ndarray[Any, Any]:
    origin, chosen = rows[split]
    values: np.ndarray[Any, Any] = getattr(given[origin], field)[chosen]
    return values


def _labels(given: dict[Split, Arrays], rows: dict[Split, tuple[Split, Rows]], split: Split) -> np.ndarray[Any, Any]:
    """Return all labels of a split's rows; a row may have several, or none."""
    origin, chosen = rows[split]
    wanted = np.zeros(len(given[origin].label_counts), bool)
    wanted[chosen] = True
    labels: np.ndarray[Any, Any] = given[origin].labels[np.repeat(wanted, given[origin].label_counts)]
    return labels


def _is_in(values: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return of each value whether it is among the others; NumPy's own takes several times the memory of both."""
    if not len(others):
        return np.zeros(len(values), bool)
    others = np.sort(others)
    places = np.searchsorted(others, values)
    np.minimum(places, len(others) - 1, out=places)
    found: np.ndarray[Any, np.dtype[np.bool_]] = others[places] == values
    return found


def _shared(given: dict[Split, Arrays], rows: dict[Split, tuple[Split, Rows]], left: Split, right: Split) -> dict[str, int]:
    """Count the rows of `left` that are in `right` too: exactly, and after folding."""
    return {
        how: int(_is_in(_values(given, rows, left, how), _values(given, rows, right, how)).sum()) for how in ("exact", "folded")
    }


def _refuse(shared: dict[str, dict[str, int]]) -> None:
    for pair, counts in shared.items():
        if counts["folded"]:
            left, right = pair.split("_")
            raise DataError(
                f"{counts['folded']} rows of {left} are in {right} too ({counts['exact']} exactly); "
                "remove them or set data.duplicates to 'drop'."
            )


def _drop_shared(given: dict[Split, Arrays], rows: dict[Split, tuple[Split, Rows]]) -> dict[Split, tuple[Split, Rows]]:
    """Drop from validation what is in test, and from train what is in either: test rows are never touched."""
    test = _values(given, rows, "test", "folded")
    kept = dict(rows)
    origin, validation = rows["validation"]
    kept["validation"] = (origin, validation[~_is_in(_values(given, rows, "validation", "folded"), test)])
    held_out = np.concatenate([test, _values(given, rows, "validation", "folded")])
    origin, train = rows["train"]
    kept["train"] = (origin, train[~_is_in(_values(given, rows, "train", "folded"), held_out)])
    return kept


def _check_rows(rows: dict[Split, tuple[Split, Rows]]) -> None:
    for split in SPLITS:
        if len(rows[split][1]) == 0:
            others = ", ".join(f"{name} {len(rows[name][1])}" for name in SPLITS if name != split)
            raise DataError(f"Split {split!r} is left without rows ({others}); give more rows, or name it in data.{split}.")


def _check_classes(given: dict[Split, Arrays], rows: dict[Split, tuple[Split, Rows]], names: list[str]) -> None:
    seen, count = np.unique(_labels(given, rows, "train")), len(rows["train"][1])
    if len(seen) == 1:
        raise DataError(f"Split 'train' has the one class {names[seen[0]]!r}; a classifier needs two or more.")
    if count < len(names):
        raise DataError(f"Split 'train' has {count} rows but {len(names)} classes; give it more rows, or set data.label_column.")
    for split in ("test", "validation"):
        labels = _labels(given, rows, split)
        if len(unseen := np.setdiff1d(labels, seen)):
            shown = ", ".join(repr(names[label]) for label in unseen[:_MOST_CLASSES_LISTED])
            count = int(np.isin(labels, unseen).sum())
            raise DataError(
                f"Label {shown} of split {split!r} ({count} rows) is not in split 'train'; "
                f"add such rows to train or remove them from {split}."
            )


def _check_targets(given: dict[Split, Arrays], rows: dict[Split, tuple[Split, Rows]]) -> None:
    targets = _values(given, rows, "train", "targets")
    if len(targets) > 1 and targets[0] and (targets == targets[0]).all():
        raise DataError(
            f"All {len(targets)} rows of split 'train' have the same target, or all have none: there is nothing to learn; "
            "check the settings of the data's columns."
        )


def _repeated(folded: np.ndarray[Any, Any]) -> int:
    """Count the rows whose folded text came before in the same split; the array is sorted."""
    folded.sort()
    return int((folded[1:] == folded[:-1]).sum())


def _contradictory(given: dict[Split, Arrays]) -> int:
    """Count the folded inputs, over all given rows, for which different things are to be learnt."""
    found = 0
    for first_bits in range(16):  # a sixteenth of the hashes at a time, for less memory
        chosen = [~arrays.empty & (arrays.folded >> np.uint64(60) == first_bits) for arrays in given.values()]
        folded, targets = (
            np.concatenate([getattr(arrays, name)[mask] for arrays, mask in zip(given.values(), chosen, strict=True)])
            for name in ("folded", "targets")
        )
        order = np.argsort(folded)
        folded, targets = folded[order], targets[order]
        # Where different things are to be learnt, two that stand beside each other differ.
        differ = (folded[1:] == folded[:-1]) & (targets[1:] != targets[:-1])
        found += len(np.unique(folded[1:][differ]))
    return found


def _quantiles(words: np.ndarray[Any, Any]) -> list[float]:
    """Return minimum, quartiles and maximum."""
    return [float(value) for value in np.quantile(words, [0, 0.25, 0.5, 0.75, 1])]
