"""Ways of training: all weights, low-rank adapters beside frozen ones, or the head alone; and what of a model is saved then."""

import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tasks.errors import ConfigError
from tasks.pretrained import fresh_weights

if TYPE_CHECKING:
    from peft import PeftModel

_TRAINED = "trained.safetensors"
# The attention's projections of architectures that peft's table lacks, chosen as it chooses them for others.
_MORE_TARGETS = {"distilbert": ["q_lin", "v_lin"], "modernbert": ["Wqkv"]}


class Method:
    """A way of training a model that was loaded for it.

    Args:
        model: The model; what shall not be trained is frozen, and adapters are put into it.
        training: `TrainingSettings` as a dict.
        head: Where its head came from, see `Kind.load_model`.

    Raises:
        ConfigError: the model has no head of its own, or freshly initialised weights that would stay as they are.
    """

    def __init__(self, model: PreTrainedModel, training: Mapping[str, Any], head: str) -> None:
        self.name: str = training["method"]
        self.adapter: PeftModel | None = None
        if self.name != "full":
            if head == "made" or (head == "warm-started" and model.base_model is model):
                raise ConfigError(
                    f"training.method is {self.name!r}, but much of this model is freshly initialised ({head}) and has to be "
                    "trained; set training.method to 'full'."
                )
            if self.name == "lora":
                self.adapter = _with_adapters(model, training)
            else:
                _freeze_body(model)
        if training["gradient_checkpointing"]:
            _compute_activations_twice(model)

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Save what training changes: the model itself, or of one with frozen weights the others alone."""
        if self.name == "full":
            model.save_pretrained(folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: weight.detach().contiguous() for name, weight in _trainable(model)}, folder / _TRAINED)

    def load(self, model: PreTrainedModel, folder: Path) -> None:
        """Load what `save` left of a model with frozen weights.

        Raises:
            ValueError: these are not the weights that are trained.
        """
        found = load_file(folder / _TRAINED)
        wanted = dict(_trainable(model))
        if found.keys() != wanted.keys():
            raise ValueError(f"{_TRAINED} holds other weights than those that are trained")
        with torch.no_grad():
            for name, weight in wanted.items():
                weight.copy_(found[name])

    def export(self, model: PreTrainedModel, best: Path, output: Path) -> None:
        """Make of the best weights a folder that loads by itself; adapters are merged, and kept in `adapter` beside it.

        The model is of no more use for training.
        """
        if self.name == "full":
            shutil.copytree(best, output, dirs_exist_ok=True)
            return
        self.load(model, best)
        if self.adapter is None:
            model.save_pretrained(output)
            return
        folder = output.with_name("adapter")
        # Where the model lay on some machine is nobody's business.
        self.adapter.peft_config["default"].base_model_name_or_path = ""
        # Without asking the Hub about the embeddings, which are never trained.
        self.adapter.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        merged: Any = self.adapter.merge_and_unload()
        merged.save_pretrained(output)


def _head(model: PreTrainedModel) -> set[torch.nn.Parameter]:
    """Return the weights outside of the body that the head stands on; one that is tied to the body belongs to that."""
    body = model.base_model
    if body is not model:
        return set(model.parameters()) - set(body.parameters())
    # Of some, such as T5 where it writes, the body is no module of its own; what is linear at their top is the head.
    top = {weight for layer in model.children() if isinstance(layer, torch.nn.Linear) for weight in layer.parameters()}
    return top - set(model.get_input_embeddings().parameters())


def _layers(model: PreTrainedModel, weights: Iterable[torch.nn.Parameter]) -> list[str]:
    """Return the names of the layers that hold any of these weights, and those that the model's files lacked.

    Not of those that share one with the embeddings, or have others within: a layer's copy would part what belongs together.
    """
    wanted, fresh, shared = set(weights), fresh_weights(model), set(model.get_input_embeddings().parameters())
    found = []
    for name, layer in model.named_modules():
        own = dict(layer.named_parameters(recurse=False))
        learns = any(weight in wanted or f"{name}.{key}" in fresh for key, weight in own.items())
        if learns and not shared.intersection(own.values()) and not any(True for _ in layer.children()):
            found.append(name)
    return found


def _trainable(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _freeze_body(model: PreTrainedModel) -> None:
    layers = _layers(model, _head(model))
    if not layers:
        raise ConfigError(
            f"training.method is 'head', but {type(model).__name__} has no head apart from its body; "
            "set training.method to 'full' or 'lora'."
        )
    model.requires_grad_(False)
    for name in layers:
        model.get_submodule(name).requires_grad_(True)


def _compute_activations_twice(model: PreTrainedModel) -> None:
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"training.gradient_checkpointing is set, which {type(model).__name__} cannot do; unset it.")
    # The newer of the two names came with transformers 5.2x.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    # The other way would give no gradients where all that comes in is frozen.
    enable({"use_reentrant": False})


def _with_adapters(model: PreTrainedModel, training: Mapping[str, Any]) -> "PeftModel":
    """Put adapters into the model, in place, and freeze all but them, the head and what the model's files lacked.

    A head that gives probabilities of tokens is large, and came with the model's files; what they lacked of it is trained.

    Source: Hu et al. 2021, LoRA (arXiv 2106.09685); an architecture's layers are those of peft's table, else all linear ones.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    architecture, head = model.config.model_type, _head(model)
    whole = _layers(model, head if model.get_output_embeddings() is None else ())
    usual: Any = _MORE_TARGETS.get(architecture) or KNOWN.get(architecture)
    targets = usual if training["lora_targets"] == "architecture" else None
    config = LoraConfig(
        r=training["lora_rank"],
        lora_alpha=training["lora_alpha"],
        lora_dropout=training["lora_dropout"],
        target_modules=targets or "all-linear",
        exclude_modules=list({*whole, *_layers(model, head)}) or None,
        modules_to_save=whole or None,
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")
        # It asks the model by an older name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)
