"""Devices, precisions, tokenizers and models, as the compute process uses them."""

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from tasks.compute.attention import use_attention
from tasks.compute.first_token import read_first_token
from tasks.compute.linear import use_onednn
from tasks.errors import ConfigError, ModelError
from tasks.kinds import load_kind
from tasks.kinds.kind import Kind
from tasks.pretrained import read_limit
from tasks.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute."""

    device: str
    """`cpu`, `cuda` or `mps`."""
    precision: str
    """`fp32`, `bf16` or `fp16`."""
    processes: int = 1
    """Processes that compute together, each on a device of its own or with its share of the cores."""

    @classmethod
    def choose(cls, device: str, precision: str, processes: int = 1, *, settings: str = "training.") -> "Hardware":
        """Resolve `auto` by what this machine has; `settings` is what the names of the settings begin with, for messages.

        Raises:
            ConfigError: the device is not there, not as often as there are processes, or cannot compute in that precision.
        """
        present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if device == "auto":
            device = next(name for name in ("cuda", "mps", "cpu") if present[name])
        if not present[device]:
            raise ConfigError(f"{settings}device is {device!r}, but this machine has none; set it to 'auto'.")
        devices = {"cpu": processes, "cuda": torch.cuda.device_count(), "mps": 1}[device]
        if devices < processes:
            there = "1 GPU is" if devices == 1 else f"{devices} GPUs are"
            raise ConfigError(
                f"training.processes is {processes}, but {there} there; set it to {devices}, or training.device to 'cpu'."
            )
        if precision == "auto":
            precision = "bf16" if _has_fast_bf16(device) else "fp32"
        if precision == "fp16" and device == "cpu":
            raise ConfigError(
                f"{settings}precision is 'fp16', which CPUs compute badly with; set it to 'auto', 'bf16' or 'fp32'."
            )
        return cls(device, precision, processes)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name() if self.device == "cuda" else self.device
        if self.processes == 1:
            return f"{name}, {self.precision}"
        name = f"cuda ({name})" if self.device == "cuda" else name
        return f"{self.processes} processes, {name}, {self.precision}, {self.backend}"

    @property
    def backend(self) -> str:
        """How processes exchange gradients."""
        return "nccl" if self.device == "cuda" else "gloo"

    def place(self, model: torch.nn.Module) -> None:
        """Put a model on the device."""
        model.to(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the model computes."""
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return torch.autocast(self.device, dtype=dtype, enabled=dtype is not None)


def _has_fast_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def set_up(seed: int, processes: int = 1) -> None:
    """Seed every generator and use this process's share of the cores that it may run on; the count decides the order of sums."""
    import transformers

    torch.set_num_threads(share_of_cores(processes))
    use_onednn()
    use_attention()
    transformers.set_seed(seed)
    transformers.utils.logging.disable_progress_bar()


def share_of_cores(processes: int) -> int:
    """Return the cores for each of so many processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def load_tokenizer(folder: Path, *, remote_code: bool) -> "PreTrainedTokenizerBase":
    """Load the tokenizer, with the model's limit of tokens as its `model_max_length`.

    One without a pad token, as GPT-style models have, pads with its end-of-text token; all pad on the right.

    Raises:
        ModelError: it or the model's configuration cannot be loaded, or it has no token to pad with.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote_code)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise ModelError(f"Tokenizer of {str(folder)!r} cannot be loaded: {one_line(error, 200)}") from error
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"Configuration of {str(folder)!r} cannot be loaded: {one_line(error, 200)}") from error
    limits = (tokenizer.model_max_length, read_limit(config))
    tokenizer.model_max_length = min(limit for limit in limits if limit > 0)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"Tokenizer of {str(folder)!r} has no pad, end-of-text or unknown token to pad with.")
    # Models count positions from the batch's first column: pads before a row would change its score. Decoders find a row's last
    # token themselves; only models that read the last column (XLNet) need it on the left.
    if getattr(config, "summary_type", None) != "last":
        tokenizer.padding_side = "right"
    return tokenizer


def check_max_length(tokenizer: "PreTrainedTokenizerBase", max_length: int) -> None:
    """Check that the model takes rows of `max_length` tokens.

    Raises:
        ConfigError: it takes fewer.
    """
    limit = tokenizer.model_max_length
    if max_length > limit:
        raise ConfigError(f"training.max_length is {max_length}, but the model takes at most {limit} tokens; lower it.")


def bind(kind_name: str, settings: Mapping[str, Any], labels: Sequence[str] = ()) -> Kind:
    """Return a kind with the settings that a step reads, and the names of its classes."""
    kind = load_kind(kind_name)
    return kind(kind.config_class.model_validate(settings), tuple(labels))


def load_model(
    kind: Kind,
    folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    trained: bool,
    allow_pickle: bool,
    remote_code: bool,
) -> "tuple[PreTrainedModel, str]":
    """Load a model that fits its tokenizer; see `Kind.load_model`.

    Raises:
        ModelError: it cannot be loaded or told what is padding, or its tokenizer knows more tokens than it has embeddings.
    """
    model, head = kind.load_model(folder, trained=trained, allow_pickle=allow_pickle, remote_code=remote_code)
    if "attention_mask" not in inspect.signature(model.forward).parameters:
        raise ModelError(
            f"Model {str(folder)!r} ({model.config.model_type}) takes no attention mask, so a row's score would depend on how "
            "long the rows beside it are; choose another."
        )
    embeddings = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
    if len(tokenizer) > embeddings:
        raise ModelError(f"Model {str(folder)!r} has {embeddings} embeddings but its tokenizer {len(tokenizer)} tokens.")
    model.config.pad_token_id = tokenizer.pad_token_id
    read_first_token(model)
    return model, head
