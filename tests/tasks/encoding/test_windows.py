"""Windows: every token is in one, every short answer whole in one, and their characters are those of the context."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tasks.encoding.windows import OUTSIDE, Window, answer_positions, layout_of, window_ranges, windows_of
from tasks.errors import DataError, ModelError
from tests.helpers import make_decoder, make_encoder

TEXTS = {
    "emoji": "I 😀 love 👩‍👩‍👧 and 👍🏽 in Paris ❤️ !",
    "marks": "Cafe\u0301 nai\u0308ve re\u0301sume\u0301 Vie\u0323\u0302t",
    "cjk": "東京は日本の首都です。人口は約1400万人。",
    "devanagari": "हिन्दी भारत की भाषा है",
    "mixed": "Zürich (ﬁne) 6½ sacks\u00a0— 𝒳 = ℵ₀\tİstanbul  two  spaces",
}


def byte_level(add_prefix_space: bool = True) -> Any:
    """A tokenizer like GPT-2's: its tokens are of single bytes, so each character beyond ASCII is several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [], trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def uncased() -> Any:
    """A tokenizer like uncased BERT's: it drops accents, and takes each Chinese character for a word."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def metaspace() -> Any:
    """A tokenizer like T5's: spaces belong to the word after them, and one end-of-text token follows each text."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {"byte-level": byte_level, "uncased": uncased, "metaspace": metaspace}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(make_encoder(tmp_path_factory.mktemp("words")))


def cut(tokenizer: Any, question: str, context: str, max_length: int = 24, overlap: int = 4) -> list[Window]:
    return windows_of(tokenizer, layout_of(tokenizer), [("7", question, context)], max_length=max_length, overlap=overlap)[0]


def pieces(window: Window, context: str) -> list[str]:
    return [context[start:end] for start, end in zip(window.char_starts, window.char_ends, strict=True) if start != OUTSIDE]


@pytest.mark.parametrize(("length", "room", "overlap"), [(0, 8, 2), (8, 8, 2), (9, 8, 2), (100, 8, 0), (100, 9, 4), (57, 20, 10)])
def test_ranges_hold_all_tokens_and_every_run_as_long_as_the_overlap_whole(length: int, room: int, overlap: int) -> None:
    ranges = window_ranges(length, room, overlap)
    assert all(len(part) <= room for part in ranges)
    assert {token for part in ranges for token in part} == set(range(length))
    assert all(left.stop - right.start == overlap for left, right in pairwise(ranges))
    for start in range(length - overlap):
        assert any(set(range(start, start + overlap + 1)) <= set(part) for part in ranges)


def test_ranges_are_no_more_than_needed() -> None:
    assert window_ranges(8, 8, 2) == [range(8)]
    assert window_ranges(14, 8, 2) == [range(8), range(6, 14)]
    assert window_ranges(0, 8, 2) == [range(0)]


def test_one_window_is_what_the_tokenizer_makes_of_the_pair(words: Any) -> None:
    (window,) = cut(words, "  coach of the match  ", "the player said stock", max_length=32)
    expected = words("coach of the match", "the player said stock", return_token_type_ids=True)
    assert window.input_ids == expected["input_ids"]
    assert window.token_type_ids is None or window.token_type_ids == expected["token_type_ids"]
    assert window.null == 0
    assert pieces(window, "the player said stock") == ["the", "player", "said", "stock"]


def test_token_types_are_given_to_models_that_take_them(words: Any) -> None:
    words.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    (window,) = cut(words, "coach", "the player")
    assert window.token_type_ids == words("coach", "the player", return_token_type_ids=True)["token_type_ids"]
    assert 1 in window.token_type_ids


