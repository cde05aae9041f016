"""Long contexts as overlapping windows: each is the question and a part of its context, with the characters behind its tokens.

Tokens count characters as Python does, by code point. A character that is written by several (a letter and its accent, an emoji
and its skin tone) is never cut.
Source: Devlin et al. 2019, BERT (arXiv 1810.04805), and its run_squad.py, for the windows; Unicode Standard Annex 29,
section 3.1, for what belongs to one character.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_CONTEXT = 8
"""Tokens of the context that a window must have room for."""
OUTSIDE = -1
"""In place of a character where a token is none of the context's."""

Span = tuple[int, int]
"""First character, and the one after the last."""

_BEYOND_LATIN = re.compile("[\u0300-\U0010ffff]")
_JOINER = "\u200d"
_SKIN_TONES = ("\U0001f3fb", "\U0001f3ff")


@dataclass(frozen=True)
class Piece:
    """Special tokens, or the tokens of a text, with the token type that the model takes there."""

    ids: list[int]
    type_id: int = 0


@dataclass(frozen=True)
class Layout:
    """What a tokenizer puts around a question and its context."""

    before: Piece
    between: Piece
    after: Piece
    question_type: int
    context_type: int
    has_types: bool
    """Whether the model takes token types."""
    null_from_end: bool
    """Whether the token that stands for no answer is the last one; else it is the first."""

    @property
    def size(self) -> int:
        """The number of special tokens."""
        return len(self.before.ids) + len(self.between.ids) + len(self.after.ids)


@dataclass(frozen=True)
class Window:
    """One input of the model."""

    input_ids: list[int]
    token_type_ids: list[int] | None
    char_starts: list[int]
    """Per token its first character in the context; `OUTSIDE` where it has none."""
    char_ends: list[int]
    """Per token the character after its last one; `OUTSIDE` where it has none."""
    null: int
    """Position of the token that stands for no answer."""
    shift: int
    """What a token's position here is more than its position in the context."""


def layout_of(tokenizer: "PreTrainedTokenizerBase") -> Layout:
    """Find out how a tokenizer joins a pair of texts, from a pair of short ones.

    Where it puts nothing between or after them, as that of most decoders, the end-of-text token is put there. The token that
    stands for no answer is a classifier's token at the front; without one it is the last token, which sees all others.

    Raises:
        ModelError: it cannot tell which characters a token stands for.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"Tokenizer {type(tokenizer).__name__!r} has no fast version, which answers need to know the characters of a token; "
            "set model.name to a model with a fast one."
        )
    pair = tokenizer("a", "b", return_token_type_ids=True)
    sides, ids, types = pair.sequence_ids(0), pair["input_ids"], pair["token_type_ids"]
    question, context = (range(sides.index(side), len(sides) - sides[::-1].index(side)) for side in (0, 1))
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def piece(start: int, stop: int, default: list[int], type_id: int) -> Piece:
        return Piece(ids[start:stop], types[start]) if start < stop else Piece(default, type_id)

    before = piece(0, question.start, [], 0)
    return Layout(
        before=before,
        between=piece(question.stop, context.start, end, types[question.start]),
        after=piece(context.stop, len(ids), end, types[context.start]),
        question_type=types[question.start],
        context_type=types[context.start],
        has_types="token_type_ids" in tokenizer.model_input_names,
        null_from_end=tokenizer.cls_token_id is None or tokenizer.cls_token_id not in before.ids,
    )


def windows_of(
    tokenizer: "PreTrainedTokenizerBase",
    layout: Layout,
    rows: Sequence[tuple[str, str, str]],
    *,
    max_length: int,
    overlap: int,
) -> list[list[Window]]:
    """Return the windows of each row, an `(id, question, context)`; one at least.

    Args:
        tokenizer: A fast one.
        layout: Its `layout_of`.
        rows: The rows.
        max_length: Tokens of a window at most.
        overlap: Tokens of the context that a window has in common with the one before; at most half of what it has room for.

    Raises:
        DataError: a question leaves no room for the context.
    """
    questions = _tokens(tokenizer, [question.strip() for _, question, _ in rows])
    distinct = list(dict.fromkeys(context for *_, context in rows))
    tokens = zip(distinct, _tokens(tokenizer, distinct), strict=True)
    contexts = {text: (ids, *_characters(text, spans)) for text, (ids, spans) in tokens}
    found = []
    for (name, question, context), (question_ids, _) in zip(rows, questions, strict=True):
        room = max_length - layout.size - len(question_ids)
        if room < LEAST_CONTEXT:
            raise DataError(
                f"Row {name!r}: its question, {question.strip()[:60]!r}, has {len(question_ids)} tokens, which leaves no room "
                f"for its context in windows of {max_length}; raise training.max_length or shorten the question."
            )
        ids, starts, ends = contexts[context]
        parts = window_ranges(len(ids), room, min(overlap, room // 2))
        found.append([_window(layout, question_ids, ids, starts, ends, part) for part in parts])
    return found


def window_ranges(length: int, room: int, overlap: int) -> list[range]:
    """Return which of `length` tokens each window of `room` tokens holds, so that neighbours share `overlap` of them."""
    step = room - overlap
    return [range(start, min(start + room, length)) for start in range(0, max(1, length - overlap), step)]


def answer_positions(windows: Sequence[Window], answer: Span | None) -> list[Span | None]:
    """Return per window of one row the positions of the answer's first and last token.

    Where the window lacks a part of the answer, or there is none, both are the position of the token that stands for no answer;
    where no window has all of it, there is nothing to learn from any: None.
    """
    if answer is None:
        return [(window.null, window.null) for window in windows]
    touched = [_touched(window, answer) for window in windows]
    places = {place for window in touched for place in window}
    whole = [bool(window) and (window[0], window[-1]) == (min(places), max(places)) for window in touched]
    if not any(whole):
        return [None] * len(windows)
    return [
        (found[0] + window.shift, found[-1] + window.shift) if is_whole else (window.null, window.null)
        for window, found, is_whole in zip(windows, touched, whole, strict=True)
    ]


def _touched(window: Window, answer: Span) -> list[int]:
    """Return the positions in the context of a window's tokens that have characters of the answer."""
    spans = zip(window.char_starts, window.char_ends, strict=True)
    return [
        place - window.shift
        for place, (start, end) in enumerate(spans)
        if start != OUTSIDE and start < answer[1] and end > answer[0]
    ]


