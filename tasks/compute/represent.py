"""The command `represent`: what a model makes of rows, before any head."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch

from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, load_tokenizer, set_up
from tasks.compute.predict import batch_positions, multiple_for
from tasks.encoding.padding import padded
from tasks.kinds.kind import Array
from tasks.pretrained import load_config, load_pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INPUTS = ("input_ids", "token_type_ids")


def represent(
    channel: Channel,
    *,
    tokens: str,
    model: str,
    output: str,
    rows: dict[str, Sequence[int] | None],
    seed: int,
    device: str,
    precision: str,
    allow_pickle: bool,
    remote_code: bool,
) -> dict[str, Any]:
    """Write a file `<split>.npy` per split with a vector per row, in float32: the mean of the last hidden states of its tokens.

    Of an encoder-decoder that is the encoder's. Splits have one feature per row.

    Args:
        channel: Gets progress.
        tokens: Folder of the features.
        model: Folder of the model.
        output: Where the files go.
        rows: Split to the positions of the rows wanted, None for all.
        seed: Of what the model's files lack.
        device: See `Hardware.choose`, as `precision`.
        precision: Of the computation.
        allow_pickle: Whether pickled weights may be loaded.
        remote_code: Whether code that comes with the model may be run.
    """
    hardware = Hardware.choose(device, precision)
    set_up(seed)
    tokenizer = load_tokenizer(Path(model), remote_code=remote_code)
    encoder = _load(Path(model), tokenizer, allow_pickle=allow_pickle, remote_code=remote_code).to(hardware.device)
    splits = {split: datasets.Dataset.load_from_disk(str(Path(tokens) / split)) for split in rows}
    chosen = {split: splits[split] if places is None else splits[split].select(places) for split, places in rows.items()}
    done, total = 0, sum(map(len, chosen.values()))
    for split, features in chosen.items():
        vectors: Any = None
        inputs = features.select_columns([name for name in _INPUTS if name in features.column_names])
        with torch.no_grad(), hardware.autocast():
            for places in batch_positions(features, hardware):
                found = _means(encoder, tokenizer, inputs[places], hardware)
                if vectors is None:
                    shape = (len(features), found.shape[1])
                    vectors = np.lib.format.open_memmap(Path(output) / f"{split}.npy", "w+", np.float32, shape)
                vectors[places] = found
                done += len(places)
                channel.progress(done, total, last=done == total)
        vectors.flush()
    return {"device": str(hardware)}


def _load(folder: Path, tokenizer: "PreTrainedTokenizerBase", *, allow_pickle: bool, remote_code: bool) -> Any:
    """Return the model without any head, ready to predict; of an encoder-decoder its encoder."""
    config = load_config(folder, kind="a probe", remote_code=remote_code)
    config.pad_token_id = tokenizer.pad_token_id
    model: Any = load_pretrained(
        "AutoModel", folder, config, kind="a probe", trained=False, allow_pickle=allow_pickle, remote_code=remote_code
    )
    return (model.get_encoder() if config.is_encoder_decoder else model).eval()


def _means(encoder: Any, tokenizer: "PreTrainedTokenizerBase", columns: dict[str, list[Any]], hardware: Hardware) -> Array:
    """Return the mean hidden state of each feature's own tokens, shape (batch, size)."""
    features = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    multiple = multiple_for(max(map(len, columns["input_ids"])), hardware)
    batch = padded(features, tokenizer, multiple, left=tokenizer.padding_side == "left")
    batch = {name: value.to(hardware.device) for name, value in batch.items()}
    states = encoder(**batch).last_hidden_state.float()
    mask = batch["attention_mask"].unsqueeze(-1).float()
    means: Array = ((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
    return means
