"""The command `evaluate`: score a model on a split, keep the predictions row by row."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, load_model, load_tokenizer, set_up
from tasks.kinds import load_kind
from tasks.kinds.kind import Array, Kind
from tasks.metrics import make_metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Padded tokens per batch: on a CPU small batches stay in its cache; a GPU needs large ones to be busy.
_TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 32_768, "mps": 8_192}
_ROWS_PER_BATCH = 1024
_CHUNK_ROWS = 10_000
MODEL_COLUMNS = ("input_ids", "token_type_ids", "labels")


def evaluate(
    channel: Channel,
    *,
    kind_name: str,
    dataset: str,
    model: str,
    output: str,
    trained: bool,
    labels: list[str],
    seed: int,
    device: str,
    precision: str,
    allow_pickle: bool,
    remote_code: bool,
) -> dict[str, Any]:
    """Score a model on the test split and write `predictions.parquet` with its rows in their order.

    Its columns are `id`, `label`, `prediction` and `probabilities`, (classes,) in the order of `labels`.
    """
    started = time.monotonic()
    kind = load_kind(kind_name)
    hardware = Hardware.choose(device, precision)
    set_up(seed)
    tokenizer = load_tokenizer(Path(model), remote_code=remote_code)
    network, head = load_model(
        kind, Path(model), tokenizer, labels, trained=trained, allow_pickle=allow_pickle, remote_code=remote_code
    )
    network.to(hardware.device)  # type: ignore[arg-type]
    rows = datasets.Dataset.load_from_disk(str(Path(dataset) / "test"))
    predictions = predict_rows(kind, network, rows, kind.collator(tokenizer), hardware, channel.progress)
    references = np.array(rows["labels"][:])
    metrics = score(kind, predictions, references, labels)
    _write(Path(output) / "predictions.parquet", rows["id"][:], references, predictions, labels)
    return {
        "metrics": metrics,
        "rows": len(rows),
        "head": head,
        "device": str(hardware),
        "seconds": time.monotonic() - started,
    }


def predict_rows(
    kind: Kind,
    model: "PreTrainedModel",
    rows: datasets.Dataset,
    collator: Callable[[list[dict[str, Any]]], Any],
    hardware: Hardware,
    progress: Callable[..., None] = lambda *_, **__: None,
) -> Array:
    """Predict every row, batched by length, and return the predictions in the rows' order, shape (rows, …).

    Nothing is kept but the predictions: a batch's logits are reduced by `Kind.predict` before the next batch is read.
    """
    lengths = np.array(rows["length"][:])
    wanted = rows.select_columns([name for name in MODEL_COLUMNS if name in rows.column_names])
    kept: Array | None = None
    done = 0
    training = model.training
    model.eval()
    with torch.inference_mode(), hardware.autocast():
        for positions in batches_by_length(lengths, _TOKENS_PER_BATCH[hardware.device], _ROWS_PER_BATCH):
            columns = wanted[positions]
            batch = collator([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])
            part = kind.predict(model, {name: value.to(hardware.device) for name, value in batch.items()})
            if kept is None:
                kept = np.zeros((len(rows), *part.shape[1:]), part.dtype)
            kept[positions] = part
            done += len(positions)
            progress(done, len(rows))
    model.train(training)
    assert kept is not None, "a split is never empty"
    return kept


def batches_by_length(lengths: Array, tokens: int, rows: int) -> Iterator[Array]:
    """Yield the positions of all rows in batches of at most `tokens` padded tokens and `rows` rows, the longest first.

    A row longer than `tokens` is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = int(min(rows, max(1, tokens // max(1, lengths[order[start]]))))
        yield order[start : start + size]
        start += size


def score(kind: Kind, predictions: Array, references: Array, labels: Sequence[str]) -> dict[str, float]:
    """Compute the kind's metrics through `evaluate`, in chunks: rows wait on disk, not in memory."""
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
        metric = make_metric(kind, labels, scratch)
        for start in range(0, len(references), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            metric.add_batch(predictions=predictions[chunk], references=references[chunk])
        result: dict[str, float] = metric.compute()
    return result


def _write(path: Path, ids: list[str], references: Array, predictions: Array, labels: Sequence[str]) -> None:
    names = pa.array(labels, pa.string())
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("label", pa.dictionary(pa.int32(), pa.string())),
            ("prediction", pa.dictionary(pa.int32(), pa.string())),
            ("probabilities", pa.list_(pa.float32())),
        ],
        metadata={"labels": "\n".join(label.replace("\n", " ") for label in labels)},
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(ids), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            writer.write_table(
                pa.table(
                    [
                        pa.array(ids[chunk], pa.string()),
                        pa.DictionaryArray.from_arrays(pa.array(references[chunk], pa.int32()), names),
                        pa.DictionaryArray.from_arrays(pa.array(predictions[chunk].argmax(1), pa.int32()), names),
                        pa.array(list(predictions[chunk].astype(np.float32)), pa.list_(pa.float32())),
                    ],
                    schema=schema,
                )
            )
