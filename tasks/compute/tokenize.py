"""The command `tokenize`: rows to features."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tasks.compute.channel import Channel
from tasks.compute.collector import few_collections
from tasks.compute.models import bind, check_max_length, load_tokenizer
from tasks.data.arrays import as_array
from tasks.errors import DataError
from tasks.kinds.kind import Kind
from tasks.records import SPLITS, Split
from tasks.text import one_line


def tokenize(
    channel: Channel,
    *,
    kind_name: str,
    settings: dict[str, Any],
    labels: list[str],
    dataset: str,
    model: str,
    output: str,
    remote_code: bool,
    splits: Sequence[Split] = SPLITS,
) -> dict[str, Any]:
    """Write one `datasets` folder of features per split; return what was found.

    Its columns are those of `Encoded.features`, `row` (the position in the split of each feature's row) and `length` (tokens).

    Returns:
        dict: split -> `rows`, `features`, `truncated` (rows) and `tokens` (minimum, quartiles, maximum of the features' lengths).
    """
    kind = bind(kind_name, settings, labels)
    tokenizer = load_tokenizer(Path(model), remote_code=remote_code)
    check_max_length(tokenizer, kind.config.training.max_length)
    datasets.disable_progress_bars()
    found: dict[str, Any] = {}
    for split in splits:
        rows = datasets.Dataset.load_from_disk(str(Path(dataset) / split))
        truncated: list[int] = []
        encode = _encoder(kind, tokenizer, train=split == "train", truncated=truncated)
        with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
            features = to_features(rows, encode, Path(scratch) / f"{split}.arrow")
            if not len(features):
                raise DataError(f"No row of split {split!r} gives the model anything to read; give longer texts.")
            found[split] = {
                "rows": len(rows),
                "features": len(features),
                "truncated": sum(truncated),
                "tokens": [float(value) for value in np.quantile(as_array(features, "length"), [0, 0.25, 0.5, 0.75, 1])],
            }
            features.save_to_disk(str(Path(output) / split))
    return found


def to_features(
    rows: datasets.Dataset, encode: Callable[[dict[str, list[Any]], list[int]], dict[str, list[Any]]], path: Path
) -> datasets.Dataset:
    """Return what `encode` makes of batches of rows and their positions, in a file: features take many times a text's room."""
    with few_collections():
        return rows.map(
            encode,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            # A fingerprint of our own: the one by default hashes the function, slowly and not always rightly.
            new_fingerprint=path.stem,
            cache_file_name=str(path),
        )


def _encoder(kind: Kind, tokenizer: Any, *, train: bool, truncated: list[int]) -> Callable[..., dict[str, list[Any]]]:
    """Return the function of a batch of rows and their positions that makes its features, and adds to `truncated`."""

    def encode(batch: dict[str, list[Any]], positions: list[int]) -> dict[str, list[Any]]:
        encoded = kind.encode(tokenizer, batch, train=train)
        owners = encoded.rows if encoded.rows is not None else list(range(len(positions)))
        lengths = [len(ids) for ids in encoded.features["input_ids"]]
        if 0 in lengths:
            row = owners[lengths.index(0)]
            texts, _ = kind.shown_row({role: values[row] for role, values in batch.items()})
            raise DataError(f"Row {batch['id'][row]!r} has no tokens: {one_line(repr(texts[0]), 80)}; remove it.")
        truncated.append(sum(encoded.truncated))
        return {**encoded.features, "row": [positions[row] for row in owners], "length": lengths}

    return encode
