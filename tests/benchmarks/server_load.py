"""How many runs one Prefect server carries: `python -m tests.benchmarks.server_load [--runs N] [--at_once N …] [--database URL]`.

The smallest job, a text classification at which nothing has changed, runs so many times against a server of its own, in so many
processes at a time, each run after run, so that starting Python is not counted. Printed are how long a run took, how many failed,
and in which states the server has them. The server keeps its data in SQLite, or where `--database` says, e.g.
`postgresql+asyncpg://user:password@127.0.0.1/prefect`.
"""

import argparse
import csv
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_LONGEST_S = 600.0
"""Until the next run ends: longer than any waits for the server."""
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


def show(row: dict[str, Any]) -> None:
    """Print a line of the table."""
    sys.stdout.write(f"{row['database']:<20}{row['at_once']:>8}{row['runs']:>6}{row['took_s']:>9.0f}{row['median_s']:>11.2f}")
    sys.stdout.write(f"{row['one_in_20_above_s']:>12.2f}{row['longest_s']:>12.2f}{row['failed']:>8}  {row['states']}\n")


def main() -> None:
    """Measure and print a line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--at_once", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--database", help="URL of the server's database, by default SQLite in a temporary folder")
    parser.add_argument("--json", action="store_true", help="print it as JSON too")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
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
            sys.stdout.write(
                f"{'database':<20}{'at once':>8}{'runs':>6}{'took, s':>9}{'median, s':>11}{'1 in 20, s':>12}{'longest, s':>12}"
                f"{'failed':>8}  the server's states\n"
            )
            for at_once in options.at_once:
                shares = [len(range(start, options.runs, at_once)) for start in range(at_once)]
                started, before = time.monotonic(), ended(url)
                # As daemons they end with this process, should one of them not answer.
                processes = [context.Process(target=work, args=(folder, url, share, results), daemon=True) for share in shares]
                for process in processes:
                    process.start()
                found = [results.get(timeout=_LONGEST_S) for _ in range(options.runs)]
                for process in processes:
                    process.join()
                took, seconds = time.monotonic() - started, [one for one, _ in found]
                faults = [fault for _, fault in found if fault]
                states = {state: count - before.get(state, 0) for state, count in ended(url).items()}
                rows.append(
                    {
                        "database": database,
                        "at_once": at_once,
                        "runs": options.runs,
                        "took_s": took,
                        "median_s": statistics.median(seconds),
                        "one_in_20_above_s": statistics.quantiles(seconds, n=20)[-1],
                        "longest_s": max(seconds),
                        "failed": len(faults),
                        "states": states,
                    }
                )
                show(rows[-1])
                for fault in sorted(set(faults)):
                    sys.stdout.write(f"  {fault}\n")
                sys.stdout.flush()
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
