"""Tiny tokenizers of the classes that real models have, trained on the tests' own words; nothing is downloaded.

Words of the tests are tokens or a few of them, and whatever else is text can be told in bytes or letters, or is unknown, as the
class does it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from tests.helpers import COMMON, TOPICS

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS = [*COMMON, *(word for topic in TOPICS.values() for word in topic)]
_CORPUS = [" ".join(_WORDS), " ".join(reversed(_WORDS)), *_WORDS]


def make_tokenizer(name: str) -> Any:
    """Return a new tokenizer of the class that models of an architecture have."""
    return _MAKERS[name]()


def _wordpiece() -> dict[str, int]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *"0123456789.,:;?!'\"-()"]
    return _numbered([*special, *letters, *_WORDS])


@cache
def _byte_level(*special: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merges of a byte-level BPE, with `special` first."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


@cache
def _pieces(*special: str) -> list[tuple[str, float]]:
    """Return the pieces and scores of a unigram model, with `special` first."""
    words = [(f"▁{word}", -3.0 - number / 100) for number, word in enumerate(_WORDS)]
    letters = [(letter, -8.0) for letter in f"▁{LETTERS}{LETTERS.upper()}0123456789.,:;?!'\"-()"]
    return [*((token, 0.0) for token in special), *words, *letters]


@cache
def _sentencepiece_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merges of a BPE that falls back to bytes, as Llama's does."""
    words, merges, vocabulary = [f"▁{word}" for word in _WORDS], [], dict.fromkeys(["<unk>", "<s>", "</s>"])
    vocabulary |= dict.fromkeys([*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS])
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = None
                merges.append((word[: end - 1], word[end - 1]))
    return _numbered(list(vocabulary)), merges


def _bert() -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(vocab=_wordpiece(), do_lower_case=True, model_max_length=64)


def _distilbert() -> Any:
    from transformers import DistilBertTokenizer

    return DistilBertTokenizer(vocab=_wordpiece(), do_lower_case=True, model_max_length=64)


def _electra() -> Any:
    from transformers import ElectraTokenizer

    return ElectraTokenizer(vocab=_wordpiece(), do_lower_case=True, model_max_length=64)


def _roberta() -> Any:
    from transformers import RobertaTokenizer

    vocabulary, merges = _byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=64)


def _bart() -> Any:
    from transformers import BartTokenizer

    vocabulary, merges = _byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    return BartTokenizer(vocab=vocabulary, merges=merges, model_max_length=64)


def _modernbert() -> Any:
    """Return what ModernBERT's files are loaded as: the general class, with BERT's special tokens around a byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = _byte_level("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=64,
    )


def _deberta() -> Any:
    from transformers import DebertaV2Tokenizer

    return DebertaV2Tokenizer(vocab=list(_pieces("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")), unk_id=3, model_max_length=64)


def _gpt2() -> Any:
    from transformers import GPT2Tokenizer

    vocabulary, merges = _byte_level("<|endoftext|>")
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=64)


def _llama() -> Any:
    from transformers import LlamaTokenizer

    vocabulary, merges = _sentencepiece_bpe()
    return LlamaTokenizer(vocab=vocabulary, merges=merges, model_max_length=64)


def _qwen2() -> Any:
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token="<|im_end|>", model_max_length=64)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def _t5() -> Any:
    from transformers import T5Tokenizer

    extra = tuple(f"<extra_id_{number}>" for number in range(9, -1, -1))
    return T5Tokenizer(
        vocab=[*_pieces("<pad>", "</s>", "<unk>"), *((token, 0.0) for token in extra)], extra_ids=10, model_max_length=64
    )


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


_MAKERS: dict[str, Callable[[], Any]] = {
    "bert": _bert,
    "distilbert": _distilbert,
    "roberta": _roberta,
    "deberta-v2": _deberta,
    "modernbert": _modernbert,
    "electra": _electra,
    "gpt2": _gpt2,
    "gpt_neo": _gpt2,
    "llama": _llama,
    "qwen2": _qwen2,
    "t5": _t5,
    "bart": _bart,
}
