"""Features of models that write text: a text and its target for encoder-decoders, a prompt and its completion for decoders."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.encoding.padding import IGNORED, truncated_rows
from tasks.errors import ConfigError
from tasks.generators import DOCUMENT, end_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    truncated = truncated_rows(sources, max_length)
    features: Features = {"input_ids": sources["input_ids"]}
    if targets is not None:
        # A tokenizer may cut beginnings; a target without its own would teach the model to begin in the middle.
        side, tokenizer.truncation_side = tokenizer.truncation_side, "right"
        encoded = tokenizer(text_target=list(targets), truncation=True, max_length=max_target_length)
        tokenizer.truncation_side = side
        features["labels"] = encoded["input_ids"]
        truncated = [either or other for either, other in zip(truncated, truncated_rows(encoded, max_target_length), strict=True)]
    return features, truncated


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
    """Return the text of the first tokens, whichever end the tokenizer itself would cut."""
    if count < 1:
        return ""
    encoded = tokenizer([text], add_special_tokens=False, verbose=False)
    if encoded.is_fast:
        return text[: max((end for _, end in encoded.encodings[0].offsets[:count]), default=0)]
    return str(tokenizer.decode(encoded["input_ids"][0][:count], skip_special_tokens=True))


def _prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """Return the tokens of a prompt, without the end token that some tokenizers add: the model must go on."""
    ids: list[int] = tokenizer(prompt)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def _completion_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, prompt_ids: list[int], target: str) -> list[int]:
    """Return the tokens of a target after a prompt: as the model sees both together, if their border is kept.

    A space is put between them unless the prompt ends in space, such as a line break.
    """
    target = target if prompt[-1:].isspace() else f" {target}"
    both = _prompt_ids(tokenizer, f"{prompt}{target}")
    if both[: len(prompt_ids)] == prompt_ids:
        return both[len(prompt_ids) :]
    ids: list[int] = tokenizer(target, add_special_tokens=False)["input_ids"]
    return ids
