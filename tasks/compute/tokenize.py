"""The command `tokenize`: rows to token ids."""

import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tasks.compute.channel import Channel
from tasks.compute.models import check_max_length, load_tokenizer
from tasks.errors import DataError
from tasks.kinds import load_kind
from tasks.records import SPLITS


def tokenize(
    channel: Channel, *, kind_name: str, dataset: str, model: str, output: str, max_length: int, remote_code: bool
) -> dict[str, Any]:
    """Write one `datasets` folder per split with `id`, token ids, labels and `length` (tokens); return what was found.

    Returns:
        dict: split -> `rows`, `truncated` (rows) and `tokens` (minimum, quartiles, maximum after truncation).
    """
    kind = load_kind(kind_name)
    tokenizer = load_tokenizer(Path(model), remote_code=remote_code)
    check_max_length(tokenizer, max_length)
    datasets.disable_progress_bars()
    found: dict[str, Any] = {}

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        columns, truncated = kind.encode(tokenizer, batch, max_length)
        lengths = [len(ids) for ids in columns["input_ids"]]
        if 0 in lengths:
            raise DataError(
                f"Row {batch['id'][lengths.index(0)]!r} has no tokens: {batch['text'][lengths.index(0)]!r}; remove it."
            )
        return {**columns, "length": lengths, "truncated": truncated}

    for split in SPLITS:
        rows = datasets.Dataset.load_from_disk(str(Path(dataset) / split))
        with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
            encoded = rows.map(
                encode,
                batched=True,
                remove_columns=[name for name in rows.column_names if name != "id"],
                # A fingerprint of our own: the one by default hashes the function, slowly and not always rightly.
                new_fingerprint=split,
                cache_file_name=f"{scratch}/{split}.arrow",
            )
            truncated = sum(encoded["truncated"][:])
            lengths = np.array(encoded["length"][:])
            found[split] = {
                "rows": len(encoded),
                "truncated": truncated,
                "tokens": [float(value) for value in np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1])],
            }
            encoded.remove_columns("truncated").save_to_disk(str(Path(output) / split))
    return found
