"""What a language model writes after the beginning of a text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.encoding.language import Marked, beginning, borders, tokenized

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
    import torch

    writer: Any = model
    last, found = borders(tokenizer)[1], []
    for row in rows:
        text = beginning(tokenizer, row, _PROMPT_TOKENS)
        chat = "messages" in row and tokenizer.chat_template is not None
        (document,) = tokenized(tokenizer, [Marked(text, [(0, len(text))], ended=chat)], train=False)
        # What was said last matters most, and the model must have room for an answer.
        read = document.ids[-max(1, tokenizer.model_max_length - tokens) :]
        ids = torch.tensor([read], device=model.device)
        written = writer.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=last,
            pad_token_id=tokenizer.pad_token_id,
        )
        found.append({"prompt": text, "text": str(tokenizer.decode(written[0, len(read) :], skip_special_tokens=True))})
    return found
