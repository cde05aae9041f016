"""From features to padded batches."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import BatchEncoding, PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that is not to be predicted. Source: `ignore_index` of `torch.nn.functional.cross_entropy`."""
TOKEN_LABELS = {"labels": IGNORED}
"""The column with a label per token, and what fills it up."""


def padded(
    features: Sequence[Mapping[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    pad_to_multiple_of: int = 8,
    *,
    fills: Mapping[str, int] | None = None,
    positions: Collection[str] = (),
    left: bool = False,
    room: int = 0,
) -> "dict[str, torch.Tensor]":
    """Pad features to the longest, and on to a multiple of some tokens where the model takes that.

    Args:
        features: `input_ids`, perhaps `token_type_ids`, and perhaps the columns below.
        tokenizer: Says what pads, and how many tokens the model takes.
        pad_to_multiple_of: 8 suits a GPU's tensor cores, and training: it means fewer shapes, for each of which a CPU keeps
            kernels, 0.4 GB in all.
        fills: Further columns with a number per token, and what fills each up.
        positions: Columns with the position of a token.
        left: Whether to pad on the left, where a decoder goes on at the right.
        room: Tokens that the model adds to these: with them, the padding takes no more than the model does.

    Returns:
        dict: those columns, shape (batch, tokens), or (batch,) for positions, and `attention_mask`.
    """
    import torch

    assert isinstance(tokenizer.pad_token_id, int)
    # By length, not by token: a decoder's pad token may be its end token.
    rows = [{**feature, "attention_mask": [1] * len(feature["input_ids"])} for feature in features]
    known = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
    batch = {}
    for name, fill in {**known, **(fills or {})}.items():
        if name in rows[0]:
            longest = max(len(row[name]) for row in rows)
            width = min(-(-longest // pad_to_multiple_of) * pad_to_multiple_of, max(longest, tokenizer.model_max_length - room))
            filled = [(row[name], [fill] * (width - len(row[name]))) for row in rows]
            batch[name] = torch.tensor([[*pads, *values] if left else [*values, *pads] for values, pads in filled])
    width = batch["input_ids"].shape[1]
    for name in (name for name in positions if name in rows[0]):
        batch[name] = torch.tensor([row[name] + (width - len(row["input_ids"])) * left for row in rows])
    return batch


def truncated_rows(encoded: "BatchEncoding", max_length: int) -> list[bool]:
    """Return per row whether the tokenizer cut tokens off; one that is not fast tells only of rows of all `max_length` tokens."""
    if encoded.is_fast:
        return [bool(encoding.overflowing) for encoding in encoded.encodings or []]
    return [len(ids) >= max_length for ids in encoded["input_ids"]]
