"""What the verdict says where the truth is known: `python -m tests.soak.verdicts TRAIN.csv TEST.csv [--rows N] [--pairs N]`.

The files have the columns `text` and `label`. Trained and compared, as champion and challenger of a name, are
- pairs of models that differ in the seed alone, of which the verdict should be *no evidence*;
- a model whose training had a tenth of the rows of one class: *regressed*, with that class first among the slices;
- a model half of whose training labels were shuffled.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import scipy.stats

from tasks.records import Report
from tests.helpers import NO_BASELINES, write_csv

_NOMINAL = 0.05


def run(folder: Path, name: str, train: pd.DataFrame, test: pd.DataFrame, options: argparse.Namespace, seed: int) -> Report:
    """Train and score a model; the next one of the same name meets it as its champion."""
    from flows.experiments import text_classification
    from tasks.kinds.text_classification import TextClassificationConfig

    data = folder / f"{name}-{len(train)}-{pd.util.hash_pandas_object(train).sum():x}"
    if not data.exists():
        held_out = len(train) // 10
        for split, rows in (("train", train[:-held_out]), ("validation", train[-held_out:]), ("test", test)):
            write_csv(data / f"{split}.csv", rows.to_dict("records"))
    return text_classification(
        TextClassificationConfig.model_validate(
            {
                "name": name,
                "seed": seed,
                "store": str(folder / "store"),
                "data": {"source": str(data)},
                "model": {"name": options.model},
                "training": {"epochs": options.epochs, "learning_rate": options.learning_rate},
                "baselines": NO_BASELINES,
                "gate": {"mode": "promote"},
            }
        )
    )


def said(what: str, report: Report) -> tuple[str, str]:
    """Return the verdict on a challenger, and a line about what came of it."""
    assert report.contest is not None, "it met no champion"
    contest, metric = report.contest, report.primary_metric
    low, high = contest.intervals[metric]
    return contest.word, (
        f"{what:<28} {contest.word:<12} {metric} {contest.champion[metric]:.4f} -> {contest.challenger[metric]:.4f}, "
        f"{100 * contest.difference[metric]:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}); {report.promotion.outcome}"
    )


def worst_slice(folder: Path, report: Report) -> dict[str, Any]:
    """Return the first slice of the comparison with the champion."""
    from blocks.artifact_store import LocalStore
    from tasks.steps import read_json

    found: dict[str, Any] = read_json(LocalStore(folder / "store").fetch(report.key) / "metrics.json")["champion"]["slices"][0]
    return found


def seed_pair(folder: Path, options: argparse.Namespace, number: int) -> tuple[str, str]:
    """Compare two models that differ in the seed alone."""
    train, test = read(options)
    run(folder, f"pair-{number}", train, test, options, 2 * number)
    return said(f"seeds {2 * number} and {2 * number + 1}", run(folder, f"pair-{number}", train, test, options, 2 * number + 1))


def cut_class(folder: Path, options: argparse.Namespace) -> tuple[str, str]:
    """Compare with a model whose training had a tenth of the rows of the last class."""
    train, test = read(options)
    chosen = sorted(train["label"].unique())[-1]
    inside = train.index[train["label"] == chosen]
    run(folder, "cut", train, test, options, 0)
    report = run(folder, "cut", train.drop(inside[len(inside) // 10 :]), test, options, 0)
    word, line = said(f"a tenth of {chosen!r}", report)
    worst = worst_slice(folder, report)
    return word, f"{line}\n  first slice: {worst['by']} {worst['value']}, {100 * worst['difference']:+.1f} points"


def shuffled_labels(folder: Path, options: argparse.Namespace) -> tuple[str, str]:
    """Compare with a model half of whose training labels were shuffled."""
    train, test = read(options)
    shuffled = train.copy()
    half = shuffled.sample(frac=0.5, random_state=0).index
    shuffled.loc[half, "label"] = shuffled.loc[half, "label"].sample(frac=1, random_state=1).to_numpy()
    run(folder, "shuffled", train, test, options, 0)
    return said("half of the labels shuffled", run(folder, "shuffled", shuffled, test, options, 0))


def read(options: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the train and the test rows."""
    return pd.read_csv(options.train)[["text", "label"]].head(options.rows), pd.read_csv(options.test)[["text", "label"]]


def _use(url: str) -> None:
    os.environ["PREFECT_API_URL"] = url


def main() -> None:
    """Run it all and print a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--rows", type=int, default=1_000, help="train rows, the first ones of the file")
    parser.add_argument("--pairs", type=int, default=10, help="pairs that differ in the seed alone")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--model", default="quickstart")
    parser.add_argument("--jobs", type=int, default=1, help="comparisons at a time; more than one is for a large GPU")
    options = parser.parse_args()
    from prefect.settings import PREFECT_API_URL

    from flows.launch import prefect_api

    with prefect_api(), tempfile.TemporaryDirectory(prefix="finetune-flows-soak-") as scratch:
        jobs = [partial(seed_pair, number=number) for number in range(options.pairs)]
        with ProcessPoolExecutor(
            options.jobs, multiprocessing.get_context("spawn"), initializer=_use, initargs=(str(PREFECT_API_URL.value()),)
        ) as pool:
            waiting = [pool.submit(job, Path(scratch), options) for job in (cut_class, shuffled_labels, *jobs)]
            words = []
            for future in waiting:
                word, line = future.result()
                words.append(word)
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
        claimed = sum(word != "no evidence" for word in words[2:])
        chance = scipy.stats.binom.sf(claimed - 1, options.pairs, _NOMINAL)
        sys.stdout.write(
            f"{claimed} of {options.pairs} pairs of seeds were called different; at the nominal {_NOMINAL:.0%} so many or more "
            f"come with a probability of {chance:.2f}\n"
        )


if __name__ == "__main__":
    main()
