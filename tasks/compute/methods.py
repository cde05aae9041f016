"""Ways of training: all weights, low-rank adapters beside frozen ones, or the head alone; and what of a model is saved then."""

import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tasks.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel

_TRAINED = "trained.safetensors"


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
            if head in ("warm-started", "made") and _body(model) is model:
                raise ConfigError(
                    f"training.method is {self.name!r}, but much of this model is freshly initialised ({head}) and has to be "
                    "trained; set training.method to 'full'."
                )
            heads = list(_head_modules(model))
            if self.name == "lora":
                self.adapter = _with_adapters(model, training, heads)
            else:
                _freeze_all_but(model, heads)

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


def _body(model: PreTrainedModel) -> torch.nn.Module:
    """Return the part of a model that its head stands on; the model itself where the two are one."""
    body: torch.nn.Module = model.base_model
    return body


def _head_modules(model: PreTrainedModel) -> Iterator[str]:
    """Yield the names of the modules whose weights are all outside of the body: a weight that is tied to it belongs to it."""
    body = _body(model)
    if body is model:
        return
    inside = set(body.parameters())
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and not any(True for _ in module.children()) and not inside.intersection(own):
            yield name


def _trainable(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _freeze_all_but(model: PreTrainedModel, heads: list[str]) -> None:
    if not heads:
        raise ConfigError(
            f"training.method is 'head', but {type(model).__name__} has no head apart from its body; "
            "set training.method to 'full' or 'lora'."
        )
    model.requires_grad_(False)
    for name in heads:
        model.get_submodule(name).requires_grad_(True)


def _with_adapters(model: PreTrainedModel, training: Mapping[str, Any], heads: list[str]) -> "PeftModel":
    """Put adapters into the model, in place, and freeze all but them and the head.

    Source: Hu et al. 2021, LoRA (arXiv 2106.09685); an architecture's layers are those of peft's table, else all linear ones.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    targets: Any = KNOWN.get(model.config.model_type) if training["lora_targets"] == "architecture" else None
    config = LoraConfig(
        r=training["lora_rank"],
        lora_alpha=training["lora_alpha"],
        lora_dropout=training["lora_dropout"],
        target_modules=targets or "all-linear",
        exclude_modules=heads or None,
        modules_to_save=heads or None,
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")
        # It asks the model by an older name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)
