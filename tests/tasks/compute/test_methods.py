"""Tests of the ways of training: what changes, what a checkpoint holds, resuming, and the model that comes out."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from tasks.compute.channel import Channel
from tasks.compute.methods import Method
from tasks.compute.models import Hardware, bind, load_model, load_tokenizer
from tasks.compute.predict import Predictor, load_split, score
from tasks.compute.train import train
from tasks.config import TrainingSettings
from tasks.errors import ConfigError
from tasks.metrics import summed_statistics
from tests.tasks.compute.commands import LABELS, events, train_arguments

KIND = bind("text-classification", {}, LABELS)
LORA = {"method": "lora", "learning_rate": 0.02, "lora_rank": 4}
HEAD = {"method": "head", "learning_rate": 0.05}


def run(*places: Path, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    stream = io.StringIO()
    answer = train(Channel(stream), **train_arguments(*places, **settings))
    return answer, [event for event in events(stream) if event["event"] == "checkpoint"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def validation_scores(model: Path, tokens: Path) -> dict[str, float]:
    tokenizer = load_tokenizer(model, remote_code=False)
    network, _ = load_model(KIND, model, tokenizer, trained=True, allow_pickle=False, remote_code=False)
    features, rows = load_split(str(tokens / "dataset"), str(tokens), "validation")
    predictions = Predictor(KIND, tokenizer, Hardware("cpu", "fp32"))(network, features, rows)
    return score(KIND, summed_statistics(KIND, predictions, rows), len(rows))


def body(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a classifier but for its head."""
    return {name.removeprefix("bert."): weight for name, weight in weights(folder).items() if not name.startswith("classifier")}


