"""What a checkpoint costs a training: `python tests/benchmarks/checkpoints.py`.

Trains the quickstart model on the quickstart's rows in the compute process. A checkpoint is made every 2 x `--window` optimizer
steps and published in the background, in an S3 server on this machine or, with `--local`, in a folder. Windows of as many steps
are compared: those in which a checkpoint is made and published (A) and those between them (B), in turn in the same training,
since the speed of a machine drifts by more between two trainings than a checkpoint costs. Prints the medians, the cost of a
checkpoint, and what it makes of the optimizer steps per second at the default interval.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from blocks.artifact_store import ArtifactStore, LocalStore
from tasks.checkpoints import CheckpointStore
from tasks.compute.client import ComputeProcess
from tasks.config import ModelSettings, TrainingSettings
from tasks.data.quickstart.families import families_part
from tasks.models import QUICKSTART_SHA256, model_folder
from tests.s3 import S3Server


def save_rows(folder: Path, rows: int) -> list[str]:
    """Save the quickstart's first rows as train and validation, and return the class names."""
    import datasets

    datasets.disable_progress_bars()
    batches = list(families_part().read(["text", "label"]))
    texts, names = ([value for batch in batches for value in batch[name]][: rows + 32] for name in ("text", "label"))
    labels = sorted(set(names))
    columns = {"id": [str(number) for number in range(len(texts))], "text": texts, "label": list(map(labels.index, names))}
    whole = datasets.Dataset.from_dict(columns)
    for split, part in (("train", range(rows)), ("validation", range(rows, rows + 32)), ("test", range(rows, rows + 32))):
        whole.select(part).save_to_disk(str(folder / split))
    return labels


class Trial:
    """One training, timed by its own events: from the first optimizer step to the last."""

    def __init__(self, root: Path, rows: int, epochs: int) -> None:
        self.root, self.epochs, self.steps_per_epoch = root, epochs, math.ceil(rows / TrainingSettings().batch_size)
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

    def run(self, store: ArtifactStore, window: int) -> dict[str, list[float]]:
        """Return the seconds of each window with a checkpoint, and of each without."""
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

            compute.request("train", self._arguments(scratch, 2 * window), on_event=on_event)
        checkpoints.clear()
        return windows(times, window, self.steps_per_epoch)

    def _arguments(self, scratch: Path, every: int) -> dict[str, Any]:
        training = TrainingSettings(epochs=self.epochs, checkpoint_every=every).model_dump(mode="json")
        return {
            **{"kind_name": "text-classification", "dataset": str(self.root / "tokens"), "model": self.model},
            **{"output": str(scratch / "model"), "labels": self.labels, "seed": 1, "training": training},
            **{"allow_pickle": False, "remote_code": False, "checkpoints": str(scratch)},
        }


def windows(times: list[tuple[float, int]], window: int, steps_per_epoch: int) -> dict[str, list[float]]:
    """Cut a training's progress into windows; those with an epoch's end in them, and its validation, are left out."""
    seconds, steps = zip(*times, strict=True)

    def reached(step: float) -> float:
        return float(np.interp(step, steps, seconds))

    found: dict[str, list[float]] = {"with": [], "without": []}
    # A quarter before the checkpoint: there progress is even, so its times can be interpolated.
    for number, start in enumerate(np.arange(window * 3 / 4, steps[-1] - window, window)):
        if start // steps_per_epoch == (start + window) // steps_per_epoch and start > steps[0]:
            found["with" if number % 2 else "without"].append(reached(start + window) - reached(start))
    return found


def main() -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2800, help="training rows; 16 are an optimizer step")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--window", type=int, default=47, help="optimizer steps of a window")
    parser.add_argument("--local", action="store_true", help="publish in a folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, list[float]] = {"with": [], "without": []}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store: ArtifactStore = LocalStore(root / "store")
        if not options.local:
            server = S3Server(root / "s3")
            server.start()
            stack.callback(server.stop)
            store = server.store("benchmark")
        trial = Trial(root, options.rows, options.epochs)
        for _ in range(options.rounds):
            for name, each in trial.run(store, options.window).items():
                found[name] += each
    medians = {name: statistics.median(each) for name, each in found.items()}
    cost, every = medians["with"] - medians["without"], TrainingSettings().checkpoint_every
    steps_per_s = options.window / medians["without"]
    ratio = every / steps_per_s / (every / steps_per_s + cost)
    if options.json:
        sys.stdout.write(
            json.dumps({"seconds": found, "medians": medians, "cost_s": cost, "every": every, "ratio": ratio}) + "\n"
        )
        return
    for name, each in found.items():
        listed = ", ".join(f"{seconds:.1f}" for seconds in each)
        sys.stdout.write(f"{options.window} steps {name:8} a checkpoint: {medians[name]:.2f} s ({listed})\n")
    sys.stdout.write(f"a checkpoint costs {cost:.2f} s; one every {every} steps: {ratio:.3f} of the steps/s without\n")


if __name__ == "__main__":
    main()
