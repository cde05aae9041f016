"""Padding features that say more of their tokens than the tokenizer knows of: a number per token, and positions of tokens."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def padder(
    tokenizer: "PreTrainedTokenizerBase", *, per_token: Collection[str], positions: Collection[str], fill: int
) -> "Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]":
    """Return the function that pads features to the longest, and on to a multiple of 8 tokens where the model takes that.

    Args:
        tokenizer: Pads what it made: all columns that are not named here.
        per_token: Columns with a number for each token.
        positions: Columns with the position of a token.
        fill: The number of padding.
    """
    import torch

    left = tokenizer.padding_side == "left"

    def pad(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(feature["input_ids"]) for feature in features)
        # Fewer shapes, as kernels are kept per shape, and tensor cores like multiples of 8.
        length = min(-(-longest // 8) * 8, max(longest, tokenizer.model_max_length))
        own = [{name: value for name, value in row.items() if name not in (*per_token, *positions)} for row in features]
        batch = dict(tokenizer.pad(own, padding="max_length", max_length=length, return_tensors="pt"))
        missing = [length - len(feature["input_ids"]) for feature in features]
        for name in per_token:
            filled = [([fill] * more, feature[name]) for more, feature in zip(missing, features, strict=True)]
            batch[name] = torch.tensor([[*pads, *values] if left else [*values, *pads] for pads, values in filled])
        for name in positions:
            batch[name] = torch.tensor([feature[name] + more * left for more, feature in zip(missing, features, strict=True)])
        return batch

    return pad
