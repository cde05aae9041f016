"""Faults on purpose while artifacts are published and fetched: nothing acknowledged is lost, nothing partial is readable.

Run `python -m tests.soak.store_faults 200` for 200 seeded schedules: the same on every run but for how threads interleave.
"""

import argparse
import collections
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from blocks import s3_client, s3_download
from blocks.errors import ArtifactDamaged, StoreError
from blocks.s3_store import S3Store
from blocks.s3_upload import PART
from tests.faults import Proxy, answer, on_requests, random_schedule
from tests.s3 import S3Server

_CODES = [(500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable"), (429, "TooManyRequests"), (403, "AccessDenied")]
Counts = collections.Counter[str]


@contextmanager
def impatient() -> Iterator[None]:
    """Shorten every wait, so that many schedules take little time."""
    backoff = "botocore.retries.standard.ExponentialBackoff.delay_amount"
    with (
        mock.patch.object(s3_client, "_READ_TIMEOUT_S", 0.3),
        mock.patch.object(s3_client, "_CONNECT_TIMEOUT_S", 0.5),
        mock.patch.object(s3_download, "_PAUSE_S", 0.01),
        mock.patch(backoff, return_value=0.01),
    ):
        yield


def random_answers(seed: int, share: float) -> Callable[[Any], Any]:
    """Return a hook that answers a share of the requests with an error the server never sent."""
    rng = random.Random(f"answers {seed}")

    def handler(request: Any) -> Any:
        if rng.random() < 0.5:
            # More connections meet more faults.
            request.headers["Connection"] = "close"
        if rng.random() >= share:
            return None
        status, code = rng.choice(_CODES)
        return answer(request, status, code)

    return handler


def contents(rng: random.Random) -> dict[str, bytes]:
    """Return the files of an artifact; some are large enough to be sent and fetched in parts."""
    files = {f"part-{number}/data": rng.randbytes(rng.choice([0, 10, 70_000])) for number in range(rng.randint(1, 4))}
    if rng.random() < 0.3:
        files["weights"] = rng.randbytes(PART + 4321)
    return files


def run(server: S3Server, folder: Path, seed: int) -> Counts:
    """Run one schedule and return how its steps ended.

    Raises:
        AssertionError: something acknowledged was lost, or something partial could be read.
    """
    rng = random.Random(seed)
    counts: Counts = collections.Counter()
    clean = server.store(f"soak-{seed}")
    schedule = random_schedule(seed, share=rng.choice([0.1, 0.3, 0.5]), up_to=rng.choice([2_000, 200_000, PART]))
    with Proxy(server.ports[0], schedule, stall_s=0.6) as proxy, ExitStack() as stack:
        faulty = server.store(clean.prefix, endpoint_url=proxy.endpoint)
        stack.enter_context(on_requests(faulty.objects.client, random_answers(seed, rng.choice([0.0, 0.05, 0.2]))))
        for number in range(2):
            key = f"steps/soak/{number}"
            # Two writers of one key, one after the other, with other bytes.
            versions = [contents(rng), contents(rng)]
            acknowledged = False
            for version, files in enumerate(versions):
                acknowledged |= publish(faulty, folder / f"{number}-{version}", key, files, version, counts)
                check(clean, folder / "clean", key, versions, acknowledged)
            fetch(faulty, folder / "faulty", key, versions, counts)
            # A fetch that failed must not have taken away what was acknowledged.
            check(clean, folder / "clean", key, versions, acknowledged)
        counts.update(f"fault: {fault.kind}" for fault in proxy.struck)
    return counts


def publish(store: S3Store, folder: Path, key: str, files: dict[str, bytes], version: int, counts: Counts) -> bool:
    """Publish and tell whether that was acknowledged."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with cache_in(folder.parent / "publisher"):
        try:
            store.publish(folder, key, {"version": version})
        except StoreError as error:
            counts[f"publish: {type(error).__name__}"] += 1
            return False
    counts["publish: acknowledged"] += 1
    return True


def fetch(store: S3Store, cache: Path, key: str, versions: list[dict[str, bytes]], counts: Counts) -> None:
    """Fetch; what comes must be whole."""
    with cache_in(cache):
        try:
            assert read(store.fetch(key)) in versions, f"{key}: what was fetched is none of what was published"
            counts["fetch: whole"] += 1
        except StoreError as error:
            counts[f"fetch: {type(error).__name__}"] += 1


def check(clean: S3Store, cache: Path, key: str, versions: list[dict[str, bytes]], acknowledged: bool) -> None:
    """Look without faults: the key is whole, or not there and was never acknowledged."""
    record = clean.find(key)
    assert record is not None or not acknowledged, f"{key}: what was acknowledged is lost"
    if record is None:
        return
    with cache_in(cache):
        try:
            files = read(clean.fetch(key))
        except ArtifactDamaged as error:
            raise AssertionError(f"{key}: what is found is damaged") from error
    assert files == versions[record["version"]], f"{key}: the files are not those of the record"


def read(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Fetch into an empty cache."""
    shutil.rmtree(folder, ignore_errors=True)
    with mock.patch.dict(os.environ, {"FINETUNE_FLOWS_CACHE": str(folder)}):
        yield


def main() -> None:
    """Run many schedules and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("schedules", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    counts: Counts = collections.Counter()
    failed, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        server = S3Server(Path(name) / "server")
        server.start()
        try:
            with impatient():
                for seed in range(arguments.seed, arguments.seed + arguments.schedules):
                    try:
                        counts += run(server, Path(name) / f"run-{seed}", seed)
                    except Exception as error:
                        failed.append(f"seed {seed}: {type(error).__name__}: {error}")
                    shutil.rmtree(Path(name) / f"run-{seed}", ignore_errors=True)
        finally:
            server.kill()
    for what, count in sorted(counts.items()):
        sys.stdout.write(f"{what:40} {count:6}\n")
    for line in failed:
        sys.stdout.write(line + "\n")
    seconds = time.monotonic() - started
    sys.stdout.write(f"{arguments.schedules} schedules in {seconds:.0f} s, {len(failed)} failed\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
