"""What the compute process's tests share: small datasets as `load-dataset` leaves them, and the commands' arguments."""

import gc
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers import TOPICS

LABELS = list(TOPICS)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Yield the generations that Python's collector goes through meanwhile."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            found.append(info["generation"])

    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)


def save_rows(folder: Path, **splits: Sequence[dict[str, str]]) -> Path:
    """Save rows of `text` and `label` per split with the ids `<split>-<position>`, and return the folder."""
    import datasets

    for split, rows in splits.items():
        columns = {
            "id": [f"{split}-{number}" for number in range(len(rows))],
            "text": [row["text"] for row in rows],
            "label": [LABELS.index(row["label"]) for row in rows],
        }
        features = {"id": datasets.Value("string"), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)}
        datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(str(folder / split))
    return folder


def save_tokens(folder: Path, rows: Path, model: Path, **changes: Any) -> Path:
    """Tokenize a dataset with a model's tokenizer, in this process; return the folder of tokens, which knows its dataset."""
    from tasks.compute.channel import Channel
    from tasks.compute.tokenize import tokenize

    tokenize(Channel(io.StringIO()), **tokenize_arguments(rows, model, folder, **changes))
    (folder / "dataset").symlink_to(rows.absolute())
    return folder


def tokenize_arguments(rows: Path, model: Path, output: Path, *, max_length: int = 16, **changes: Any) -> dict[str, Any]:
    """Return the arguments of the command `tokenize`."""
    return {
        **{"kind_name": "text-classification", "settings": {"training": {"max_length": max_length}}, "labels": LABELS},
        **{"dataset": str(rows), "model": str(model), "output": str(output), "remote_code": False},
        **changes,
    }


def evaluate_arguments(tokens: Path, model: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Return the arguments of the command `evaluate`."""
    return {
        **{"kind_name": "text-classification", "settings": {}, "labels": LABELS},
        **{"dataset": str(tokens / "dataset"), "tokens": str(tokens), "model": str(model), "output": str(output)},
        **{"trained": False, "seed": 1, "device": "cpu", "precision": "fp32"},
        **{"allow_pickle": False, "remote_code": False},
        **changes,
    }


def train_arguments(
    tokens: Path,
    model: Path,
    output: Path,
    *,
    seed: int = 1,
    resume: Path | None = None,
    micro_batch: int | None = None,
    **training: Any,
) -> dict[str, Any]:
    """Return the arguments of the command `train`; its checkpoints go beside the output."""
    checkpoints = output.with_name(f"{output.name}-checkpoints")
    checkpoints.mkdir(parents=True, exist_ok=True)
    settings = {
        **{"epochs": 3, "learning_rate": 0.005, "batch_size": 8, "weight_decay": 0.01, "warmup_ratio": 0.1},
        **{
            **{"method": "full", "scheduler": "linear", "max_grad_norm": 1.0, "label_smoothing": 0.0},
            **{"lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lora_targets": "architecture"},
            **{"gradient_checkpointing": False, "early_stopping_patience": None},
            "device": "cpu",
            "precision": "fp32",
            "processes": 1,
            "checkpoint_every": 1000,
            "max_length": 16,
            **training,
        },
    }
    return {
        **{"kind_name": "text-classification", "settings": {}, "labels": LABELS},
        **{"dataset": str(tokens / "dataset"), "tokens": str(tokens), "model": str(model), "output": str(output)},
        **{"seed": seed, "training": settings, "allow_pickle": False, "remote_code": False},
        **{"checkpoints": str(checkpoints), "resume": str(resume) if resume else None, "micro_batch": micro_batch},
    }


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return what a channel sent."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]
