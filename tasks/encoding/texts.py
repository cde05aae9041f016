"""Features of models that write text: a text and its target for encoder-decoders, a prompt and its completion for decoders."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.errors import ConfigError
from tasks.generators import DOCUMENT, end_token

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that no loss is computed on. Source: `ignore_index` of `torch.nn.CrossEntropyLoss`."""

Features = dict[str, list[Any]]


def encode_pairs(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    targets: Sequence[str] | None,
    *,
    max_length: int,
    max_target_length: int,
) -> tuple[Features, list[bool]]:
    """Tokenize texts for an encoder and, to learn from, their targets for a decoder.

    Returns:
        tuple: `input_ids` and, with targets, `labels`; per text, whether tokens of it or of its target were cut off.
    """
    sources = tokenizer(list(texts), truncation=True, max_length=max_length)
    truncated = _cut(sources, max_length)
    features: Features = {"input_ids": sources["input_ids"]}
    if targets is not None:
        encoded = tokenizer(text_target=list(targets), truncation=True, max_length=max_target_length)
        features["labels"] = encoded["input_ids"]
        truncated = [either or other for either, other in zip(truncated, _cut(encoded, max_target_length), strict=True)]
    return features, truncated


def _cut(encoded: "BatchEncoding", max_length: int) -> list[bool]:
    if encoded.is_fast:
        return [bool(encoding.overflowing) for encoding in encoded.encodings or []]
    return [len(ids) >= max_length for ids in encoded["input_ids"]]


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    template: str,
    texts: Sequence[str],
    targets: Sequence[str] | None,
    *,
    max_length: int,
    max_target_length: int,
) -> tuple[Features, list[bool]]:
    """Tokenize prompts for a decoder and, to learn from, their completions, each ended by the end token.

    Where a prompt is longer than `max_length` tokens, the end of the text in it is cut off, never a part of the template.

    Returns:
        tuple: `input_ids` and, with targets, `labels` of the same length, which ignore the prompt; per text, whether tokens of it
        or of its target were cut off.

    Raises:
        ConfigError: the template leaves no room for a text.
    """
    own = len(_prompt_ids(tokenizer, template.replace(DOCUMENT, "")))
    if own >= max_length:
        raise ConfigError(
            f"generation.template takes {own} tokens, which leaves none of training.max_length, {max_length}, for a text; "
            f"set training.max_length above {own}."
        )
    features: Features = {"input_ids": []} if targets is None else {"input_ids": [], "labels": []}
    truncated = []
    for number, text in enumerate(texts):
        prompt, ids, cut = _fit_prompt(tokenizer, template, text, max_length, max_length - own)
        if targets is not None:
            completion = _completion_ids(tokenizer, prompt, ids, targets[number])
            cut = cut or len(completion) > max_target_length - 1
            completion = [*completion[: max_target_length - 1], end_token(tokenizer)]
            features["labels"].append([IGNORED] * len(ids) + completion)
            ids = ids + completion
        features["input_ids"].append(ids)
        truncated.append(cut)
    return features, truncated


def _fit_prompt(
    tokenizer: "PreTrainedTokenizerBase", template: str, text: str, max_length: int, room: int
) -> tuple[str, list[int], bool]:
    """Return a prompt of at most `max_length` tokens, its tokens, and whether the text was cut: to `room` tokens or less."""
    prompt, cut = template.replace(DOCUMENT, text), False
    ids = _prompt_ids(tokenizer, prompt)
    while len(ids) > max_length:
        text, cut = _first_tokens(tokenizer, text, room), True
        prompt = template.replace(DOCUMENT, text)
        ids = _prompt_ids(tokenizer, prompt)
        # Where the text meets the template, it may take more tokens than alone.
        room -= max(1, len(ids) - max_length)
    return prompt, ids, cut


def _first_tokens(tokenizer: "PreTrainedTokenizerBase", text: str, count: int) -> str:
    if count < 1:
        return ""
    encoded = tokenizer([text], add_special_tokens=False, truncation=True, max_length=count)
    if encoded.is_fast:
        return text[: max((end for _, end in encoded.encodings[0].offsets), default=0)]
    return str(tokenizer.decode(encoded["input_ids"][0], skip_special_tokens=True))


def _prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """Return the tokens of a prompt, without the end token that some tokenizers add: the model must go on."""
    ids: list[int] = tokenizer(prompt)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _completion_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, prompt_ids: list[int], target: str) -> list[int]:
    """Return the tokens of a target after a prompt and a space: as the model sees both together, if their border is kept."""
    both = _prompt_ids(tokenizer, f"{prompt} {target}")
    if both[: len(prompt_ids)] == prompt_ids:
        return both[len(prompt_ids) :]
    ids: list[int] = tokenizer(f" {target}", add_special_tokens=False)["input_ids"]
    return ids


def collate(
    tokenizer: "PreTrainedTokenizerBase", features: Sequence[Mapping[str, Any]], *, pad_left: bool, room: int = 0
) -> dict[str, Any]:
    """Pad features to the longest, and on to a multiple of 8 tokens where the model takes that.

    Args:
        tokenizer: Says what pads.
        features: `input_ids` and maybe `labels` of each.
        pad_left: Whether to pad on the left, where a decoder is to go on at the right.
        room: Tokens that the model adds to these: with them, the padding takes no more than the model does.

    Returns:
        dict: tensors (batch, tokens): `input_ids`, `attention_mask` and, if the features have them, `labels`.
    """
    import torch

    def padded(rows: Sequence[list[int]], pad: int) -> Any:
        longest = max(len(row) for row in rows)
        # Fewer shapes: kernels are kept per shape, and tensor cores like multiples of 8.
        width = min(-(-longest // 8) * 8, max(longest, tokenizer.model_max_length - room))
        fill = [[pad] * (width - len(row)) for row in rows]
        return torch.tensor([[*more, *row] if pad_left else [*row, *more] for row, more in zip(rows, fill, strict=True)])

    inputs = [feature["input_ids"] for feature in features]
    assert isinstance(tokenizer.pad_token_id, int)
    batch = {
        "input_ids": padded(inputs, tokenizer.pad_token_id),
        # By length, not by token: a decoder's pad token may be its end token.
        "attention_mask": padded([[1] * len(ids) for ids in inputs], 0),
    }
    if "labels" in features[0]:
        batch["labels"] = padded([feature["labels"] for feature in features], IGNORED)
    return batch
