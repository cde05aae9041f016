"""Tests of the ways of training with twelve architectures: what learns, and that adapters are merged faithfully."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from tasks.compute.methods import Method
from tasks.compute.models import bind, load_model, load_tokenizer
from tasks.config import TrainingSettings
from tasks.errors import ConfigError
from tasks.pretrained import load_config, load_pretrained
from tests.architectures import ARCHITECTURES, make_architecture

KIND = bind("text-classification", {}, ["a", "b", "c"])
LOADING: dict[str, Any] = {"trained": False, "allow_pickle": False, "remote_code": False}


def settings(method: str, **lora: Any) -> dict[str, Any]:
    return TrainingSettings.model_validate({"method": method, **lora}).model_dump()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("architectures")
    return {name: make_architecture(name, root / name) for name in ARCHITECTURES}


def classifier(folder: Path) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(folder, remote_code=False)
    torch.manual_seed(3)
    return load_model(KIND, folder, tokenizer, **LOADING)[0].eval(), tokenizer


def learning(model: Any) -> set[str]:
    return {name.removeprefix("base_model.model.") for name, weight in model.named_parameters() if weight.requires_grad}


def stir(model: Any, seed: int = 7) -> None:
    """Change what learns, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.3)


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    batch = tokenizer(["the rocket orbit", "goal of the team and the coach"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**batch).logits


HEADS = {
    "bert": {"classifier"},
    "distilbert": {"pre_classifier", "classifier"},
    "roberta": {"classifier.dense", "classifier.out_proj"},
    "deberta-v2": {"pooler.dense", "classifier"},
    "modernbert": {"head.dense", "head.norm", "classifier"},
    "electra": {"classifier.dense", "classifier.out_proj"},
    **{name: {"score"} for name in ("gpt2", "gpt_neo", "llama", "qwen2")},
    **{name: {"classification_head.dense", "classification_head.out_proj"} for name in ("t5", "bart")},
}
TARGETS = {
    **{name: {"query", "value"} for name in ("bert", "roberta", "electra")},
    "distilbert": {"q_lin", "v_lin"},
    "deberta-v2": {"query_proj", "value_proj"},
    "modernbert": {"Wqkv"},
    "gpt2": {"c_attn"},
    **{name: {"q_proj", "v_proj"} for name in ("gpt_neo", "llama", "qwen2", "bart")},
    "t5": {"q", "v"},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_of_a_frozen_body_only_the_head_learns(models: dict[str, Path], name: str) -> None:
    model, _ = classifier(models[name])
    Method(model, settings("head"), "fresh")
    assert {weight.rpartition(".")[0] for weight in learning(model)} == HEADS[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_adapter_goes_to_the_attention_and_the_head_learns_with_it(models: dict[str, Path], name: str) -> None:
    model, _ = classifier(models[name])
    Method(model, settings("lora", lora_rank=4), "fresh")
    adapted = {weight.partition(".lora_")[0].rpartition(".")[2] for weight in learning(model) if ".lora_" in weight}
    whole = {weight.partition(".modules_to_save.")[0] for weight in learning(model) if ".lora_" not in weight}
    assert (adapted, whole) == (TARGETS[name], HEADS[name])
    assert {weight.shape[0] for part, weight in model.named_parameters() if ".lora_A." in part} == {4}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_merged_and_unmerged_outputs_are_equal(models: dict[str, Path], name: str, tmp_path: Path) -> None:
    model, tokenizer = classifier(models[name])
    untouched = logits(model, tokenizer)
    method = Method(model, settings("lora"), "fresh")
    # Adapters begin as nothing.
    torch.testing.assert_close(logits(model, tokenizer), untouched, rtol=0, atol=1e-6)
    stir(model)
    method.save(model, tmp_path / "kept")
    wanted = logits(model, tokenizer)
    assert (wanted - untouched).abs().max() > 1e-3
    stir(model, seed=8)  # what is in memory at the end of training is not what was best
    method.export(model, tmp_path / "kept", tmp_path / "model")

    merged, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(logits(merged.eval(), tokenizer), wanted, rtol=1e-4, atol=1e-4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's own call
        published = PeftModel.from_pretrained(classifier(models[name])[0], str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(published.eval(), tokenizer), wanted, rtol=0, atol=1e-6)


def test_all_linear_layers_of_the_body_can_be_adapted(models: dict[str, Path]) -> None:
    model, _ = classifier(models["bert"])
    linear = {name for name, layer in model.bert.named_modules() if isinstance(layer, torch.nn.Linear)}
    Method(model, settings("lora", lora_targets="all-linear"), "fresh")
    assert {name.partition(".lora_")[0].removeprefix("bert.") for name in learning(model) if ".lora_" in name} == linear


def test_an_architecture_without_a_usual_choice_has_all_linear_layers_adapted(models: dict[str, Path]) -> None:
    model, _ = classifier(models["llama"])
    model.config.model_type = "brand-new"
    Method(model, settings("lora"), "fresh")
    names = {name.partition(".lora_")[0].rpartition(".")[2] for name in learning(model) if ".lora_" in name}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def language_model(folder: Path, auto_class: str) -> Any:
    config = load_config(folder, kind="x", remote_code=False)
    return load_pretrained(auto_class, folder, config, kind="x", **LOADING).eval()


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_a_head_that_is_the_embeddings_cannot_be_trained_alone(models: dict[str, Path], name: str) -> None:
    with pytest.raises(ConfigError, match=r"^training\.method is 'head', but \w+ has no head apart from its body; set"):
        Method(language_model(models[name], "AutoModelForCausalLM"), settings("head"), "pretrained")


@pytest.mark.parametrize(
    ("name", "auto_class"),
    [
        ("gpt2", AutoModelForCausalLM),
        ("qwen2", AutoModelForCausalLM),
        ("t5", AutoModelForSeq2SeqLM),
        ("bart", AutoModelForSeq2SeqLM),
        ("bert", AutoModelForMaskedLM),
    ],
)
def test_a_language_models_ties_survive_an_adapter(name: str, auto_class: Any, tmp_path: Path) -> None:
    folder = make_architecture(name, tmp_path / "base", auto_class=auto_class.__name__)
    model, tokenizer = language_model(folder, auto_class.__name__), load_tokenizer(folder, remote_code=False)
    method = Method(model, settings("lora"), "pretrained")
    # The head came with the model's files: only the adapters learn.
    assert all(".lora_" in weight for weight in learning(model))
    stir(model)
    batch = tokenizer(["the rocket orbit"], return_tensors="pt") | {"labels": torch.tensor([[5, 6, 7]])}
    inputs = {name: value for name, value in batch.items() if name != "labels" or auto_class is AutoModelForSeq2SeqLM}
    with torch.inference_mode():
        wanted = model(**inputs).logits
    method.save(model, tmp_path / "kept")
    method.export(model, tmp_path / "kept", tmp_path / "model")
    merged = auto_class.from_pretrained(tmp_path / "model").eval()
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    with torch.inference_mode():
        torch.testing.assert_close(merged(**inputs).logits, wanted, rtol=1e-4, atol=1e-4)


def test_an_untied_head_over_tokens_stays_as_it_came_but_learns_where_it_is_fresh(
    models: dict[str, Path], tmp_path: Path
) -> None:
    whole = make_architecture("llama", tmp_path / "whole", auto_class="AutoModelForCausalLM")
    model = language_model(whole, "AutoModelForCausalLM")
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    Method(model, settings("lora"), "pretrained")
    assert all(".lora_" in name for name in learning(model))
    model = language_model(models["llama"], "AutoModelForCausalLM")
    Method(model, settings("lora"), "fresh")
    assert {name for name in learning(model) if ".lora_" not in name} == {"lm_head.modules_to_save.default.weight"}


def test_what_files_lack_of_a_body_learns_too(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["bert"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({name: weights[name] for name in weights if "pooler" not in name}, folder / "model.safetensors", {"format": "pt"})
    for method in ("head", "lora"):
        model, _ = classifier(folder)
        Method(model, settings(method), "fresh")
        layers = {
            name.replace(".modules_to_save.default", "").rpartition(".")[0] for name in learning(model) if ".lora_" not in name
        }
        assert layers == {"bert.pooler.dense", "classifier"}


def test_a_small_model_that_was_made_at_random_must_be_trained_whole(models: dict[str, Path]) -> None:
    model = language_model(models["gpt2"], "AutoModelForCausalLM")
    with pytest.raises(ConfigError, match=r"^training\.method is 'lora', but much of this model is freshly initialised \(made\)"):
        Method(model, settings("lora"), "made")


def test_the_head_of_a_question_answerer_learns_with_adapters_though_its_body_is_no_module(models: dict[str, Path]) -> None:
    model = language_model(models["t5"], "AutoModelForQuestionAnswering")
    Method(model, settings("lora"), "fresh")
    assert {name.partition(".modules_to_save.")[0] for name in learning(model) if ".lora_" not in name} == {"qa_outputs"}


def test_a_model_that_cannot_compute_its_activations_twice_says_so(models: dict[str, Path]) -> None:
    model, _ = classifier(models["bert"])
    model.supports_gradient_checkpointing = False
    wanted = TrainingSettings(gradient_checkpointing=True).model_dump()
    with pytest.raises(
        ConfigError, match=r"gradient_checkpointing is set, which BertForSequenceClassification cannot do; unset it"
    ):
        Method(model, wanted, "fresh")
