"""Packing and cutting: no token lost, none predicted twice, and packed documents read as if they stood alone."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tasks.encoding.packing import ISOLATING, Document, cut, isolates, isolation, pack, pack_whole
from tasks.encoding.padding import IGNORED

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
OWN: dict[str, dict[str, Any]] = {
    "gpt_neo": {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "gptj": {"rotary_dim": 8},
    "electra": {"embedding_size": 32, "is_decoder": True},
    "bert": {"is_decoder": True},
    "gemma": {"head_dim": 16},
    "qwen3": {"head_dim": 16},
}


def document(ids: range) -> Document:
    return Document(list(ids), [IGNORED, *ids[1:]])


def drawn(seed: int, count: int) -> tuple[list[Document], np.ndarray]:
    """Return documents whose tokens count on from one to the next, and where each ends."""
    sizes = np.random.default_rng(seed).integers(1, 40, count)
    ends = np.cumsum(sizes)
    return [document(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)], ends


DOCUMENTS = [document(range(10, 17)), document(range(20, 21)), document(range(30, 42)), document(range(50, 59))]


def decoder(model_type: str) -> Any:
    torch.manual_seed(0)
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(model_type, **SIZES | tokens | OWN.get(model_type, {}))
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = config.num_attention_heads
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", sorted(ISOLATING))
def test_a_packed_document_has_the_logits_of_the_document_alone(model_type: str, attention: str) -> None:
    model = decoder(model_type)
    if model_type != "gpt_neo":  # it has one of its own
        model.set_attn_implementation(attention)
    blocks = pack(DOCUMENTS, 20, isolated=True)
    mask, positions = isolation([block.parts for block in blocks], 20)
    ids = torch.tensor([block.ids + [0] * (20 - len(block.ids)) for block in blocks])
    with torch.inference_mode():
        packed = model(input_ids=ids, attention_mask=torch.from_numpy(mask), position_ids=torch.from_numpy(positions)).logits
        for block, logits in zip(blocks, packed, strict=True):
            ends = list(itertools.accumulate(block.parts))
            for start, end in zip([0, *ends], ends, strict=False):
                alone = model(input_ids=torch.tensor([block.ids[start:end]])).logits[0]
                torch.testing.assert_close(logits[start:end], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_blocks_hold_every_token_once_and_are_full_but_for_the_last(seed: int, isolated: bool) -> None:
    documents, ends = drawn(seed, 30)
    blocks = pack(documents, 16, isolated=isolated)
    assert list(itertools.chain.from_iterable(block.ids for block in blocks)) == list(range(ends[-1]))
    assert {len(block.ids) for block in blocks[:-1]} == {16}
    assert all(sum(block.parts) == len(block.ids) == len(block.labels) for block in blocks)
    for block in blocks:
        assert all(label in (IGNORED, token) for token, label in zip(block.ids, block.labels, strict=True))
        starts = {0, *itertools.accumulate(block.parts[:-1])}
        if isolated:
            assert {place for place, label in enumerate(block.labels) if label == IGNORED} == starts
            assert all(block.ids[start] in ends for start in starts if start), "pieces but the first begin with a document"
        else:
            assert block.parts == [len(block.ids)]
            assert block.labels[0] == IGNORED


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_documents_that_fit_into_a_block_are_packed_whole(seed: int, isolated: bool) -> None:
    documents, ends = drawn(seed, 60)
    blocks = pack_whole(documents, 16, isolated=isolated)
    assert sorted(token for block in blocks for token in block.ids) == list(range(ends[-1]))
    assert all(sum(block.parts) == len(block.ids) == len(block.labels) <= 16 for block in blocks)
    places = {token: number for number, block in enumerate(blocks) for token in block.ids}
    for whole in documents:
        assert len({places[token] for token in whole.ids}) == -(-len(whole.ids) // 16)
    for block in blocks:
        assert block.ids[0] in documents[block.first].ids
        starts = {0, *itertools.accumulate(block.parts[:-1])} if isolated else {0}
        assert starts <= {place for place, label in enumerate(block.labels) if label == IGNORED}
    # A block is begun only where no other has room.
    assert ends[-1] / (16 * len(blocks)) > 0.85


def test_a_long_document_goes_on_in_the_next_block() -> None:
    first, second = pack([document(range(3)), document(range(100, 110))], 8, isolated=True)
    assert (first.ids, first.parts) == ([0, 1, 2, 100, 101, 102, 103, 104], [3, 5])
    assert (second.ids, second.parts) == ([105, 106, 107, 108, 109], [5])
    assert second.labels == [IGNORED, 106, 107, 108, 109]


@pytest.mark.parametrize("repeated", [0, 1, 4, 7])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 12, 15, 16, 17, 40])
def test_windows_predict_each_token_once(size: int, repeated: int) -> None:
    windows = cut(document(range(size)), 8, repeated)
    assert all(1 <= len(window.ids) == len(window.labels) <= 8 for window in windows)
    predicted = [label for window in windows for label in window.labels if label != IGNORED]
    first = {0} if repeated else set(range(0, size, 8))
    assert predicted == [token for token in range(size) if token not in first]
    for before, after in itertools.pairwise(windows):
        assert after.ids[:repeated] == before.ids[8 - repeated :]


def test_what_is_not_learnt_stays_so() -> None:
    half = Document(list(range(20)), [IGNORED] * 10 + list(range(10, 20)))
    labels = [label for block in pack([half], 8, isolated=True) for label in block.labels if label != IGNORED]
    assert labels == [10, 11, 12, 13, 14, 15, 17, 18, 19], "16 begins a block"
    assert [label for window in cut(half, 8, 4) for label in window.labels if label != IGNORED] == list(range(10, 20))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model_type": "llama"}, True),
        ({"model_type": "mistral", "sliding_window": None}, True),
        ({"model_type": "mistral", "sliding_window": 64}, True),
        ({"model_type": "mistral", "sliding_window": 63}, False),
        ({"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": False}, True),
        ({"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": True}, False),
        ({"model_type": "mamba"}, False),
        ({"model_type": "roberta"}, False),
    ],
)
def test_only_architectures_that_were_tried_are_packed(settings: dict[str, Any], expected: bool) -> None:
    assert isolates(SimpleNamespace(**settings), 64) is expected
