"""What Prefect costs a run, and how long it takes to start: `python -m tests.benchmarks.orchestration [--rounds N] [settings]`.

The same experiment, text classification with the settings given, runs

- `bare`: as a script with the same steps and no Prefect, see `bare.py`;
- `running`: with `python -m flows` and a Prefect server that runs already;
- `temporary`: with `python -m flows` alone, which starts a server for itself;
- `again`: with `python -m flows`, the running server, and a store that has it all.

Rounds alternate between them, medians are printed: the time, the largest sum of all its processes' memory (each page once; a
server's only where the command starts it), how long it took to the first line and to the first optimizer step, and the score of
the fine-tuned model. Beside it, the time of `python -m flows --help`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.memory import watched

WAYS = ("bare", "running", "temporary", "again")
_FIRST_STEP = "step 1/"


def measure(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command and return what it took.

    Raises:
        SystemExit: it failed; says what it said.
    """
    started, found, lines = time.monotonic(), {"first_line_s": 0.0, "first_step_s": 0.0}, []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        with watched(lambda: _memory(psutil.Process(process.pid)), every_s=0.5) as peaks:
            for line in process.stdout:
                seconds = time.monotonic() - started
                lines.append(line)
                found["first_line_s"] = found["first_line_s"] or seconds
                if _FIRST_STEP in line:
                    found["first_step_s"] = found["first_step_s"] or seconds
    found["seconds"] = time.monotonic() - started
    if process.returncode:
        raise SystemExit("".join(lines[-20:]))
    return {"memory_mb": 0.0, **found, **peaks}


def _memory(process: psutil.Process) -> dict[str, float]:
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            total += member.memory_full_info().pss / 1e6
    return {"memory_mb": total}


def score_of(store: Path) -> float:
    """Return the primary metric that the newest run in a store reports of its fine-tuned model."""
    newest = max(store.glob("runs/*/metrics.json"), key=lambda path: path.stat().st_mtime)
    found = json.loads(newest.read_text(encoding="utf-8"))
    return float(found["after"][found["primary_metric"]])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--json", action="store_true", help="print every round as JSON too")
    options, settings = parser.parse_known_args()
    from flows.local_server import local_server

    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in ("help", *options.ways)}
    with tempfile.TemporaryDirectory() as scratch:
        home = {**os.environ, "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1", "PREFECT_LOGGING_COLORS": "false"}
        os.environ["PREFECT_HOME"] = f"{scratch}/server"
        with local_server() as server:
            running = {**home, "PREFECT_HOME": f"{scratch}/server", "PREFECT_API_URL": server.wait_for_url()}
            temporary = {**home, "PREFECT_HOME": f"{scratch}/temporary", "PREFECT_API_URL": ""}
            environments = {"bare": home, "running": running, "temporary": temporary, "again": running}
            for _ in range(options.rounds):
                rounds["help"].append(measure([sys.executable, "-m", "flows", "--help"], home))
                for way in options.ways:
                    store = Path(scratch) / ("running" if way == "again" else way)
                    if way != "again":
                        shutil.rmtree(store, ignore_errors=True)
                    module = ["tests.benchmarks.bare"] if way == "bare" else ["flows", "run"]
                    command = [sys.executable, "-m", *module, "text-classification", "--store", str(store), *settings]
                    rounds[way].append({**measure(command, environments[way]), "score": score_of(store)})
                    sys.stderr.write(f"{way}: {json.dumps(rounds[way][-1])}\n")
    medians = {way: {key: statistics.median(one[key] for one in found) for key in found[0]} for way, found in rounds.items()}
    sys.stdout.write(
        f"{'':<10}{'seconds':>9}{'over bare':>11}{'first line':>12}{'first step':>12}{'memory, MB':>12}{'score':>8}\n"
    )
    for way, one in medians.items():
        over = one["seconds"] - medians["bare"]["seconds"] if way in ("running", "temporary") and "bare" in medians else None
        sys.stdout.write(
            f"{way:<10}{one['seconds']:>9.2f}{'' if over is None else f'{over:+.1f} s':>11}{one['first_line_s']:>12.2f}"
        )
        sys.stdout.write(f"{one['first_step_s'] or float('nan'):>12.1f}{one['memory_mb']:>12.0f}")
        sys.stdout.write(f"{one['score']:>8.3f}\n" if "score" in one else "\n")
    if options.json:
        result: dict[str, Any] = {"medians": medians, "rounds": rounds}
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
