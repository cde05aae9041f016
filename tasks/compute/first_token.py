"""Classifiers that read a text's first token: their last layer is computed for that token alone, but for keys and values.

That is five sixths of the last layer: of a model with 6 layers a seventh, with 12 half of that.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from tasks.compute.attention import for_first_token

# Odd, so that models that pad to a multiple do so.
_TOKENS = 7
# What a model raises whose parts only have the names of BERT's.
_NOT_BERTS = (RuntimeError, ValueError, TypeError, IndexError)


def read_first_token(model: torch.nn.Module) -> bool:
    """Have a model leave out of its last layer what its logits do not depend on, and return whether that can be.

    Classifiers of transformers' own that are built as BERT are asked, by the gradient, which tokens their logits depend on, and
    keep the change if their logits stay what they are.
    """
    attention = _last_attention(model)
    if attention is None:
        return False
    training = model.training
    model.eval()
    try:
        logits = _first_alone(model, attention.output)
        if logits is None or not _keeps(model, logits, _read_first(attention.output)):
            return False
        _keeps(model, logits, _ask_for_first(model, attention))
        return True
    except _NOT_BERTS:
        return False
    finally:
        model.train(training)


def _last_attention(model: Any) -> Any:
    if type(model).__name__ not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values():
        return None
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    # Where attention can be set it may go by the length of the rows, and stay as the few tokens here set it.
    if not isinstance(layers, torch.nn.ModuleList) or hasattr(model.base_model, "set_attention_type"):
        return None
    found = getattr(layers[-1], "attention", None)
    return found if isinstance(getattr(found, "output", None), torch.nn.Module) else None


def _keeps(model: torch.nn.Module, logits: torch.Tensor, undo: Callable[[], None]) -> bool:
    """Tell whether a model's logits are what they were before a change; undo it if not."""
    same = False
    with contextlib.suppress(*_NOT_BERTS), torch.no_grad():
        same = torch.allclose(_logits(model), logits, rtol=1e-3, atol=1e-5)
    if not same:
        undo()
    return same


def _read_first(output: torch.nn.Module) -> Callable[[], None]:
    """Have a module compute each row's first token alone; return what undoes that."""
    return output.register_forward_pre_hook(_first).remove


def _ask_for_first(model: Any, attention: Any) -> Callable[[], None]:
    """Have each row's first token alone ask, if attention is such that the others' do not matter; return what undoes that."""
    own: Any = getattr(attention, "self", None)
    query = getattr(own, "query", None)
    if model.config._attn_implementation != "sdpa" or getattr(own, "is_causal", True) or not isinstance(query, torch.nn.Linear):
        return lambda: None
    hooks = query.register_forward_pre_hook(_first), query.register_forward_hook(_for_all)
    for_first_token(own, True)

    def undo() -> None:
        for_first_token(own, False)
        for hook in hooks:
            hook.remove()

    return undo


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


def _first(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    module._tokens_given = inputs[0].shape[1]
    return tuple(values[:, :1] for values in inputs)


def _for_all(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = output.expand(-1, module._tokens_given, -1)
    return result
