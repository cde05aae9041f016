"""What the benchmarks of training and scoring share: a clock, the project's compute process in place, and alternating rounds."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.kinds import load_kind
from tasks.kinds.kind import Kind


def wait(device: str) -> None:
    """Wait until the device has done all it was asked for."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


class Clock:
    """The time of each optimizer step but the first."""

    def __init__(self, device: str) -> None:
        self.device, self.began, self.seconds, self.steps = device, 0.0, 0.0, 0

    def callback(self) -> Any:
        """Return a callback for `Trainer`."""
        from transformers import TrainerCallback

        clock = self

        class _Callback(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == 1:
                    wait(clock.device)
                    clock.began = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == state.max_steps:
                    wait(clock.device)
                    clock.seconds, clock.steps = time.perf_counter() - clock.began, state.max_steps

        return _Callback()

    def rate(self, items: float) -> float:
        """Return how many of the items that all steps share were done per second."""
        return items * (self.steps - 1) / self.steps / self.seconds


@dataclass
class Trained:
    """What the project's compute process made, and how long it took."""

    kind: Kind
    model: Any
    tokenizer: Any
    hardware: Any
    clock: Clock
    test_seconds: float
    scores: dict[str, float]
    lengths: dict[str, list[int]]
    """Tokens of each feature of a split."""


def train_project(
    kind_name: str,
    settings: dict[str, Any],
    *,
    rows: Path,
    labels: Sequence[str],
    model: str,
    seed: int,
    warm_up: int,
    keep: Path | None = None,
) -> Trained:
    """Train and score as the compute process does.

    Args:
        kind_name: The kind.
        settings: Of the configuration, what is not its default.
        rows: Folder of the splits.
        labels: Names of the classes.
        model: Folder of the model to start from.
        seed: Seed of everything random.
        warm_up: Test rows that are predicted before the clock starts.
        keep: Folder for the trained model; by default it is not kept.
    """
    from transformers import trainer

    from tasks.compute.channel import Channel
    from tasks.compute.models import Hardware, bind, load_model, load_tokenizer
    from tasks.compute.predict import Predictor, load_split
    from tasks.compute.tokenize import tokenize
    from tasks.compute.train import train

    config = load_kind(kind_name).config_class.model_validate(settings).model_dump(mode="json")
    common = {"kind_name": kind_name, "settings": config, "labels": labels, "dataset": str(rows), "remote_code": False}
    with open(os.devnull, "w", encoding="utf-8") as nowhere, tempfile.TemporaryDirectory() as scratch:
        channel, tokens, output = Channel(nowhere), f"{scratch}/tokens", Path(scratch) / "model"
        tokenize(channel, model=model, output=tokens, **common)
        hardware = Hardware.choose("auto", "auto")
        clock = Clock(hardware.device)
        trainer.DEFAULT_CALLBACKS.append(clock.callback())  # Trainer is made within
        train(
            channel,
            tokens=tokens,
            model=model,
            output=str(output),
            seed=seed,
            training=config["training"],
            allow_pickle=False,
            checkpoints=scratch,
            **common,
        )
        kind, tokenizer = bind(kind_name, config, labels), load_tokenizer(output, remote_code=False)
        network, _ = load_model(kind, output, tokenizer, trained=True, allow_pickle=False, remote_code=False)
        hardware.place(network)
        predictor = Predictor(kind, tokenizer, hardware)
        features, test = load_split(str(rows), tokens, "test")
        some = np.flatnonzero(np.array(features["row"][:]) < warm_up)
        predictor(network, features.select(some), test.select(range(min(warm_up, len(test)))))
        started = time.perf_counter()
        predictions = predictor(network, features, test)
        seconds = time.perf_counter() - started
        if keep is not None:
            shutil.copytree(output, keep, dirs_exist_ok=True)
        lengths = {split: load_split(str(rows), tokens, split)[0]["length"][:] for split in ("train", "test")}
    return Trained(kind, network, tokenizer, hardware, clock, seconds, scores_of(kind, predictions, test), lengths)


def scores_of(kind: Kind, predictions: Any, rows: Any) -> dict[str, float]:
    """Return the kind's metrics of what was predicted."""
    from tasks.compute.predict import score
    from tasks.metrics import summed_statistics

    return score(kind, summed_statistics(kind, kind.decide(predictions, {}), rows), len(rows))


def alternate(module: str, names: Sequence[str], rounds: int, folder: str) -> dict[str, list[dict[str, Any]]]:
    """Run each of `names` in each round, in a process of its own: this command once more, with `--one NAME FOLDER`.

    Every other round goes through them in reverse, so that a machine that gets faster or slower favours none. All have one GPU.

    Raises:
        SystemExit: with what a process said that failed.
    """
    from tasks.compute.client import compute_environment

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    ours = compute_environment(1)
    peers = {**os.environ, "CUDA_VISIBLE_DEVICES": ours["CUDA_VISIBLE_DEVICES"]}
    for number in range(rounds):
        for name in reversed(names) if number % 2 else names:
            command = [sys.executable, "-m", module, *sys.argv[1:], "--one", name, folder]
            environment = ours if name == "project" else peers
            result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
            if result.returncode:
                raise SystemExit(result.stderr)
            found[name].append(json.loads(result.stdout.splitlines()[-1]))
            sys.stderr.write(f"{name}: {result.stdout.splitlines()[-1]}\n")
    return found


def medians_of(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the median of each number that `alternate` found, and of what is no number the first."""
    return {
        name: {
            key: value if isinstance(value, str) else statistics.median(one[key] for one in found)
            for key, value in found[0].items()
        }
        for name, found in rounds.items()
    }