def _tokens(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[tuple[list[int], list[Span]]]:
    """Return the ids and the characters of each text's tokens, without special ones."""
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))


def _characters(text: str, spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """Return first and last characters of tokens, without spaces around them and with all that belongs to these characters."""
    joined = _joined(text)
    starts, ends = [], []
    for first, last in spans:
        start, end = first, last
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start < end:
            while start in joined:
                start -= 1
            while end in joined:
                end += 1
        starts.append(start if start < end else OUTSIDE)
        ends.append(end if start < end else OUTSIDE)
    return starts, ends


def _joined(text: str) -> set[int]:
    """Return the places in a text of code points that belong to the one before: marks, skin tones, joiners and what they join."""
    return {
        match.start()
        for match in ([] if text.isascii() else _BEYOND_LATIN.finditer(text))
        if match.start()
        and (
            unicodedata.category(match[0])[0] == "M"
            or match[0] == _JOINER
            or _SKIN_TONES[0] <= match[0] <= _SKIN_TONES[1]
            or (text[match.start() - 1] == _JOINER and unicodedata.category(match[0])[0] == "S")
        )
    }


def _window(layout: Layout, question: list[int], ids: list[int], starts: list[int], ends: list[int], part: range) -> Window:
    pieces = (
        layout.before,
        Piece(question, layout.question_type),
        layout.between,
        Piece(ids[part.start : part.stop], layout.context_type),
        layout.after,
    )
    input_ids = [token for piece in pieces for token in piece.ids]
    lead = [OUTSIDE] * (len(layout.before.ids) + len(question) + len(layout.between.ids))
    tail = [OUTSIDE] * len(layout.after.ids)
    return Window(
        input_ids=input_ids,
        token_type_ids=[piece.type_id for piece in pieces for _ in piece.ids] if layout.has_types else None,
        char_starts=[*lead, *starts[part.start : part.stop], *tail],
        char_ends=[*lead, *ends[part.start : part.stop], *tail],
        null=len(input_ids) - 1 if layout.null_from_end else 0,
        shift=len(lead) - part.start,
    )
