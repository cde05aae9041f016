"""The command `zero_shot`: score a causal language model that was never trained to classify."""

import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tasks.baselines.scores import score
from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, bind, load_model, load_tokenizer, set_up
from tasks.compute.predict import Predictor
from tasks.encoding.texts import encode_prompts
from tasks.errors import ModelError
from tasks.kinds.causal_lm import KIND as READER
from tasks.kinds.kind import Array, Rows
from tasks.metrics import CHUNK_ROWS

TEMPLATE = "{document}\nCategory:"
"""What a class's name is put after, with a space."""


def zero_shot(
    channel: Channel,
    *,
    kind_name: str,
    settings: dict[str, Any],
    labels: list[str],
    dataset: str,
    model: str,
    output: str,
    seed: int,
    device: str,
    precision: str,
    allow_pickle: bool,
    remote_code: bool,
) -> dict[str, Any]:
    """Score the model on the test split; write what `score` does, and return `Scores` as a dict.

    A class's probability is the softmax, over the classes, of the mean log likelihood of its name's tokens after the text.

    Raises:
        ModelError: the model's files have no weights to predict the next token with.
    """
    started = time.monotonic()
    hardware = Hardware.choose(device, precision)
    set_up(seed)
    kind = bind(kind_name, settings, labels)
    reader = bind(READER.name, {})
    tokenizer = load_tokenizer(Path(model), remote_code=remote_code)
    network, head = load_model(reader, Path(model), tokenizer, trained=False, allow_pickle=allow_pickle, remote_code=remote_code)
    if head != "pretrained":
        raise ModelError(f"Model {model!r} has no weights to predict the next token with.")
    hardware.place(network)
    predictor = Predictor(reader, tokenizer, hardware)
    rows, found, read = datasets.Dataset.load_from_disk(str(Path(dataset) / "test")), [], 0
    for batch in rows.iter(CHUNK_ROWS):
        features = _features(tokenizer, batch, labels, kind.config.training.max_length)

        def progress(done: int, _: int, before: int = read) -> None:
            channel.progress(before + done, len(rows) * len(labels))

        found.append(_probabilities(predictor(network, features, features, progress), len(labels)))
        read += len(features)
    predictions = kind.gather(np.concatenate(found), rows, rows)
    return score(Path(output), kind, predictions, rows, device=str(hardware), started=started).model_dump()


def _features(tokenizer: Any, batch: Rows, labels: list[str], max_length: int) -> datasets.Dataset:
    """Return a feature per class and row, class by class: the text, cut where it is too long, and the class's name."""
    names = [label.replace("_", " ").strip() for label in labels]
    longest = max(len(ids) for ids in tokenizer([f" {name}" for name in names], add_special_tokens=False)["input_ids"]) + 1
    room = min(max_length, tokenizer.model_max_length - longest)
    parts = [batch[name] for name in ("text", "pair") if name in batch]
    texts = ["\n".join(both) for both in zip(*parts, strict=True)]
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": []}
    for name in names:
        encoded, _ = encode_prompts(
            tokenizer, TEMPLATE, texts, [name] * len(texts), max_length=room, max_target_length=longest + 1
        )
        for column, values in columns.items():
            # Without the end token: a name is not to be likely because texts end after it.
            values.extend(ids[:-1] for ids in encoded[column])
    numbers = list(range(len(columns["input_ids"])))
    return datasets.Dataset.from_dict({**columns, "row": numbers, "length": [len(ids) for ids in columns["input_ids"]]})


def _probabilities(predictions: dict[str, Array], classes: int) -> Array:
    """Return probabilities, shape (rows, classes) in float32, of what a reader said of a feature per class and row."""
    means = (-predictions["nats"] / np.maximum(1, predictions["tokens"])).reshape(classes, -1).T
    odds = np.exp(means - means.max(1, keepdims=True))
    shares: Array = (odds / odds.sum(1, keepdims=True)).astype(np.float32)
    return shares
