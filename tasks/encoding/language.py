"""From rows to documents of tokens, of which each has a label where a language model is to predict it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tasks.encoding.conversations import ASSISTANT, Span, parse_messages, render
from tasks.encoding.conversations import prompt as conversation_prompt
from tasks.encoding.packing import Document
from tasks.encoding.padding import IGNORED
from tasks.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["completions", "everything"]
"""What is learnt and scored of a row with a prompt or a conversation: its completion or the assistant's messages, or all."""


_MOST_CHARACTERS = 50
"""Characters of a token that are looked at when a text is cut after so many tokens."""


@dataclass(frozen=True)
class Marked:
    """A text, and what of it is to be predicted."""

    text: str
    wanted: list[Span]
    templated: bool = False
    """Whether the model's chat template wrote it, with all that stands before and between the messages."""


def each_row(rows: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield rows that are given as columns, each by role."""
    return (dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True))


def marked(tokenizer: "PreTrainedTokenizerBase", row: Mapping[str, Any], loss_on: LossOn, *, train: bool) -> Marked:
    """Return a row as text.

    How the assistant's messages end is learnt too, so that the model stops there, but it is not scored.

    Args:
        tokenizer: Knows the chat template.
        row: By role: `text`; `prompt` and `completion`; or `messages`, as JSON.
        loss_on: What is to be predicted.
        train: Whether it is to be learnt, or else scored.

    Raises:
        DataError: the model's chat template refuses the messages.
    """
    if "messages" in row:
        messages = parse_messages(row["messages"])
        found = render(tokenizer, messages, row["id"])
        if loss_on == "everything":
            wanted = [(0, len(found.text))] if train else found.contents
        elif train:
            wanted = found.turns
        else:
            wanted = [span for span, message in zip(found.contents, messages, strict=True) if message["role"] == ASSISTANT]
        return Marked(found.text, wanted, templated=tokenizer.chat_template is not None)
    if "completion" in row:
        text = row["prompt"] + row["completion"]
        return Marked(text, [(len(row["prompt"]) if loss_on == "completions" else 0, len(text))])
    return Marked(row["text"], [(0, len(row["text"]))])


def scored_bytes(row: Mapping[str, Any], loss_on: LossOn) -> int:
    """Return the UTF-8 bytes of what is scored of a row."""
    if "messages" in row:
        messages = parse_messages(row["messages"])
        texts = [item["content"].strip() for item in messages if loss_on == "everything" or item["role"] == ASSISTANT]
    elif "completion" in row:
        texts = [row["completion"]] if loss_on == "completions" else [row["prompt"], row["completion"]]
    else:
        texts = [row["text"]]
    return sum(len(text.encode()) for text in texts)


def beginning(tokenizer: "PreTrainedTokenizerBase", row: Mapping[str, Any], tokens: int) -> str:
    """Return what a model is to go on with: a row's prompt, or the first so many tokens of a text."""
    if "messages" in row:
        return conversation_prompt(tokenizer, parse_messages(row["messages"]), row["id"])
    if "completion" in row:
        return str(row["prompt"])
    # No more than may be needed: a document may be a whole book.
    text = row["text"].strip()[: tokens * _MOST_CHARACTERS]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    if not tokenizer.is_fast:
        return str(tokenizer.decode(encoded["input_ids"][:tokens]))
    ends = [end for _, end in encoded["offset_mapping"][:tokens]]
    return str(text[: max(ends, default=0)])


def _ends_itself(tokenizer: "PreTrainedTokenizerBase", item: Marked) -> bool:
    """Tell whether a chat template wrote a text with a token of its own at its end."""
    return item.templated and item.text.rstrip().endswith(tuple(tokenizer.get_added_vocab()))


def borders(tokenizer: "PreTrainedTokenizerBase") -> tuple[int | None, int | None]:
    """Return the tokens that stand before and after a document, None where the tokenizer has none.

    A model that only knows an end-of-text token has seen documents after it: so the first token of a text can be predicted too.
    """
    begins = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id)
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    first: Any = next((token for token in begins if token is not None), None)
    last: Any = next((token for token in ends if token is not None), None)
    return first, last


def tokenized(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[Marked], *, train: bool) -> list[Document]:
    """Return texts as documents of tokens, between the tokens that stand before and, to learn where to stop, after a document.

    Raises:
        ModelError: the tokenizer cannot say which tokens are to be predicted.
    """
    whole = all(item.wanted == [(0, len(item.text))] for item in texts)
    if not whole and not tokenizer.is_fast:
        raise ModelError(
            f"The tokenizer is {type(tokenizer).__name__}, which does not say where in the text its tokens stand; "
            "set language.loss_on to 'everything', or choose a model with a fast tokenizer."
        )
    encoded = tokenizer(
        [item.text for item in texts],
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=not whole,
        verbose=False,
    )
    first, last = borders(tokenizer)
    documents = []
    for number, item in enumerate(texts):
        ids: list[int] = list(encoded["input_ids"][number])
        labels = ids if whole else _labels(ids, encoded["offset_mapping"][number], item.wanted)
        # A model is called with what its template writes, and nothing before that.
        begins = [] if first is None or item.templated else [first]
        ends = [last] if train and last is not None and not _ends_itself(tokenizer, item) else []
        learnt = ends if item.wanted and item.wanted[-1][1] == len(item.text) else [IGNORED] * len(ends)
        documents.append(Document([*begins, *ids, *ends], [*[IGNORED] * len(begins), *labels, *learnt]))
    return documents


def _labels(ids: list[int], offsets: Sequence[Span], wanted: Sequence[Span]) -> list[int]:
    """Return the ids of the tokens that reach into what is wanted; a token may stand on its border."""
    labels, spans = [], list(wanted)
    for token, (start, end) in zip(ids, offsets, strict=True):
        while spans and spans[0][1] <= start:
            spans.pop(0)
        labels.append(token if spans and start < spans[0][1] and max(end, start + 1) > spans[0][0] else IGNORED)
    return labels
