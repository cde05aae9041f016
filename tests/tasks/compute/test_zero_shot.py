"""Tests of the command `zero_shot`: how likely class names are, against transformers alone."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tasks.compute.channel import Channel
from tasks.compute.zero_shot import TEMPLATE, zero_shot
from tasks.errors import ModelError
from tests.tasks.kinds.language_models import save_rows

LABELS = ["goal", "bank_profit", "the rocket crew"]
TEXTS = ["match team", "shares of the bank", "a rocket in orbit with crew and a comet", "coach " * 40]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory, decoder: Path) -> Path:
    """Return the folder of a tiny causal language model whose predictions differ."""
    folder = tmp_path_factory.mktemp("models") / "writer"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(decoder))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(decoder).save_pretrained(folder)
    return folder


def asked(model: Path, folder: Path, **more: list[str]) -> tuple[dict[str, Any], pd.DataFrame]:
    rows = [{"text": text, "label": number % 3} for number, text in enumerate(TEXTS)]
    rows = [{**row, **{name: values[number] for name, values in more.items()}} for number, row in enumerate(rows)]
    (folder / "output").mkdir(parents=True)
    answer = zero_shot(
        Channel(io.StringIO()),
        **{"kind_name": "text-classification", "settings": {"training": {"max_length": 20}}, "labels": LABELS},
        **{"dataset": str(save_rows(folder / "rows", test=rows)), "model": str(model), "output": str(folder / "output")},
        **{"seed": 1, "device": "cpu", "precision": "fp32", "allow_pickle": False, "remote_code": False},
    )
    return answer, pd.read_parquet(folder / "output" / "predictions.parquet")


def by_hand(model: Path, text: str) -> list[float]:
    """Return the mean log likelihood of each name's tokens after the text, one name at a time."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    means = []
    for name in ("goal", "bank profit", "the rocket crew"):
        prompt, ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (f"{text}\nCategory:", name))
        with torch.inference_mode():
            chances = network(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
        means.append(float(np.mean([chances[len(prompt) - 1 + place, token] for place, token in enumerate(ids)])))
    return means


def test_a_class_is_as_likely_as_its_names_tokens_after_the_text(writer: Path, tmp_path: Path) -> None:
    assert TEMPLATE == "{document}\nCategory:"
    answer, frame = asked(writer, tmp_path)
    # The template takes two tokens, `Category` and `:`, of twenty: eighteen are left of the longest text.
    means = np.array([by_hand(writer, " ".join(text.split()[:18])) for text in TEXTS])
    expected = np.exp(means) / np.exp(means).sum(1, keepdims=True)
    np.testing.assert_allclose(np.stack(frame["probabilities"].to_list()), expected, rtol=1e-4)
    assert np.ptp(expected, axis=0).max() > 0.05
    right = expected.argmax(1) == [0, 1, 2, 0]
    assert answer["metrics"]["accuracy"] == right.mean()
    assert (answer["rows"], answer["head"], answer["device"]) == (4, "none", "cpu, fp32")
    assert json.loads((tmp_path / "output" / "metrics.json").read_text(encoding="utf-8")) == answer["metrics"]


def test_both_texts_of_a_pair_are_read(writer: Path, tmp_path: Path) -> None:
    _, frame = asked(writer, tmp_path, pair=["goal", "bank", "next", "day"])
    means = np.array([by_hand(writer, f"{TEXTS[0]}\ngoal")])
    expected = np.exp(means) / np.exp(means).sum(1, keepdims=True)
    np.testing.assert_allclose(frame["probabilities"][0], expected[0], rtol=1e-4)


def test_a_model_without_a_head_for_words_is_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights to predict the next token"):
        asked(encoder, tmp_path)
