"""How many runs one Prefect server carries: `python -m tests.benchmarks.server_load [--runs N] [--at_once N …] [--database URL]`.

The smallest job, a scheduled text classification at which nothing has changed, runs so many times against a server of its own, in
so many processes at a time. Printed are how long a run took, how many ended, and how many requests to the server failed for good.
The server keeps its data in SQLite, or where `--database` says, e.g. `postgresql+asyncpg://user:password@127.0.0.1/prefect`.
"""

import argparse
import csv
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_WORDS = {"sport": "match goal team coach league", "market": "shares profit bank price stock"}


def work(folder: str, url: str, runs: int, results: Any) -> None:
    """Run the experiment so many times, and say of each how long it took, or what it raised."""
    os.environ["PREFECT_API_URL"] = url
    logging.disable(logging.CRITICAL)
    from flows.experiments import text_classification
    from tasks.kinds.text_classification import TextClassificationConfig

    config = TextClassificationConfig.model_validate(
        {
            "store": f"{folder}/store",
            "data": {"source": f"{folder}/rows.csv"},
            "training": {"epochs": 1},
            "baselines": {"linear": False, "probe": False},
        }
    )
    for _ in range(runs):
        started, fault = time.monotonic(), ""
        try:
            report = text_classification(config)
            fault = "" if report.unchanged_since else "it was computed anew"
        except Exception as error:  # whatever ends a run is counted
            fault = f"{type(error).__name__}: {error}"[:200]
        results.put((time.monotonic() - started, fault))


def ended(url: str) -> dict[str, int]:
    """Return how many runs the server says are in which state."""
    import httpx

    counts = {}
    for state in ("COMPLETED", "FAILED", "CRASHED", "RUNNING", "PENDING"):
        asked = {"flow_runs": {"state": {"type": {"any_": [state]}}}}
        counts[state.lower()] = int(httpx.post(f"{url}/flow_runs/count", json=asked, timeout=60).json())
    return {state: count for state, count in counts.items() if count}


def main() -> None:
    """Measure and print a line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--at_once", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--database", help="URL of the server's database, by default SQLite in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PREFECT_HOME": f"{folder}/home", "DO_NOT_TRACK": "1"}
        if options.database:
            os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = options.database
        with (Path(folder) / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            writer.writerows((f"{number} {words}", label) for number in range(40) for label, words in _WORDS.items())
        from flows.local_server import local_server

        with local_server() as server:
            url = server.wait_for_url()
            os.environ["PREFECT_API_URL"] = url
            context = multiprocessing.get_context("spawn")
            results: Any = context.Queue()
            first = context.Process(target=work, args=(folder, url, 1, results))
            first.start()
            results.get()
            first.join()
            database = "SQLite" if not options.database else options.database.partition(":")[0]
            for at_once in options.at_once:
                shares = [len(range(start, options.runs, at_once)) for start in range(at_once)]
                started, before = time.monotonic(), ended(url)
                processes = [context.Process(target=work, args=(folder, url, share, results)) for share in shares]
                for process in processes:
                    process.start()
                found = [results.get() for _ in range(options.runs)]
                for process in processes:
                    process.join()
                seconds, faults = [one for one, _ in found], [fault for _, fault in found if fault]
                states = {state: count - before.get(state, 0) for state, count in ended(url).items()}
                cuts = statistics.quantiles(seconds, n=20)
                sys.stdout.write(
                    f"{database}, {at_once} at a time: {options.runs} runs in {time.monotonic() - started:.0f} s; a run takes "
                    f"{statistics.median(seconds):.2f} s, of twenty one {cuts[-1]:.2f} s or more, at most {max(seconds):.2f} s; "
                    f"{len(faults)} failed; the server says {states}\n"
                )
                for fault in sorted(set(faults)):
                    sys.stdout.write(f"  {fault}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