def test_a_decoders_pair_gets_ends_and_its_last_token_stands_for_no_answer(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(make_decoder(tmp_path))
    (window,) = cut(tokenizer, "coach", "the player")
    end = tokenizer.eos_token_id
    assert window.input_ids == [*tokenizer("coach")["input_ids"], end, *tokenizer("the player")["input_ids"], end]
    assert window.null == len(window.input_ids) - 1


def test_the_end_that_a_tokenizer_adds_is_not_added_twice() -> None:
    tokenizer = metaspace()
    (window,) = cut(tokenizer, "who", "he did")
    assert window.input_ids == tokenizer("who", "he did")["input_ids"]
    assert window.null == len(window.input_ids) - 1


def test_windows_overlap_and_repeat_the_question(words: Any) -> None:
    context = " ".join(f"the{number}" for number in range(40))
    windows = cut(words, "coach of the match", context, max_length=20, overlap=3)
    assert len(windows) > 3
    assert all(len(window.input_ids) <= 20 for window in windows)
    assert all(window.input_ids[:6] == windows[0].input_ids[:6] for window in windows)
    texts = [pieces(window, context) for window in windows]
    assert all(left[-3:] == right[:3] for left, right in pairwise(texts))
    assert [text for number, part in enumerate(texts) for text in part[3 * (number > 0) :]] == context.split()


@pytest.mark.parametrize("script", TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_stand_for_whole_characters_of_the_context(name: str, script: str) -> None:
    context = TEXTS[script]
    windows = cut(TOKENIZERS[name](), "who?", context, max_length=256)
    found = pieces(windows[0], context)
    assert found, "each text has tokens"
    for piece in found:
        assert piece == piece.strip()
        assert piece
    # Every character that is no space is somebody's.
    spans = [span for span in zip(windows[0].char_starts, windows[0].char_ends, strict=True) if span[0] != OUTSIDE]
    covered = {place for start, end in spans for place in range(start, end)}
    assert {place for place, sign in enumerate(context) if not sign.isspace()} <= covered
    # None ends within a letter and its marks, or within an emoji of several.
    for start, end in spans:
        for border in (start, end):
            assert border == len(context) or context[border] not in "\u0301\u0308\u0323\u0302\u200d\ufe0f\U0001f3fd"
            assert border == 0 or context[border - 1] != "\u200d"


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("emoji", "👩‍👩‍👧"),
        ("emoji", "Paris"),
        ("emoji", "👍🏽"),
        ("marks", "nai\u0308ve"),
        ("marks", "re\u0301sume\u0301 Vie\u0323\u0302t"),
        ("devanagari", "भारत"),
    ],
)
def test_the_answers_tokens_lead_back_to_the_answer(name: str, script: str, answer: str) -> None:
    context = TEXTS[script]
    start = context.index(answer)
    windows = cut(TOKENIZERS[name](), "who?", context, max_length=256)
    (place,) = answer_positions(windows, (start, start + len(answer)))
    assert place is not None
    assert context[windows[0].char_starts[place[0]] : windows[0].char_ends[place[1]]] == answer


def test_chinese_answers_lead_back_too_where_characters_are_words() -> None:
    context = TEXTS["cjk"]
    start = context.index("日本")
    (window,) = cut(uncased(), "どこ?", context, max_length=256)
    (place,) = answer_positions([window], (start, start + 2))
    assert place is not None
    assert context[window.char_starts[place[0]] : window.char_ends[place[1]]] == "日本"


def test_an_answer_is_learnt_where_it_is_whole_and_elsewhere_that_there_is_none(words: Any) -> None:
    context = " ".join(f"the{number}" for number in range(40))
    windows = cut(words, "coach of the match", context, max_length=20, overlap=3)
    for answer in ("the0", "the12 the13", "the39", "the9 the10 the11"):
        start = context.index(answer)
        found = answer_positions(windows, (start, start + len(answer)))
        texts = set()
        for place, window in zip(found, windows, strict=True):
            assert place is not None
            if place != (window.null, window.null):
                texts.add(context[window.char_starts[place[0]] : window.char_ends[place[1]]])
            else:
                assert answer not in " ".join(pieces(window, context))
        assert texts == {answer}


def test_no_answer_is_the_null_token_in_every_window(words: Any) -> None:
    windows = cut(words, "coach", "the match " * 30, max_length=20)
    assert answer_positions(windows, None) == [(0, 0)] * len(windows)


def test_an_answer_longer_than_every_window_is_nothing_to_learn_from(words: Any) -> None:
    context = "the match " * 30
    windows = cut(words, "coach", context, max_length=20)
    assert answer_positions(windows, (0, len(context))) == [None] * len(windows)


def test_a_question_as_long_as_the_window_is_refused_with_its_row(words: Any) -> None:
    with pytest.raises(DataError, match=r"Row '7': its question, 'the the .*', has 30 tokens, .* raise training\.max_length"):
        cut(words, "the " * 30, "coach", max_length=32)


def test_a_long_question_makes_windows_overlap_less_rather_than_never_end(words: Any) -> None:
    windows = cut(words, "the " * 11, "match " * 50, max_length=24, overlap=20)
    assert 1 < len(windows) < 20


def test_a_tokenizer_that_knows_no_characters_is_refused() -> None:
    with pytest.raises(ModelError, match="no fast version"):
        layout_of(SimpleNamespace(is_fast=False))
