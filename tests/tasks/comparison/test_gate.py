"""Tests of the gate: what passes, what is held, and that the reasons say why."""

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from tasks.comparison.gate import check_metrics, check_names, comparisons, decide, measure, split_name
from tasks.comparison.slices import Slice
from tasks.config import GateSettings
from tasks.errors import ConfigError
from tasks.kinds.text_classification import TextClassification, TextClassificationConfig
from tasks.scoring.classes import class_statistics
from tasks.significance import rows_needed

KIND = TextClassification(TextClassificationConfig(), ("a", "b"))


def analysis(word: str = "no evidence", *, gate: dict[str, Any] | None = None, slices: list[Any] | None = None) -> dict[str, Any]:
    return {
        "verdict": {"word": word},
        "metrics": [{"name": "accuracy", "difference": 0.004, "low": -0.01, "high": 0.018}],
        "gate": gate or {},
        "slices": slices or [],
    }


def measured(low: float, high: float, rows: int = 1000) -> dict[str, Any]:
    return {"rows": rows, "difference": (low + high) / 2, "low": low, "high": high, "detectable": 0.7 * (high - low)}


@pytest.mark.parametrize(
    ("untouched", "champion", "passes"),
    [
        ("improved", None, True),
        ("no evidence", None, True),
        ("regressed", None, False),
        ("improved", "improved", True),
        ("improved", "no evidence", True),
        ("improved", "regressed", False),
        ("regressed", "improved", False),
    ],
)
def test_a_model_that_is_worse_by_the_primary_metric_is_held(untouched: str, champion: str | None, passes: bool) -> None:
    against = analysis(champion) if champion else None
    found = decide(KIND, GateSettings(), analysis(untouched), against)
    assert found.passes is passes
    assert len(found.reasons) == (2 if champion else 1)
    assert any("is worse than" in reason for reason in found.reasons) is not passes
    assert found.reasons[0].startswith("accuracy: ")
    assert "(+0.4 points, interval -1.0 to +1.8 points)" in found.reasons[0]


@pytest.mark.parametrize(
    ("ends", "passes", "told"),
    [
        ((-0.009, 0.02), True, "no worse than the champion by more than its margin"),
        ((-0.03, -0.011), False, "worse than the champion by more than its margin"),
        ((-0.02, 0.03), False, "not shown to be no worse"),
    ],
)
def test_a_margin_wants_to_be_shown(ends: tuple[float, float], passes: bool, told: str) -> None:
    champion = analysis(gate={"accuracy": measured(*ends)})
    found = decide(KIND, GateSettings(margins={"accuracy": 0.01}), analysis("improved"), champion)
    assert found.passes is passes
    assert told in found.reasons[-1]


def test_a_test_set_too_small_for_the_margin_is_said_to_be_so_with_the_rows_it_takes() -> None:
    entry = measured(-0.02, 0.03)
    found = decide(KIND, GateSettings(margins={"accuracy": 0.01}), analysis(), analysis(gate={"accuracy": entry}))
    needed = rows_needed(1000, entry["detectable"], 0.01)
    assert f"1,000 test rows are too few for that margin, about {needed:,} would be needed." in found.reasons[-1]


def test_of_a_metric_of_which_less_is_better_the_upper_end_is_the_worse_one() -> None:
    gate = GateSettings(margins={"log_loss": 0.1})
    assert decide(KIND, gate, analysis(gate={"log_loss": measured(-0.5, 0.05)}), None).passes
    assert not decide(KIND, gate, analysis(gate={"log_loss": measured(-0.05, 0.5)}), None).passes
    better = GateSettings(must_improve=["log_loss"])
    assert decide(KIND, better, analysis(gate={"log_loss": measured(-0.5, -0.05)}), None).passes
    assert not decide(KIND, better, analysis(gate={"log_loss": measured(0.05, 0.5)}), None).passes


def test_what_must_improve_has_to_do_so_significantly() -> None:
    gate = GateSettings(must_improve=["f1_macro"])
    assert decide(KIND, gate, analysis(gate={"f1_macro": measured(0.001, 0.02)}), None).passes
    held = decide(KIND, gate, analysis(gate={"f1_macro": measured(-0.001, 0.02)}), None)
    assert not held.passes
    assert held.reasons[-1].startswith("f1_macro: not significantly better than the untouched model")


