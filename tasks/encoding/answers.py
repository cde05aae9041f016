"""Questions, contexts and answers as features: to learn where answers are, or to find them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.encoding.windows import Span, Window, answer_positions, layout_of, windows_of
from tasks.kinds.kind import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_answers(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[tuple[str, str, str]],
    answers: Sequence[Span | None] | None,
    *,
    max_length: int,
    overlap: int,
) -> Encoded:
    """Cut rows into windows, as features.

    To learn from, they have `start_positions` and `end_positions`; rows whose answer is whole in no window have no features, and
    count as truncated. To find answers, features have `char_starts`, `char_ends` and `null_position`, see `Window`.

    Args:
        tokenizer: A fast one.
        rows: `(id, question, context)`.
        answers: Per row the characters of the answer to learn, None where there is none; None instead of all: answers are to be
            found.
        max_length: Tokens of a window at most.
        overlap: Tokens of the context that two windows have in common.

    Raises:
        DataError: a question leaves no room for the context.
        ModelError: the tokenizer is not a fast one.
    """
    windows = windows_of(tokenizer, layout_of(tokenizer), rows, max_length=max_length, overlap=overlap)
    if answers is None:
        every = [window for own in windows for window in own]
        features: dict[str, list[Any]] = {
            **_inputs(every),
            "char_starts": [window.char_starts for window in every],
            "char_ends": [window.char_ends for window in every],
            "null_position": [window.null for window in every],
        }
        return Encoded(features, [False] * len(rows), [row for row, own in enumerate(windows) for _ in own])
    kept = [
        (row, window, place)
        for row, (own, answer) in enumerate(zip(windows, answers, strict=True))
        for window, place in zip(own, answer_positions(own, answer), strict=True)
        if place is not None
    ]
    owners = [row for row, *_ in kept]
    features = {
        **_inputs([window for _, window, _ in kept]),
        "start_positions": [start for *_, (start, _) in kept],
        "end_positions": [end for *_, (_, end) in kept],
    }
    learnt = set(owners)
    return Encoded(features, [row not in learnt for row in range(len(rows))], owners)


def _inputs(windows: Sequence[Window]) -> dict[str, list[Any]]:
    """Return the columns that the model takes."""
    types = [window.token_type_ids for window in windows if window.token_type_ids is not None]
    return {"input_ids": [window.input_ids for window in windows], **({"token_type_ids": types} if types else {})}
