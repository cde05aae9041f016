"""The command `predict`: what a trained model says of rows whose targets nobody knows; it is loaded once for many files."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, bind, load_model, load_tokenizer, set_up
from tasks.compute.predict import Predictor
from tasks.compute.tokenize import to_features
from tasks.data.arrays import as_array
from tasks.kinds.kind import Kind
from tasks.metrics import chunks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Loaded:
    """A model that is ready to predict."""

    kind: Kind
    tokenizer: "PreTrainedTokenizerBase"
    network: "PreTrainedModel"
    hardware: Hardware


_loaded: dict[str, _Loaded] = {}


def predict(
    channel: Channel,
    *,
    kind_name: str,
    settings: dict[str, Any],
    labels: list[str],
    model: str,
    remote_code: bool,
    seed: int,
    device: str,
    precision: str,
    calibration: dict[str, float],
    rows: str,
    output: str,
) -> dict[str, Any]:
    """Predict the rows of an Arrow file, and write a Parquet file with `id` and the columns of `Kind.prediction_table`.

    A row whose first text is empty, or gives the model no tokens, has nulls there. Where that is all rows, there are no columns
    but `id`.

    Args:
        channel: Where progress goes.
        kind_name: The model's kind.
        settings: All of the model's settings.
        labels: Names of its classes.
        model: Its folder.
        remote_code: Whether code that comes with it may be run.
        seed: The one that it was trained with.
        device: See `Hardware.choose`.
        precision: See `Hardware.choose`.
        calibration: What was chosen for it on validation.
        rows: A file as `load-dataset` spools rows, targets blank.
        output: The file to write.

    Returns:
        dict: `unread` and `truncated`, numbers of rows, and `device`.
    """
    loaded = _load(kind_name, settings, labels, Path(model), remote_code=remote_code, seed=seed, hardware=(device, precision))
    kind, every = loaded.kind, datasets.Dataset.from_file(rows)
    first = next(column.role for column in kind.columns() if column.form == "text")
    spoken = np.flatnonzero([bool(text.strip()) for text in every[first][:]])
    table, truncated = pa.table({"id": pa.array(every["id"][:], pa.string())}), 0
    if len(spoken):
        with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
            features, read, truncated = _encode(loaded, every.select(spoken), scratch)
            if len(read):
                chosen = every.select(spoken[read])
                found = _predict(loaded, features, chosen, calibration, channel.progress)
                for name, column in _spread(found, spoken[read], len(every)).items():
                    table = table.append_column(name, column)
        spoken = spoken[read]
    pq.write_table(table, output)
    return {"unread": len(every) - len(spoken), "truncated": truncated, "device": str(loaded.hardware)}


def _load(
    kind_name: str,
    settings: Mapping[str, Any],
    labels: list[str],
    folder: Path,
    *,
    remote_code: bool,
    seed: int,
    hardware: tuple[str, str],
) -> _Loaded:
    """Return the model, the one of the last command if it is the same; no other is kept beside it."""
    key = json.dumps([kind_name, settings, labels, str(folder), remote_code, seed, hardware], sort_keys=True)
    if key not in _loaded:
        _loaded.clear()
        kind, chosen = bind(kind_name, settings, labels), Hardware.choose(*hardware, settings="")
        set_up(seed)
        tokenizer = load_tokenizer(folder, remote_code=remote_code)
        network, _ = load_model(kind, folder, tokenizer, trained=True, allow_pickle=False, remote_code=remote_code)
        chosen.place(network)
        _loaded[key] = _Loaded(kind, tokenizer, network, chosen)
        datasets.disable_progress_bars()
    return _loaded[key]


def _encode(loaded: _Loaded, rows: datasets.Dataset, scratch: str) -> tuple[datasets.Dataset, Any, int]:
    """Return the features of the rows that have tokens, the positions of these rows, and how many rows are truncated."""
    mute: set[int] = set()
    truncated = [0]

    def encode(batch: dict[str, list[Any]], positions: list[int]) -> dict[str, list[Any]]:
        encoded = loaded.kind.encode(loaded.tokenizer, batch, train=False)
        owners = encoded.rows if encoded.rows is not None else list(range(len(positions)))
        lengths = [len(ids) for ids in encoded.features["input_ids"]]
        without = {owner for owner, length in zip(owners, lengths, strict=True) if not length}
        kept = [place for place, owner in enumerate(owners) if owner not in without]
        mute.update(positions[owner] for owner in without)
        truncated[0] += sum(encoded.truncated)
        columns = {name: [values[place] for place in kept] for name, values in encoded.features.items()}
        return {**columns, "row": [positions[owners[place]] for place in kept], "length": [lengths[place] for place in kept]}

    features = to_features(rows, encode, Path(scratch) / "features.arrow")
    read = np.array([position for position in range(len(rows)) if position not in mute], int)
    if mute and len(features):
        places = np.searchsorted(read, as_array(features, "row"))
        features = features.remove_columns("row").add_column("row", places)
    return features, read, truncated[0]


def _predict(
    loaded: _Loaded,
    features: datasets.Dataset,
    rows: datasets.Dataset,
    calibration: Mapping[str, float],
    progress: Callable[..., None],
) -> pa.Table:
    kind = loaded.kind
    predictor = Predictor(kind, loaded.tokenizer, loaded.hardware)
    predictions = kind.decide(predictor(loaded.network, features, rows, progress), calibration)
    return pa.concat_tables(pa.table(kind.prediction_table(*part)) for part in chunks(predictions, rows))


def _spread(table: pa.Table, positions: Any, count: int) -> dict[str, pa.ChunkedArray]:
    """Return the columns of a table whose rows are at some positions of `count` rows; the others are null."""
    if len(positions) == count:
        return {name: table.column(name) for name in table.column_names}
    places = np.full(count, -1)
    places[positions] = np.arange(len(positions))
    taken = table.combine_chunks().take(pa.array(places, mask=places < 0))
    return {name: taken.column(name) for name in taken.column_names}
