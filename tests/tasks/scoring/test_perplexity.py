"""How surprised a language model is, against hand-worked cases and definitions."""

import math

import numpy as np
import pytest
import torch

from tasks.scoring.perplexity import _LOGITS_AT_ONCE, causal_metrics, known_ratio, masked_metrics, perplexity, surprise


def test_metrics_of_a_worked_case() -> None:
    # Three tokens with the probabilities 1/2, 1/4 and 1/8 cost 1 + 2 + 3 bits; their text has 4 bytes.
    nats = 6 * math.log(2)
    assert causal_metrics(nats, 3, 4) == pytest.approx({"bits_per_byte": 1.5, "perplexity": 4.0, "loss": 2 * math.log(2)})
    assert masked_metrics(nats, 3, 1) == pytest.approx({"loss": 2 * math.log(2), "pseudo_perplexity": 4.0, "accuracy": 1 / 3})


def test_perplexity_is_weighted_by_tokens() -> None:
    # Of the documents' own perplexities, 2 and 8, neither the mean (5) nor the geometric mean (4) is right: 30 tokens to 10.
    nats = 30 * math.log(2) + 10 * math.log(8)
    assert causal_metrics(nats, 40, 100)["perplexity"] == pytest.approx(2**1.5)


def test_nothing_to_predict_costs_nothing() -> None:
    assert causal_metrics(0.0, 0, 0) == {"bits_per_byte": 0.0, "perplexity": 1.0, "loss": 0.0}
    assert masked_metrics(0.0, 0, 0) == {"loss": 0.0, "pseudo_perplexity": 1.0, "accuracy": 0.0}
    assert math.isfinite(perplexity(1e6))


def test_a_row_without_anything_to_predict_has_no_ratio() -> None:
    assert known_ratio(np.array([3.0, 0.0, 0.0]), np.array([2, 0, 4])).to_pylist() == [1.5, None, 0.0]


@pytest.mark.parametrize("at_once", [2, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_surprise_is_the_negative_log_probability(dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_LOGITS_AT_ONCE, "cpu", 11 * at_once)
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (5, 11))).to(dtype)
    labels = rng.integers(0, 11, 5)
    found = surprise(logits, torch.from_numpy(labels))
    assert found.dtype == np.float64
    given = logits.double().numpy()
    probabilities = np.exp(given) / np.exp(given).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, -np.log(probabilities[np.arange(5), labels]), rtol=1e-5)


def test_no_labels_cost_nothing() -> None:
    assert surprise(torch.zeros(0, 11), torch.zeros(0, dtype=torch.long)).shape == (0,)
