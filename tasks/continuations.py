"""What a language model writes after the beginning of a text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.encoding.language import Marked, beginning, borders, tokenized
from tasks.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROMPT_TOKENS = 12


def continuations(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Mapping[str, Any]], tokens: int
) -> list[dict[str, str]]:
    """Return what the model writes, of each next token the most probable, after a row's prompt or the first words of its text.

    Args:
        model: A decoder.
        tokenizer: Its tokenizer.
        rows: By role, as `marked` takes them.
        tokens: Most tokens that it writes.
    """
    found = []
    for row in rows:
        try:
            text = beginning(tokenizer, row, _PROMPT_TOKENS)
        except DataError:
            continue  # a template may refuse a part of a conversation that it takes as a whole
        chat = "messages" in row and tokenizer.chat_template is not None
        (document,) = tokenized(tokenizer, [Marked(text, [(0, len(text))], templated=chat)], train=False)
        if document.ids:
            found.append({"id": str(row["id"]), "prompt": text, "text": _written(model, tokenizer, document.ids, tokens)})
    return found


def _written(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", ids: list[int], tokens: int) -> str:
    import torch
    from transformers import GenerationConfig

    writer: Any = model
    # What was said last matters most, and the model must have room for an answer, which half of what it takes is at most.
    tokens = max(1, min(tokens, tokenizer.model_max_length // 2))
    read = torch.tensor([ids[-max(1, tokenizer.model_max_length - tokens) :]], device=model.device)
    # In place of the model's own settings, which may punish repetition or sample.
    own = writer.generation_config
    writer.generation_config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=borders(tokenizer)[1],
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        written = writer.generate(input_ids=read, attention_mask=torch.ones_like(read))
    finally:
        writer.generation_config = own
    return str(tokenizer.decode(written[0, read.shape[1] :], skip_special_tokens=True))
