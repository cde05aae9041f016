"""Tests of fitting linear models: they learn, choose their strength on rows of train, and know classes that are not there."""

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from tasks.baselines.fitting import fit_best
from tasks.data.values import Form

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(300, 4))
CLASSES = FEATURES[:, :3].argmax(1)


def labels_of(form: Form) -> tuple[list[Any], int]:
    if form == "label":
        return CLASSES.tolist(), 3
    if form == "labels":
        return [np.flatnonzero(row > 0).tolist() for row in FEATURES[:, :3]], 3
    return (1000 + 50 * FEATURES[:, 0] - 20 * FEATURES[:, 1]).tolist(), 1


@pytest.mark.parametrize("kept", [np.asarray, sparse.csr_array])
def test_each_form_is_learnt(kept: Any) -> None:
    for form in ("label", "labels", "number"):
        labels, outputs = labels_of(form)
        found = fit_best(form, kept(FEATURES[:200]), labels[:200], outputs, (0.1, 10.0), 0)(kept(FEATURES[200:]))
        if form == "label":
            assert (found.argmax(1) == CLASSES[200:]).mean() > 0.9
            np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
        elif form == "labels":
            assert ((found >= 0.5) == (FEATURES[200:, :3] > 0)).mean() > 0.9
        else:
            np.testing.assert_allclose(found, labels[200:], rtol=0.01)


def test_the_strength_is_the_one_that_held_out_rows_prefer() -> None:
    noise = RNG.normal(size=(60, 200))
    labels = RNG.integers(0, 2, 60).tolist()
    # There is nothing to learn: the weakest of the models says about the shares, a strong one says what it remembers.
    found = fit_best("label", noise, labels, 2, (1000.0, 1e-6), 0)(noise)
    assert np.ptp(found[:, 0]) < 0.05
    strong = fit_best("label", noise, labels, 2, (1000.0,), 0)(noise)
    assert np.ptp(strong[:, 0]) > 0.9


def test_the_chosen_model_learns_from_all_rows_also_those_held_out() -> None:
    # Each class is once there: a model of some of them could not name the others.
    found = fit_best("label", np.eye(10), list(range(10)), 10, (100.0,), 0)(np.eye(10))
    assert found.argmax(1).tolist() == list(range(10))


@pytest.mark.parametrize(("form", "labels"), [("label", [1] * 9), ("labels", [[1]] * 9), ("number", [3.0] * 9)])
def test_what_is_always_so_is_predicted_and_other_classes_have_no_probability(form: Form, labels: list[Any]) -> None:
    found = fit_best(form, FEATURES[:9], labels, 1 if form == "number" else 3, (1.0,), 0)(FEATURES[9:12])
    np.testing.assert_allclose(found, [3.0] * 3 if form == "number" else [[0, 1, 0]] * 3)


def test_the_seed_decides_what_is_held_out() -> None:
    labels = (FEATURES[:, 0] + RNG.normal(size=300) > 0).astype(int).tolist()
    first, again = (fit_best("label", FEATURES, labels, 2, (0.01, 0.1, 1.0), 3)(FEATURES) for _ in range(2))
    assert first.tolist() == again.tolist()
