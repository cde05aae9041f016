"""Measure `python -m flows predict`: rows per second, and that ten times the rows take no more memory.

`python -m tests.benchmarks.predictions FILE [COPIES] [SHARD_ROWS]`: FILE is a CSV file with a column `text`; its rows are
predicted once, and COPIES times (10), by the quickstart model with a fresh head of four classes.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from blocks.artifact_store import LocalStore
from tasks.config import ModelSettings
from tasks.models import model_folder, model_identity
from tests.benchmarks.memory import watched
from tests.predicting import crown, publish_model

LABELS = ["World", "Sports", "Business", "Sci/Tech"]
SETTINGS = {"training": {"max_length": 128}}


def measure(folder: Path, source: Path, shard_rows: int) -> dict[str, float]:
    """Predict a file; return rows, rows per second, and the greatest memory of the command and of its compute process, in MB."""
    command = [sys.executable, "-m", "flows", "predict", "news", str(source), str(folder / "out.csv")]
    command += ["--store", str(folder / "store"), "--shard_rows", str(shard_rows), "--json"]
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect")}
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process,
        watched(lambda: _memory(psutil.Process(process.pid)), every_s=0.2) as peaks,
    ):
        out, _ = process.communicate()
    record = json.loads(out.splitlines()[-1])
    return {"rows": record["rows"], "rows_per_s": record["rows_per_s"], **peaks}


def _memory(process: psutil.Process) -> dict[str, float]:
    found = {"command_mb": process.memory_info().rss / 1e6}
    for child in process.children():
        if "tasks.compute" in child.cmdline():
            # What is shared with other processes, as mapped files are, is not its own.
            found["compute_mb"] = child.memory_full_info().uss / 1e6
    return found


def main() -> None:
    """Print a table."""
    source, copies = Path(sys.argv[1]), int((sys.argv[2:3] or ["10"])[0])
    shard_rows = int((sys.argv[3:4] or ["1000"])[0])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store, model = LocalStore(folder / "store"), ModelSettings()
        start = model_folder(model, model_identity(model), weights=True)
        crown(store, "news", publish_model(store, folder, start, "text-classification", SETTINGS, labels=LABELS))
        with source.open(newline="", encoding="utf-8") as stream:
            texts = [row["text"] for row in csv.DictReader(stream)]
        for times in (1, copies):
            with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(["text"])
                writer.writerows([text] for _ in range(times) for text in texts)
            found = measure(folder, folder / "rows.csv", shard_rows)
            sys.stdout.write(", ".join(f"{name} {value:,.1f}" for name, value in found.items()) + "\n")


if __name__ == "__main__":
    main()
