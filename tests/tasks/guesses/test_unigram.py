"""Tests of what tokens cost by how frequent they are: the kinds' guesses, against counts by hand."""

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from tasks.compute.channel import Channel
from tasks.compute.guess import guess
from tasks.encoding.padding import IGNORED
from tasks.guesses.unigram import Unigram
from tests.tasks.kinds.language_models import Lab, make_masked, texts


class Three:
    """A tokenizer of three tokens, numbered with a gap."""

    def __len__(self) -> int:
        return 3

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "b": 1, "c": 5}


def test_a_worked_case() -> None:
    costs = Unigram(Three())  # type: ignore[arg-type]
    costs.count([0, 0, IGNORED])
    costs.count([5])
    # Three tokens were counted, and one of each of three is added.
    nats, tokens, right = costs.of([0, IGNORED, 1, 5])
    assert nats == pytest.approx(-np.log(3 / 6) - np.log(1 / 6) - np.log(2 / 6))
    assert (tokens, right) == (3, 1)
    assert costs.of([IGNORED]) == (0, 0, 0)


def guessed(lab: Lab, output: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    output.mkdir()
    arguments = {"dataset": str(lab.rows), "tokens": str(lab.tokens), "model": str(lab.model), "output": str(output)}
    answer = guess(Channel.__new__(Channel), kind_name=lab.kind, settings=lab.settings, labels=[], remote_code=False, **arguments)
    return answer, pd.read_parquet(output / "predictions.parquet")


@pytest.mark.parametrize("length", [8, 32])
def test_of_a_decoder_every_token_but_the_end_is_counted_once_in_train_and_test(
    decoder: Path, tmp_path: Path, length: int
) -> None:
    train, test = texts(40, 1), texts(9, 3)
    # However long the windows are, and though they repeat what comes before.
    lab = Lab(
        tmp_path, "causal-lm", decoder, {"training": {"max_length": length}}, train=train, validation=texts(5, 2), test=test
    )
    lab.tokenize()
    answer, frame = guessed(lab, tmp_path / "guess")
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    counts = Counter(token for row in train for token in tokenizer(row["text"], add_special_tokens=False)["input_ids"])
    total = counts.total() + len(tokenizer)
    ids = [tokenizer(row["text"], add_special_tokens=False)["input_ids"] for row in test]
    nats = [sum(-np.log((counts[token] + 1) / total) for token in row) for row in ids]
    np.testing.assert_allclose(frame["nats"], nats)
    assert frame["tokens"].tolist() == [len(row) for row in ids]
    assert answer["metrics"]["perplexity"] == pytest.approx(np.exp(sum(nats) / sum(map(len, ids))))
    assert answer["metrics"]["bits_per_byte"] == pytest.approx(
        sum(nats) / np.log(2) / sum(len(row["text"].encode()) for row in test)
    )
    assert answer["metrics"]["perplexity"] < len(tokenizer)


def test_of_an_encoder_the_hidden_tokens_of_test_cost_by_all_tokens_of_train(tmp_path: Path) -> None:
    model = make_masked(tmp_path / "model")
    train, test = texts(40, 1), texts(9, 3)
    settings = {"seed": 5, "training": {"max_length": 16}}
    lab = Lab(tmp_path / "lab", "masked-lm", model, settings, train=train, validation=texts(5, 2), test=test)
    lab.tokenize()
    answer, frame = guessed(lab, tmp_path / "guess")
    tokenizer = AutoTokenizer.from_pretrained(model)
    counts = Counter(token for row in train for token in tokenizer(row["text"], add_special_tokens=False)["input_ids"])
    total, commonest = counts.total() + len(tokenizer), counts.most_common(1)[0][0]
    features = datasets.Dataset.load_from_disk(str(lab.tokens / "test"))
    nats, right = np.zeros(len(test)), np.zeros(len(test))
    for row, labels in zip(features["row"], features["labels"], strict=True):
        hidden = [token for token in labels if token != IGNORED]
        nats[row] += sum(-np.log((counts[token] + 1) / total) for token in hidden)
        right[row] += hidden.count(commonest)
    np.testing.assert_allclose(frame["nats"], nats)
    assert frame["right"].tolist() == right.tolist()
    assert answer["metrics"]["loss"] == pytest.approx(nats.sum() / frame["tokens"].sum())
    assert 0 < answer["metrics"]["accuracy"] < 1
