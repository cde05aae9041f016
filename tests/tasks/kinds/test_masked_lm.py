"""Masked language modelling: what is hidden and when, what is counted, and that it is learnt."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tasks.compute.loss import vocabulary_loss
from tasks.encoding.padding import IGNORED
from tasks.errors import ModelError
from tasks.kinds.masked_lm import KIND, MaskedLMConfig
from tests.tasks.kinds.language_models import Lab, logits_in_training, make_masked, texts

SETTINGS: dict[str, Any] = {
    "seed": 5,
    "training": {"epochs": 3, "learning_rate": 0.01, "batch_size": 8, "max_length": 16},
}
LOADING = {"trained": False, "allow_pickle": False, "remote_code": False}


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_masked(tmp_path_factory.mktemp("models") / "masked")


@pytest.fixture
def tokenizer(masked: Path):
    return transformers.AutoTokenizer.from_pretrained(masked)


def kind(**settings: Any) -> Any:
    return KIND(MaskedLMConfig.model_validate({**SETTINGS, **settings}))


def rows_of(*values: str) -> dict[str, list[str]]:
    return {"id": [f"row-{number}" for number in range(len(values))], "text": list(values)}


@pytest.fixture(scope="module")
def lab(masked: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    splits = {"train": texts(50, 1), "validation": texts(10, 2), "test": texts(12, 3)}
    made = Lab(tmp_path_factory.mktemp("lab"), "masked-lm", masked, SETTINGS, **splits)
    made.tokenize()
    return made


def test_a_long_text_is_cut_into_windows_and_loses_no_token(tokenizer) -> None:
    text = " ".join(["match", "goal", "team"] * 11)
    found = kind().encode(tokenizer, rows_of("orbit", text), train=True)
    assert found.rows == [0, 1, 1, 1]
    windows = found.features["input_ids"]
    assert [len(window) for window in windows] == [3, 16, 16, 7]
    inner = [token for window in windows[1:] for token in window[1:-1]]
    assert tokenizer.decode(inner) == text
    assert {(window[0], window[-1]) for window in windows} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    assert len(set(found.features["draw"])) == 4
    assert found.truncated == [False, False]


def test_what_is_scored_is_hidden_alike_whatever_stands_beside_it(tokenizer) -> None:
    text = texts(1, 7)[0]["text"]
    together = kind().encode(tokenizer, {"id": ["a", "b"], "text": ["orbit probe", text]}, train=False)
    alone = kind().encode(tokenizer, {"id": ["b"], "text": [text]}, train=False)
    for name in ("input_ids", "labels"):
        mine = [value for value, row in zip(together.features[name], together.rows, strict=True) if row == 1]
        assert mine == alone.features[name]
    twice = kind().encode(tokenizer, {"id": ["a", "b"], "text": [text, text]}, train=False).features["labels"]
    half = len(twice) // 2
    assert twice[:half] != twice[half:], "the row's id decides, not its text"
    other = kind(seed=6).encode(tokenizer, {"id": ["b"], "text": [text]}, train=False)
    assert other.features["labels"] != alone.features["labels"]


def test_training_hides_other_tokens_in_each_epoch_and_the_same_when_repeated(tokenizer) -> None:
    rows = rows_of(*(row["text"] for row in texts(8, 3)))
    features = kind().encode(tokenizer, rows, train=True).features
    items = [dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True)]
    collate = kind().collator(tokenizer, train=True)
    state = torch.get_rng_state()
    epochs = []
    for epoch in (0, 1, 0):
        collate.set_epoch(epoch)
        epochs.append(collate(items)["labels"])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(state, torch.get_rng_state())
    collate.set_epoch(1)
    width = collate(items[:1])["labels"].shape[1]
    assert torch.equal(collate(items[:1])["labels"][0], epochs[1][0][:width]), "the batch does not matter"


def test_loss_and_metrics_are_means_over_hidden_tokens(tokenizer, masked: Path) -> None:
    torch.manual_seed(0)
    model, head = kind().load_model(masked, **LOADING)
    assert head == "fresh"
    model.eval()
    encoded = kind().encode(tokenizer, rows_of(*(row["text"] for row in texts(6, 4))), train=False)
    items = [dict(zip(encoded.features, values, strict=True)) for values in zip(*encoded.features.values(), strict=True)]
    batch = kind().collator(tokenizer, train=False)(items)
    with torch.inference_mode():
        output = model(**batch)
        found = kind().predict(model, tokenizer, batch)
    hidden = batch["labels"] != IGNORED
    assert kind().loss_items(batch) == hidden.sum() == found[:, 1].sum()
    sums = found.sum(0)
    metrics = kind().metrics(sums)
    assert metrics["loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    right = (output.logits.argmax(-1) == batch["labels"])[hidden].float().mean().item()
    assert metrics["accuracy"] == pytest.approx(right)
    assert metrics["pseudo_perplexity"] == pytest.approx(np.exp(metrics["loss"]))


def test_what_is_learnt_from_is_the_models_own_loss(tokenizer, masked: Path) -> None:
    torch.manual_seed(0)
    model = kind().load_model(masked, **LOADING)[0].eval()
    features = kind().encode(tokenizer, rows_of(*(row["text"] for row in texts(6, 4))), train=True).features
    items = [dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True)]
    batch = kind().collator(tokenizer, train=True)(items)
    own, logits, labels = kind().loss(model, batch)
    assert own is None
    loss = vocabulary_loss(logits, labels, keep=True)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    output = model(**batch)
    for one, other in zip(gradients, torch.autograd.grad(output.loss, list(model.parameters()), allow_unused=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-5)
    hidden = batch["labels"] != IGNORED
    torch.testing.assert_close(logits, output.logits[hidden])
    assert torch.equal(labels, batch["labels"][hidden])


def test_training_computes_logits_of_the_hidden_tokens_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(computed == wanted for computed, wanted in logits_in_training(lab, monkeypatch))


def test_the_windows_of_a_row_are_put_together(lab: Lab) -> None:
    outputs = np.array([[1.0, 2, 1], [3.0, 4, 0], [5.0, 1, 1]])
    features = datasets.Dataset.from_dict({"row": [0, 1, 1]})
    rows = datasets.Dataset.from_dict({"id": ["a", "b", "c"]})
    found = kind().gather(outputs, features, rows)
    np.testing.assert_array_equal(kind().statistics(found, {}), [[1, 2, 1], [8, 5, 1], [0, 0, 0]])
    np.testing.assert_allclose(kind().row_scores(found, {}), [-0.5, -1.6, 0])


def test_it_learns_and_the_saved_model_is_the_one_that_was_scored(lab: Lab) -> None:
    before, _ = lab.evaluate(lab.model, trained=False)
    answer, folder = lab.train()
    after, predictions = lab.evaluate(folder, trained=True)
    assert after["metrics"]["loss"] < before["metrics"]["loss"] - 0.5
    assert after["metrics"]["accuracy"] > before["metrics"]["accuracy"]
    assert (before["head"], after["head"]) == ("fresh", "trained")
    assert answer["validation"]["loss"] == pytest.approx(
        min(entry["eval_loss"] for entry in answer["history"] if "eval_loss" in entry)
    )
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    features = datasets.Dataset.load_from_disk(str(lab.tokens / "test"))
    nats = tokens = 0.0
    with torch.inference_mode():
        for feature in features:
            labels = torch.tensor(feature["labels"])
            logits = model.eval()(input_ids=torch.tensor([feature["input_ids"]])).logits[0]
            hidden = labels != IGNORED
            nats += torch.nn.functional.cross_entropy(logits[hidden], labels[hidden], reduction="sum").item()
            tokens += int(hidden.sum())
    assert nats / tokens == pytest.approx(after["metrics"]["loss"], rel=1e-4)
    assert (predictions / "predictions.parquet").is_file()


def test_resuming_hides_what_an_undisturbed_training_hides(lab: Lab, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    _, whole = lab.train(checkpoints=checkpoints, checkpoint_every=5)
    steps = sorted(int(folder.name) for folder in checkpoints.iterdir() if folder.name.isdigit())
    # In the second epoch, so that its number matters.
    middle = next(step for step in steps if step > max(steps) / 3)
    answer, again = lab.train(resume=checkpoints / str(middle))
    assert answer["resumed_from"] == middle
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("config", "model_type"),
    [
        (transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=20), "gpt2"),
        (transformers.T5Config(d_model=8, num_layers=1, num_heads=1, d_ff=8, vocab_size=20), "t5"),
        (transformers.BertConfig(is_decoder=True), "bert"),
    ],
)
def test_a_model_that_guesses_no_hidden_tokens_is_refused_in_one_line(tmp_path: Path, config: Any, model_type: str) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"^Model .* is of type '{model_type}', and no encoder .* kind causal-lm.$"):
        kind().load_model(tmp_path, **LOADING)


def test_a_tokenizer_without_a_mask_token_is_refused(encoder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    with pytest.raises(ModelError, match="has no mask token"):
        kind().encode(tokenizer, rows_of("orbit"), train=True)


def test_what_the_report_shows_of_a_row() -> None:
    entry = {"score": -1.5, "nats": 3.0, "tokens": 2, "right": 1}
    assert kind().shown_prediction(entry) == "1 of 2 hidden tokens right, 1.50 nats each"
    assert kind().shown_row({"text": "orbit"}) == (["orbit"], "")
    assert json.dumps(kind().metrics(np.zeros(3)))
