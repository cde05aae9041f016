"""How fast the S3 store publishes and fetches a model, against plain uploads and downloads in the same run.

`python -m tests.benchmarks.store` starts a server on this machine. Each round publishes and runs a loop of `upload_file`,
fetches into an empty cache and runs a loop of `download_file`; which of two comes first alternates. The store also hashes
every file, twice in all; the loops don't. The ratio is the store's speed over the loop's, of the medians of all rounds.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import boto3

from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

_SMALL = 20
_SMALL_SHARE = 0.12


def make_model(folder: Path, megabytes: int) -> Path:
    """Write one large file and some small ones of random bytes."""
    folder.mkdir()
    rng = random.Random(0)
    small = int(megabytes * _SMALL_SHARE * 10**6 / _SMALL)
    for number in range(_SMALL):
        (folder / f"tokenizer-{number}.bin").write_bytes(rng.randbytes(small))
    with (folder / "model.safetensors").open("wb") as stream:
        for _ in range(int(megabytes * (1 - _SMALL_SHARE))):
            stream.write(rng.randbytes(10**6))
    return folder


def seconds(work: Callable[[], Any]) -> float:
    """Return how long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(megabytes: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round."""
    times: dict[str, list[float]] = {name: [] for name in ("publish", "upload_file", "fetch", "download_file")}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        server = S3Server(root / "server")
        server.start()
        os.environ["FINETUNE_FLOWS_CACHE"] = str(root / "cache")
        try:
            folder = make_model(root / "model", megabytes)
            names = [path.name for path in folder.iterdir()]
            store = server.store("benchmark")
            session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
            client = session.client("s3", endpoint_url=server.endpoint)

            def put(number: int) -> None:
                for file in names:
                    client.upload_file(str(folder / file), BUCKET, f"plain/{number}/{file}")

            def get(number: int) -> None:
                for file in names:
                    client.download_file(BUCKET, f"plain/{number}/{file}", str(root / "plain" / file))

            for number in range(-1, rounds):
                key = f"steps/model/{number + 1}"
                works: dict[str, Callable[[], Any]] = {
                    "publish": partial(store.publish, folder, key, {}),
                    "upload_file": partial(put, number),
                    "fetch": partial(store.fetch, key),
                    "download_file": partial(get, number),
                }
                took = {}
                (root / "plain").mkdir()
                for pair in (["publish", "upload_file"], ["fetch", "download_file"]):
                    for what in pair if number % 2 else reversed(pair):
                        took[what] = seconds(works[what])
                    shutil.rmtree(root / "cache")
                shutil.rmtree(root / "plain")
                store.delete(key)
                # The first round warms up.
                for what in times if number >= 0 else ():
                    times[what].append(took[what])
        finally:
            server.kill()
    return times


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=500, help="size of the model (10^6 bytes)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    times = measure(arguments.mb, arguments.rounds)
    medians = {what: statistics.median(values) for what, values in times.items()}
    ratios = {"publish": medians["upload_file"] / medians["publish"], "fetch": medians["download_file"] / medians["fetch"]}
    if arguments.json:
        sys.stdout.write(
            json.dumps({"mb": arguments.mb, "seconds": times, "medians": medians, "ratios": ratios}, indent=1) + "\n"
        )
        return
    sys.stdout.write(f"{arguments.mb} MB, medians of {arguments.rounds} rounds\n{'':15}{'s':>8}{'MB/s':>8}{'ratio':>8}\n")
    for what, value in medians.items():
        ratio = f"{ratios[what]:8.2f}" if what in ratios else ""
        sys.stdout.write(f"{what:15}{value:8.2f}{arguments.mb / value:8.0f}{ratio}\n")


if __name__ == "__main__":
    main()