@pytest.mark.parametrize("settings", [LORA, LORA | {"lora_targets": "all-linear", "lora_dropout": 0.1}, HEAD])
def test_a_method_learns_resumes_bit_for_bit_and_leaves_a_model_that_loads_by_itself(
    settings: dict[str, Any], tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    answer, checkpoints = run(tokens, encoder, tmp_path / "whole" / "model", checkpoint_every=29, **settings)
    if settings["method"] == "lora":  # a head alone learns little of what a random body says
        losses = [entry["loss"] for entry in answer["history"] if "loss" in entry]
        assert sum(losses[-10:]) < sum(losses[:10])
    assert (answer["stop_reason"], [event["step"] for event in checkpoints]) == ("finished", [29, 58])
    model = tmp_path / "whole" / "model"
    assert validation_scores(model, tokens)["log_loss"] == pytest.approx(answer["validation"]["log_loss"], abs=1e-5)
    assert AutoModelForSequenceClassification.from_pretrained(model).config.id2label == dict(enumerate(LABELS))
    names = {path.name for path in Path(checkpoints[0]["folder"]).iterdir()}
    assert names == {"trained.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "best"}
    again, _ = run(tokens, encoder, tmp_path / "again" / "model", resume=Path(checkpoints[1]["folder"]), **settings)
    assert again["validation"] == answer["validation"]
    resumed = weights(tmp_path / "again" / "model")
    assert all(torch.equal(weight, resumed[name]) for name, weight in weights(model).items())


def test_training_the_head_leaves_the_body_as_it_was(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    run(tokens, encoder, tmp_path / "model", epochs=1, **HEAD)
    untouched = weights(encoder)
    trained = body(tmp_path / "model")
    assert trained.keys() == untouched.keys()
    assert all(torch.equal(weight, trained[name]) for name, weight in untouched.items())


def test_adapters_change_the_queries_and_values_alone_and_little_is_kept_of_them(
    tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    _, (checkpoint, *_) = run(tokens, encoder, tmp_path / "model", epochs=1, checkpoint_every=9, **LORA)
    untouched, trained = weights(encoder), body(tmp_path / "model")
    changed = {name for name, weight in untouched.items() if not torch.equal(weight, trained[name])}
    layers = [f"encoder.layer.{layer}.attention.self" for layer in (0, 1)]
    assert changed == {f"{layer}.{name}.weight" for layer in layers for name in ("query", "value")}
    kept = load_file(Path(checkpoint["folder"]) / "trained.safetensors")
    # Two matrices of rank 4 for each of four layers of 32 by 32, and the head.
    assert sum(weight.numel() for weight in kept.values()) == 4 * 2 * 4 * 32 + 32 * 3 + 3


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.arange(4, 24).reshape(4, 5)).logits
    return found


# It asks the model by an older name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_merged_model_says_what_its_adapters_say_beside_the_untouched_one(
    decoder_tokens: Path, decoder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    run(decoder_tokens, decoder, tmp_path / "model", epochs=1, **LORA)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    padding = merged.config.pad_token_id
    base = AutoModelForSequenceClassification.from_pretrained(decoder, num_labels=len(LABELS), pad_token_id=padding).eval()
    without = logits(base)
    adapted: Any = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits(adapted), logits(merged), atol=1e-5, rtol=1e-5)
    assert (logits(adapted) - without).abs().max() > 0.01
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert str(decoder) not in (tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", [{}, LORA])
def test_activations_that_are_computed_twice_change_nothing(
    method: dict[str, Any], tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    # The encoder has dropout: its masks are drawn again alike.
    found = []
    for twice in (False, True):
        run(tokens, encoder, tmp_path / str(twice) / "model", epochs=1, gradient_checkpointing=twice, **method)
        found.append(weights(tmp_path / str(twice) / "model"))
    assert all(torch.equal(weight, found[1][name]) for name, weight in found[0].items())


def test_gradients_are_clipped_to_the_norm_that_is_set_and_0_clips_nothing(
    decoder_tokens: Path, decoder: Path, tmp_path: Path
) -> None:
    found = {}
    for norm in (0.0, 1e6, 0.001):
        run(decoder_tokens, decoder, tmp_path / str(norm), epochs=1, max_grad_norm=norm)
        found[norm] = weights(tmp_path / str(norm))
    assert all(torch.equal(weight, found[1e6][name]) for name, weight in found[0.0].items())
    assert max(float((weight - found[0.001][name]).abs().max()) for name, weight in found[0.0].items()) > 1e-3


@pytest.mark.parametrize(("scheduler", "middle", "last"), [("linear", 0.5, 0), ("cosine", 0.5, 0), ("constant", 1, 1)])
def test_the_learning_rate_follows_the_scheduler(
    scheduler: str, middle: float, last: float, decoder_tokens: Path, decoder: Path, tmp_path: Path
) -> None:
    answer, _ = run(decoder_tokens, decoder, tmp_path, epochs=2, scheduler=scheduler, warmup_ratio=0, learning_rate=0.001)
    rates = [entry["learning_rate"] for entry in answer["history"] if "learning_rate" in entry]
    assert rates[len(rates) // 2] == pytest.approx(0.001 * middle, abs=5e-5)
    assert rates[-1] == pytest.approx(0.001 * last, abs=5e-5)


def test_smoothed_labels_are_learnt_alike_in_whatever_parts(decoder_tokens: Path, decoder: Path, tmp_path: Path) -> None:
    settings = {"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "label_smoothing": 0.3}
    whole, parts = (run(decoder_tokens, decoder, tmp_path / str(size), micro_batch=size, **settings)[0] for size in (32, 4))
    losses = [[entry["loss"] for entry in answer["history"] if "loss" in entry] for answer in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    # With three classes the loss cannot fall below the entropy of (0.8, 0.1, 0.1).
    assert 0.639 < min(losses[0]) < 0.9
    # What is said of validation is not smoothed.
    assert validation_scores(tmp_path / "32", decoder_tokens)["log_loss"] == pytest.approx(
        whole["validation"]["log_loss"], abs=1e-5
    )


def settings_of(method: str) -> dict[str, Any]:
    return TrainingSettings.model_validate({"method": method}).model_dump()


def test_a_model_without_a_head_of_its_own_has_none_to_train() -> None:
    model = BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    with pytest.raises(ConfigError, match=r"training\.method is 'head', but BertModel has no head apart from its body; set"):
        Method(model, settings_of("head"), "fresh")


@pytest.mark.parametrize("method", ["lora", "head"])
def test_a_model_that_is_fresh_in_its_midst_must_be_trained_whole(method: str) -> None:
    model = BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    with pytest.raises(ConfigError, match=rf"training\.method is '{method}', but much of .* freshly initialised \(made\)"):
        Method(model, settings_of(method), "made")
    assert Method(model, settings_of("full"), "made").adapter is None
