"""From documents to blocks: training packs several into each, evaluation cuts each one into windows of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.encoding.padding import IGNORED
from tasks.kinds.kind import Array

ISOLATING = frozenset(
    "bert electra gemma gpt2 gpt_neo gpt_neox gptj granite llama mistral olmo2 opt phi qwen2 qwen3 smollm3 stablelm".split()
)
"""Model types whose logits of a packed document equal those of the document alone, given `isolation`."""
# In place of minus infinity, of which a whole row would make no number.
_FAR = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Document:
    """A document's tokens, or some of them."""

    ids: list[int]
    labels: list[int]
    """Per token, its id where it is to be predicted out of those before it, else `IGNORED`."""


@dataclass(frozen=True)
class Block:
    """Pieces of documents, side by side."""

    ids: list[int]
    labels: list[int]
    parts: list[int]
    """Tokens of each piece that sees itself alone."""
    first: int
    """Number of the document that it begins with."""

    def add(self, ids: list[int], labels: list[int], *, isolated: bool) -> None:
        """Put a piece of a document behind the others; what cannot be predicted out of what it sees is not to be."""
        alone = isolated or not self.ids
        if alone:
            self.parts.append(len(ids))
        else:
            self.parts[-1] += len(ids)
        self.ids.extend(ids)
        self.labels.extend([IGNORED, *labels[1:]] if alone else labels)


def pack(documents: Iterable[Document], length: int, *, isolated: bool) -> list[Block]:
    """Fill blocks of `length` tokens with documents, in order; all tokens are kept, and only the last block may be shorter.

    A document that does not fit into the rest of a block goes on in the next one, where its first token cannot be predicted.

    Args:
        documents: The documents.
        length: Tokens of a block.
        isolated: Whether a document sees itself alone, else all of the block before it.
    """
    blocks: list[Block] = []
    for number, document in enumerate(documents):
        start = 0
        while start < len(document.ids):
            if not blocks or len(blocks[-1].ids) == length:
                blocks.append(Block([], [], [], number))
            size = min(length - len(blocks[-1].ids), len(document.ids) - start)
            blocks[-1].add(document.ids[start : start + size], document.labels[start : start + size], isolated=isolated)
            start += size
    return blocks


def pack_whole(documents: Iterable[Document], length: int, *, isolated: bool) -> list[Block]:
    """Fill blocks of up to `length` tokens with documents, each whole in the first block that has room for it.

    What is learnt of a completion hangs on its prompt, so that the two must not be parted. A document that is longer than a
    block fills blocks of its own, and what is left of it stands as another.

    Args:
        documents: The documents.
        length: Tokens of a block.
        isolated: Whether a document sees itself alone, else all of the block before it.

    Source: first-fit bin packing; Ding et al. 2024, Fewer Truncations Improve Language Modeling (arXiv 2404.10830).
    """
    blocks: list[Block] = []
    for number, document in enumerate(documents):
        for start in range(0, len(document.ids), length):
            ids = document.ids[start : start + length]
            block = next((block for block in blocks if len(block.ids) + len(ids) <= length), None)
            if block is None:
                block = Block([], [], [], number)
                blocks.append(block)
            block.add(ids, document.labels[start : start + length], isolated=isolated)
    return blocks


def cut(document: Document, length: int, repeated: int = 0) -> list[Document]:
    """Cut a document into windows of at most `length` tokens, in each of which only what is new is to be predicted.

    Args:
        document: The document.
        length: Tokens of a window.
        repeated: Tokens before it that each window but the first begins with; with none, its first token cannot be predicted.
    """
    windows = [Document(document.ids[:length], [IGNORED, *document.labels[1:length]])]
    start = length - repeated
    while start + repeated < len(document.ids):
        seen = max(1, repeated)
        labels = [IGNORED] * seen + document.labels[start + seen : start + length]
        windows.append(Document(document.ids[start : start + length], labels))
        start += length - repeated
    return windows


def isolation(parts: Sequence[Sequence[int]], width: int) -> tuple[Array, Array]:
    """Return what makes a decoder read each part of a block as if it stood alone.

    A block's parts may fill less than `width`; what is left attends to itself alone.

    Args:
        parts: Tokens of each part, per block.
        width: Tokens of a block with its padding.

    Returns:
        tuple: what is added to the attention scores, float32 of shape (blocks, 1, width, width): 0 where a token is seen; and
        positions, shape (blocks, width), from 0 in each part.
    """
    owners = np.tile(-1 - np.arange(width), (len(parts), 1))
    positions = np.zeros((len(parts), width), np.int64)
    for block, sizes in enumerate(parts):
        filled = sum(sizes)
        owners[block, :filled] = np.repeat(np.arange(len(sizes)), sizes)
        positions[block, :filled] = np.concatenate([np.arange(size) for size in sizes])
    seen = (owners[:, :, None] == owners[:, None, :]) & np.tri(width, dtype=bool)
    return np.where(seen, 0.0, _FAR).astype(np.float32)[:, None], positions


def isolates(config: Any, length: int) -> bool:
    """Tell whether models with this configuration read each part of a block of `length` tokens as if it stood alone.

    A mask of our own takes the place of a sliding window, which must not be shorter than the block therefore.
    """
    window = getattr(config, "sliding_window", None)
    slides = window is not None and getattr(config, "use_sliding_window", True) and window < length
    return config.model_type in ISOLATING and not slides
