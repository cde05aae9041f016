"""The command `evaluate`: score a model on a split, keep the predictions row by row."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch

from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, bind, load_model, load_tokenizer, set_up
from tasks.data.arrays import as_array
from tasks.kinds.kind import Array, Kind, Predictions
from tasks.metrics import make_metric, write_predictions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Padded tokens per batch: on a CPU small batches stay in its cache; a GPU needs large ones to be busy.
_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32_768, "mps": 8_192}
# Of rows of at most so many tokens a CPU takes more at once, and pads them to the longest alone: padding is work as any other.
# But each shape wants kernels of its own, and long rows, of which few are in a batch, come in more shapes, for less padding.
_SHORT = {"cpu": 128, "cuda": 0, "mps": 0}
_SHORT_TOKENS_PER_BATCH = 3072
# To write a token a CPU reads all weights, be it for one text or for many: so much larger are batches to write from.
_TEXTS_WRITTEN = 4
_ROWS_PER_BATCH = 1024
_NOT_MODEL_COLUMNS = ("row", "length")


def evaluate(
    channel: Channel,
    *,
    kind_name: str,
    settings: dict[str, Any],
    labels: list[str],
    dataset: str,
    tokens: str,
    model: str,
    output: str,
    trained: bool,
    seed: int,
    device: str,
    precision: str,
    allow_pickle: bool,
    remote_code: bool,
    calibration: dict[str, float] | None = None,
    own_labels: list[str] | None = None,
) -> dict[str, Any]:
    """Score a model on the test split; write what `write_predictions` does, and `samples.json`: what the model writes.

    `labels` are the dataset's classes, `own_labels` the model's if it was trained on another dataset; `calibration` is what was
    chosen for the model before, None chooses it on validation.
    """
    started = time.monotonic()
    kind, own = (bind(kind_name, settings, names) for names in (labels, own_labels or labels))
    hardware = Hardware.choose(device, precision)
    set_up(seed)
    tokenizer = load_tokenizer(Path(model), remote_code=remote_code)
    network, head = load_model(own, Path(model), tokenizer, trained=trained, allow_pickle=allow_pickle, remote_code=remote_code)
    if not trained:
        own.start(network, head, load_split(dataset, tokens, "train")[0])
    hardware.place(network)
    predictor = Predictor(own, tokenizer, hardware)
    if calibration is None:
        calibration = {}
        if kind.calibrated:
            held_out = load_split(dataset, tokens, "validation")
            calibration = kind.calibrate(predictor(network, *held_out), held_out[1])
    features, rows = load_split(dataset, tokens, "test")
    predictions = kind.decide(kind.adopt(predictor(network, features, rows, channel.progress), own.labels), calibration)
    sums = write_predictions(Path(output), kind, predictions, rows)
    _write_samples(Path(output) / "samples.json", own, network, tokenizer, rows, hardware)
    return {
        "metrics": score(kind, sums, len(rows)),
        "rows": len(rows),
        "head": head,
        "calibration": calibration,
        "device": str(hardware),
        "seconds": time.monotonic() - started,
    }


def load_split(dataset: str, tokens: str, split: str) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return the features and the rows of a split, from the folders of the tokens and of the dataset."""
    features, rows = (datasets.Dataset.load_from_disk(str(Path(folder) / split)) for folder in (tokens, dataset))
    return features, rows


def model_columns(features: datasets.Dataset) -> datasets.Dataset:
    """Return the columns that the collator takes."""
    return features.select_columns([name for name in features.column_names if name not in _NOT_MODEL_COLUMNS])


class Predictor:
    """Predicts rows, batched by length.

    Nothing is kept but the predictions: a batch's logits are reduced by `Kind.predict` before the next batch is read.
    """

    def __init__(self, kind: Kind, tokenizer: "PreTrainedTokenizerBase", hardware: Hardware) -> None:
        self.kind, self.tokenizer, self.hardware = kind, tokenizer, hardware
        self.collators = {size: kind.collator(tokenizer, train=False, pad_to_multiple_of=size) for size in (1, 8)}

    def __call__(
        self,
        model: "PreTrainedModel",
        features: datasets.Dataset,
        rows: datasets.Dataset,
        progress: Callable[..., None] = lambda *_, **__: None,
    ) -> Predictions:
        """Predict every row.

        Args:
            model: The model, on its device; left in the mode that it is in.
            features: What the rows became.
            rows: The rows, which `row` of the features counts.
            progress: Called with the features done and all features.
        """
        outputs: Array | None = None
        wanted, done, training = model_columns(features), 0, model.training
        model.eval()
        # Not `inference_mode`, in which autocast would turn the weights into bf16 anew for each batch.
        with torch.no_grad(), self.hardware.autocast():
            for positions in batch_positions(features, self.hardware, self.kind.writes):
                part = self.kind.predict(model, self.tokenizer, self._batch(wanted[positions]))
                if outputs is None:
                    outputs = np.zeros((len(features), *part.shape[1:]), part.dtype)
                outputs[positions] = part
                done += len(positions)
                progress(done, len(features))
        model.train(training)
        assert outputs is not None, "a split is never empty"
        return self.kind.gather(outputs, features, rows)

    def _batch(self, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        collate = self.collators[multiple_for(max(map(len, columns["input_ids"])), self.hardware)]
        batch = collate([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])
        return {name: value.to(self.hardware.device) for name, value in batch.items()}


def batch_positions(features: datasets.Dataset, hardware: Hardware, writes: int = 0) -> Iterator[Array]:
    """Yield the positions of all features in batches that suit the hardware, see `batches_by_length`, and `Kind.writes`."""
    lengths = as_array(features, "length")
    short = lengths <= _SHORT[hardware.device]
    tokens = np.where(short, _SHORT_TOKENS_PER_BATCH, _TOKENS_PER_BATCH[hardware.device])
    if writes and hardware.device == "cpu":
        tokens = tokens * max(1, _TEXTS_WRITTEN // writes)
    return batches_by_length(np.where(short, lengths, -(-lengths // 8) * 8), tokens, _ROWS_PER_BATCH)


def multiple_for(longest: int, hardware: Hardware) -> int:
    """Return to a multiple of how many tokens a batch is padded that is only predicted, by the tokens of its longest row."""
    return 1 if longest <= _SHORT[hardware.device] else 8


def batches_by_length(lengths: Array, tokens: Array, rows: int) -> Iterator[Array]:
    """Yield the positions of all rows in batches, the longest first.

    A batch has at most `rows` rows, and as many padded tokens as `tokens` says of its first row, or that row alone.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = int(min(rows, max(1, tokens[order[start]] // max(1, lengths[order[start]]))))
        yield order[start : start + size]
        start += size


def score(kind: Kind, sums: Array, rows: int) -> dict[str, float]:
    """Compute the kind's metrics through `evaluate`, from what `summed_statistics` returned of so many rows."""
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
        metric = make_metric(kind, scratch)
        metric.add(prediction=sums, reference=rows)
        result: dict[str, float] = metric.compute()
    return result


def _write_samples(
    path: Path, kind: Kind, model: "PreTrainedModel", tokenizer: Any, rows: datasets.Dataset, hardware: Hardware
) -> None:
    model.eval()
    with torch.no_grad(), hardware.autocast():
        samples = kind.samples(model, tokenizer, rows)
    path.write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