def test_a_slice_that_is_worse_beyond_the_margin_is_named() -> None:
    slices = [
        {"by": "class", "value": "sport", **measured(-0.3, -0.1)},
        {"by": "source", "value": "web", **measured(-0.09, -0.01)},
    ]
    found = decide(KIND, GateSettings(slice_margin=0.05), analysis(), analysis(slices=slices))
    assert not found.passes
    assert found.reasons[-1].startswith("accuracy@class=sport: worse than the champion by more than the margin of slices")
    assert not any("web" in reason for reason in found.reasons)
    assert decide(KIND, GateSettings(slice_margin=0.2), analysis(), analysis(slices=slices)).passes


def test_a_slice_without_rows_is_a_reason_to_hold() -> None:
    gate = GateSettings(margins={"accuracy@class=gone": 0.1})
    found = decide(KIND, gate, analysis(gate={"accuracy@class=gone": {"rows": 0}}), None)
    assert not found.passes
    assert found.reasons[-1] == "accuracy@class=gone: 0 test rows, and it takes 10 to say anything."


def test_metrics_are_measured_on_all_rows_and_on_slices_and_corrected_for_their_number() -> None:
    rng = np.random.default_rng(0)
    references = rng.integers(0, 2, 500)
    pair = []
    for accuracy in (0.7, 0.8):
        right = rng.random(500) < accuracy
        scores = np.full((500, 2), 0.2, np.float32)
        scores[np.arange(500), np.where(right, references, 1 - references)] = 0.8
        pair.append(sparse.csr_array(class_statistics(scores, references)))
    first = Slice("class", "a", "", np.flatnonzero(references == 0))
    gate = GateSettings(margins={"accuracy": 0.1, "recall/a": 0.1}, must_improve=["accuracy@class=a"])
    found = measure(KIND, gate, [first], *pair)
    assert comparisons(KIND, gate) == 3
    assert list(found) == ["accuracy", "recall/a", "accuracy@class=a"]
    assert (found["accuracy"]["rows"], found["accuracy@class=a"]["rows"]) == (500, len(first.rows))
    # Within a class, accuracy is recall.
    assert found["accuracy@class=a"]["difference"] == pytest.approx(found["recall/a"]["difference"])
    alone = measure(KIND, GateSettings(margins={"accuracy": 0.1}), [], *pair)
    assert comparisons(KIND, GateSettings(margins={"accuracy": 0.1})) == 1
    assert found["accuracy"]["low"] < alone["accuracy"]["low"] < alone["accuracy"]["high"] < found["accuracy"]["high"]
    assert measure(KIND, GateSettings(margins={"accuracy@class=b": 0.1}), [first], *pair) == {"accuracy@class=b": {"rows": 0}}


@pytest.mark.parametrize("name", ["accuracy@", "accuracy@class", "accuracy@class=", "@class=a", "accuracy@sorce=web"])
def test_a_slice_that_is_named_wrongly_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"write METRIC@COLUMN=VALUE with a column of data.slice_columns: 'class', 'length', 'source'"
    ):
        check_names(KIND, GateSettings(must_improve=[name]), ["source"])
    check_names(
        KIND, GateSettings(must_improve=["accuracy", "accuracy@source=a=b", "f1_macro@length=longest quarter"]), ["source"]
    )


@pytest.mark.parametrize(
    ("name", "told"), [("acuracy", "did you mean 'accuracy'"), ("recal/a", "did you mean 'recall'"), ("r2@class=a", "'r2'")]
)
def test_a_metric_that_no_data_could_have_is_refused_at_once(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_names(KIND, GateSettings(must_improve=[name]), [])
    check_names(KIND, GateSettings(must_improve=["recall/any class"]), [])


def test_classes_and_columns_may_hold_the_signs_of_a_slices_name() -> None:
    assert split_name("recall/a@b=c", ["site"]) == ("recall/a@b=c", "")
    assert split_name("recall/a@b@site=x=y@z", ["site"]) == ("recall/a@b", "site=x=y@z")
    assert split_name("accuracy@a=b=c", ["a=b"]) == ("accuracy", "a=b=c")
    check_names(KIND, GateSettings(must_improve=["recall/a@b=c", "accuracy@a=b=c"]), ["a=b"])


def test_a_metric_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"metric 'f1_makro'; did you mean 'f1_macro'\? Known: 'accuracy', 'f1_macro'"):
        check_metrics(GateSettings(margins={"f1_makro@class=a": 0.1}), ["accuracy", "f1_macro"], [])
    check_metrics(GateSettings(margins={"f1_macro@class=a": 0.1}), ["accuracy", "f1_macro"], [])
