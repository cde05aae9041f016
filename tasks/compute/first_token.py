"""Classifiers that read a text's first token: what follows the last attention is computed for that token alone.

That is three quarters of the last layer: of a model with 6 layers an eighth, with 12 a sixteenth.
"""

from typing import Any

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

# Odd, so that models that pad to a multiple do so.
_TOKENS = 7


def read_first_token(model: torch.nn.Module) -> bool:
    """Have a model leave out of its last layer what its logits do not depend on, and return whether that can be.

    Classifiers of transformers' own that are built as BERT are asked, by the gradient, which tokens their logits depend on, and
    keep the change if their logits stay what they are.
    """
    after_attention = _after_last_attention(model)
    if after_attention is None:
        return False
    training = model.training
    model.eval()
    try:
        logits = _first_alone(model, after_attention)
        if logits is None:
            return False
        hook = after_attention.register_forward_pre_hook(_first)
        same = False
        try:
            with torch.no_grad():
                same = torch.allclose(_logits(model), logits, rtol=1e-3, atol=1e-5)
        finally:
            if not same:
                hook.remove()
        return same
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False  # its parts only have the names of BERT's
    finally:
        model.train(training)


def _after_last_attention(model: Any) -> torch.nn.Module | None:
    if type(model).__name__ not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values():
        return None
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    # Where attention can be set it may go by the length of the rows, and stay as the few tokens here set it.
    if not isinstance(layers, torch.nn.ModuleList) or hasattr(model.base_model, "set_attention_type"):
        return None
    found = getattr(getattr(layers[-1], "attention", None), "output", None)
    return found if isinstance(found, torch.nn.Module) else None


def _first_alone(model: torch.nn.Module, module: torch.nn.Module) -> torch.Tensor | None:
    """Return the logits of a few tokens if they depend on the module's output for each row's first one, and on no other.

    Where layers share the module, its first output decides, on which all tokens of the next layer depend.
    """
    outputs: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with torch.enable_grad():
            logits = _logits(model)
            (gradient,) = torch.autograd.grad(logits.square().sum(), outputs[0])
    finally:
        hook.remove()
    needed = gradient.ne(0).any(-1)
    return logits.detach() if needed[:, 0].all() and not needed[:, 1:].any() else None


def _logits(model: Any) -> torch.Tensor:
    tokens = torch.arange(2 * _TOKENS).view(2, _TOKENS) % model.config.vocab_size
    mask = torch.ones_like(tokens)
    mask[1, _TOKENS // 2 :] = 0
    found: torch.Tensor = model(input_ids=tokens, attention_mask=mask)[0]
    return found


def _first(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(values[:, :1] for values in inputs)
