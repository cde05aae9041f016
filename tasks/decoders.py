"""Loading a decoder that predicts the next token, out of an encoder too; torch is imported inside functions only."""

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.encoding.packing import isolates
from tasks.errors import ModelError
from tasks.pretrained import fresh_weights, load_config, load_pretrained

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_SAME = 1e-5
"""Fraction of the largest logit by which two equal computations may differ."""
_LOG = logging.getLogger(__name__)


def load_decoder(
    folder: Path, *, kind: str, trained: bool, allow_pickle: bool, remote_code: bool
) -> "tuple[PreTrainedModel, str]":
    """Load a model that reads from left to right, and say where its head came from, in a word of `records.Head`.

    An encoder of which transformers has a decoder too becomes one: it is `warm-started`, and keeps the head of a masked language
    model if its files have one.

    Raises:
        ModelError: the files do not make a decoder, or one that sees what comes next, or lack weights that were trained.
    """
    config = load_config(folder, kind=kind, remote_code=remote_code)
    encoder = _is_encoder(config)
    _refuse(folder, config, encoder)
    if encoder:
        config.is_decoder = True
    model = load_pretrained(
        "AutoModelForCausalLM",
        folder,
        config,
        kind=kind,
        trained=trained,
        allow_pickle=allow_pickle,
        remote_code=remote_code,
    )
    check_direction(folder, model)
    return model, "trained" if trained else "warm-started" if encoder else "fresh" if fresh_weights(model) else "pretrained"


def check_direction(folder: Path, model: "PreTrainedModel") -> None:
    """Refuse a model that sees the tokens that it is to predict: transformers has causal language models that do.

    Raises:
        ModelError: what a model says of some tokens depends on those after them.
    """
    import torch

    size, half = int(model.config.get_text_config().vocab_size), 4
    ids = torch.arange(size // 2, size // 2 + 3 * half, device=model.device) % size
    begun_alike = torch.stack([ids[: 2 * half], torch.cat([ids[:half], ids[2 * half :]])])
    with torch.inference_mode():
        logits = model(input_ids=begun_alike).logits[:, :half].float()
    if (logits[0] - logits[1]).abs().max() > _SAME * logits.abs().max():
        raise ModelError(
            f"Model {str(folder)!r} ({model.config.model_type}) sees the tokens after the one that it predicts; choose a model "
            "that reads from left to right, such as 'gpt2'."
        )


def keeps_apart(tokenizer: "PreTrainedTokenizerBase", length: int) -> bool:
    """Tell, by the model's configuration beside its tokenizer, whether documents in blocks of `length` tokens can be kept apart.

    Says so in the log where they cannot.
    """
    return _keeps_apart(tokenizer.name_or_path, length)


# It is asked of each batch of rows, and is to say so once.
@functools.cache
def _keeps_apart(folder: str, length: int) -> bool:
    try:
        config = load_config(Path(folder), kind="packing", remote_code=False)
    except ModelError:
        return False  # its code comes with it, and was not tried
    if isolates(config, length):
        return True
    _LOG.warning("Documents are not packed: models of type %r do not keep them apart within a block.", config.model_type)
    return False


def _is_encoder(config: "PretrainedConfig") -> bool:
    """Tell whether models with this configuration read in both directions as it stands."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    reads_both = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.model_type == "bert-generation"
    return reads_both and not getattr(config, "is_decoder", False)


def _refuse(folder: Path, config: "PretrainedConfig", encoder: bool) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = f"Model {str(folder)!r} is of type {config.model_type!r}"
    if config.is_encoder_decoder:
        raise ModelError(f"{name}, an encoder-decoder, which does not go on with a text; choose a decoder such as 'gpt2'.")
    own = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not own and (not known or (encoder and not hasattr(config, "is_decoder"))):
        raise ModelError(
            f"{name}, of which transformers makes no decoder; choose a decoder such as 'gpt2', or an encoder such as BERT's."
        )
