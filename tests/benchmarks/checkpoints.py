"""Optimizer steps per second with checkpoints published in the background against none: `python tests/benchmarks/checkpoints.py`.

Trains the quickstart model on the quickstart's rows in the compute process, A (a checkpoint every `--every` steps, published in
an S3 server on this machine, or in a folder with `--local`) and B (none) in turn; prints the medians and their ratio.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from blocks.artifact_store import ArtifactStore, LocalStore
from tasks.checkpoints import CheckpointStore
from tasks.compute.client import ComputeProcess
from tasks.config import ModelSettings, TrainingSettings
from tasks.data.quickstart import quickstart_part
from tasks.models import QUICKSTART_SHA256, model_folder
from tests.s3 import S3Server


def save_rows(folder: Path, rows: int) -> list[str]:
    """Save the quickstart's first rows as train and validation, and return the class names."""
    import datasets

    datasets.disable_progress_bars()
    batches = list(quickstart_part().read(["text", "label"]))
    texts, names = ([value for batch in batches for value in batch[name]][: rows + 32] for name in ("text", "label"))
    labels = sorted(set(names))
    columns = {"id": [str(number) for number in range(len(texts))], "text": texts, "label": list(map(labels.index, names))}
    whole = datasets.Dataset.from_dict(columns)
    for split, part in (("train", range(rows)), ("validation", range(rows, rows + 32)), ("test", range(rows, rows + 32))):
        whole.select(part).save_to_disk(str(folder / split))
    return labels


class Trial:
    """One training, timed by its own events: from the first optimizer step to the last."""

    def __init__(self, root: Path, rows: int) -> None:
        self.root = root
        self.labels = save_rows(root / "rows", rows)
        self.model = str(model_folder(ModelSettings(), QUICKSTART_SHA256, weights=True))
        self.rounds = 0
        with ComputeProcess() as compute:
            compute.request(
                "tokenize",
                {
                    **{"kind_name": "text-classification", "dataset": str(root / "rows"), "model": self.model},
                    **{"output": str(root / "tokens"), "max_length": 128, "remote_code": False},
                },
            )

    def run(self, store: ArtifactStore, every: int) -> float:
        """Return optimizer steps per second."""
        self.rounds += 1
        times: list[tuple[float, int]] = []
        scratch = self.root / f"round-{self.rounds}"
        scratch.mkdir()
        with ComputeProcess() as compute, CheckpointStore(store, f"steps/x/{self.rounds}", sys.stderr.write) as checkpoints:

            def on_event(event: dict[str, Any]) -> None:
                if event["event"] == "checkpoint":
                    checkpoints.offer(event["step"], Path(event["folder"]))
                elif event["event"] == "progress":
                    times.append((time.monotonic(), event["done"]))

            compute.request("train", self._arguments(scratch, every), on_event=on_event)
        checkpoints.clear()
        (first, low), (last, high) = times[0], next(entry for entry in times if entry[1] == times[-1][1])
        return (high - low) / (last - first)

    def _arguments(self, scratch: Path, every: int) -> dict[str, Any]:
        training = TrainingSettings(epochs=1, checkpoint_every=every).model_dump(mode="json")
        return {
            **{"kind_name": "text-classification", "dataset": str(self.root / "tokens"), "model": self.model},
            **{"output": str(scratch / "model"), "labels": self.labels, "seed": 1, "training": training},
            **{"allow_pickle": False, "remote_code": False, "checkpoints": str(scratch)},
        }


def main() -> None:
    """Alternate, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3000, help="training rows; 16 are an optimizer step")
    parser.add_argument(
        "--every", type=int, default=TrainingSettings().checkpoint_every, help="optimizer steps between checkpoints"
    )
    parser.add_argument("--local", action="store_true", help="publish in a folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"with": [], "without": []}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store: ArtifactStore = LocalStore(root / "store")
        if not options.local:
            server = S3Server(root / "s3")
            server.start()
            stack.callback(server.stop)
            store = server.store("benchmark")
        trial = Trial(root, options.rows)
        for round_number in range(options.rounds):
            for name in ("with", "without") if round_number % 2 else ("without", "with"):
                rates[name].append(trial.run(store, options.every if name == "with" else 10**9))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ratio = medians["with"] / medians["without"]
    if options.json:
        sys.stdout.write(json.dumps({"every": options.every, "rates": rates, "medians": medians, "ratio": ratio}) + "\n")
        return
    for name, found in rates.items():
        each = ", ".join(f"{rate:.3f}" for rate in found)
        sys.stdout.write(f"{name:8} checkpoints every {options.every} steps: {medians[name]:.3f} optimizer steps/s ({each})\n")
    sys.stdout.write(f"ratio {ratio:.3f}\n")


if __name__ == "__main__":
    main()
