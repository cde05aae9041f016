"""Kill what takes part in a training, at random moments, run again, and compare with a run that nothing disturbed.

`python -m tests.soak.kills 20` kills the compute process, the flow's process and the S3 server 20 times each. Every round has a
prefix, a cache and a seed of its own; whatever was killed when, the metrics and the weights must be the undisturbed ones.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.helpers import NO_BASELINES, make_encoder, topic_rows, write_csv
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

SORTS = ("compute process", "flow process", "S3 server")
NOTHING = "nothing to kill then"
_ROOT = Path(__file__).parent.parent.parent
_MOST_RUNS = 4
_RUN_LIMIT_S = 240.0


@dataclass
class Outcome:
    """What a run came to."""

    code: int
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    weights: bytes = b""
    error: str = ""

    def equals(self, other: "Outcome") -> bool:
        """Tell whether metrics and weights are the same to the last bit."""
        return (self.before, self.after, self.weights) == (other.before, other.after, other.weights)


class Experiment:
    """A small training run, started as a person does, with its artifacts on an S3 server."""

    def __init__(self, root: Path, server: S3Server, api_url: str, *, baselines: bool = True) -> None:
        self.root, self.server, self.api_url = root, server, api_url
        self.baselines = {} if baselines else {f"baselines.{name}": wanted for name, wanted in NO_BASELINES.items()}
        self.source = write_csv(root / "topics.csv", topic_rows(240))
        self.model = make_encoder(root / "tiny-bert")
        started, run = time.monotonic(), self.start("undisturbed")
        while run.poll() is None and compute_of(run) is None:
            time.sleep(0.05)
        self.compute_after_s = time.monotonic() - started
        self.undisturbed = self.finish("undisturbed", run)
        self.lasts_s = time.monotonic() - started
        if self.undisturbed.code:
            raise RuntimeError(self.undisturbed.error)

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        """Start the run that keeps its artifacts under the prefix `name`."""
        settings = {
            "store": f"s3://{BUCKET}/{name}",
            "data.source": self.source,
            "model.name": self.model,
            **{"training.epochs": 30, "training.learning_rate": 0.003, "training.max_length": 32},
            "training.checkpoint_every": 20,
            **self.baselines,
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL_S3": self.server.endpoint,
            "FINETUNE_FLOWS_CACHE": str(self.root / name / "cache"),
            "PREFECT_API_URL": self.api_url,
            "PYTHONPATH": str(_ROOT),
        }
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        with (folder / "out").open("wb") as out, (folder / "error").open("ab") as error:
            command = [sys.executable, "-m", "flows", "run", "text-classification", "--json", *words]
            return subprocess.Popen(command, env=environment, stdout=out, stderr=error)

    def finish(self, name: str, process: "subprocess.Popen[bytes]") -> Outcome:
        """Wait for a run and return what it came to."""
        code = process.wait(_RUN_LIMIT_S)
        if code:
            lines = (self.root / name / "error").read_text(errors="replace").splitlines()
            return Outcome(code, error=lines[-1] if lines else "")
        record = json.loads((self.root / name / "out").read_text().splitlines()[-1])
        key = record["model"].removeprefix(f"s3://{BUCKET}/") + "/model.safetensors"
        weights = self.server.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return Outcome(0, record["before"], record["after"], weights)


def compute_of(run: "subprocess.Popen[bytes]") -> psutil.Process | None:
    """Return a run's compute process, or None if there is none now."""
    with suppress(psutil.Error):
        for child in psutil.Process(run.pid).children():
            if "tasks.compute" in child.cmdline():
                return child
    return None


def kill_once(experiment: Experiment, sort: str, seed: int) -> str:
    """Kill at a moment that the seed draws, run again until it is done, and say in a word what happened.

    Raises:
        AssertionError: the result is not the undisturbed one, a run never got done, or a process was left.
    """
    rng = random.Random(f"{sort} {seed}")
    name = f"{sort.replace(' ', '-')}-{seed}"
    run = experiment.start(name)
    time.sleep(rng.uniform(experiment.compute_after_s if sort == "compute process" else 0, experiment.lasts_s))
    hit = _kill(experiment, run, sort, rng)
    outcome, runs = experiment.finish(name, run), 1
    while outcome.code and runs < _MOST_RUNS:
        outcome, runs = experiment.finish(name, experiment.start(name)), runs + 1
    assert outcome.code == 0, f"{sort}, seed {seed}: not done after {runs} runs: {outcome.error}"
    assert outcome.equals(experiment.undisturbed), f"{sort}, seed {seed}: another result than undisturbed"
    store = experiment.server.store(name)
    assert store.list("checkpoints") == [], f"{sort}, seed {seed}: checkpoints are left"
    for key in store.list("steps"):
        store.fetch(key)
    error = (experiment.root / name / "error").read_text(errors="replace")
    assert "Traceback" not in error, f"{sort}, seed {seed}: a traceback in {error[-3000:]}"
    shutil.rmtree(experiment.root / name)
    if not hit:
        return NOTHING
    resumed = "resumed" if "Resuming from the checkpoint" in error else "no checkpoint yet, or training was done"
    return f"{'survived' if runs == 1 else 'run again'}, {resumed}"


def _kill(experiment: Experiment, run: "subprocess.Popen[bytes]", sort: str, rng: random.Random) -> bool:
    if run.poll() is not None:
        return False
    if sort == "S3 server":
        experiment.server.kill()
        time.sleep(rng.uniform(0, 5))
        experiment.server.start()
        return True
    if sort == "compute process":
        compute = compute_of(run)
        if compute is None:
            return False
        compute.kill()
        return True
    compute = compute_of(run)
    run.kill()
    if compute is not None:
        _, alive = psutil.wait_procs([compute], timeout=20)
        assert alive == [], "the compute process outlived its run"
    return True


def main() -> None:
    """Run the rounds and print what happened; the exit code is 1 if any went wrong."""
    from flows.local_server import local_server

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=20, help="kills of each sort")
    parser.add_argument("--sort", choices=SORTS, action="append", help="only this sort")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    failures: list[Any] = []
    with tempfile.TemporaryDirectory() as root, local_server() as prefect:
        os.environ["PREFECT_HOME"] = root
        server = S3Server(Path(root) / "s3")
        server.start()
        try:
            experiment = Experiment(Path(root), server, prefect.wait_for_url())
            for sort in options.sort or SORTS:
                counts: Counter[str] = Counter()
                for seed in itertools.count():
                    if counts.total() - counts[NOTHING] == options.count:
                        break
                    try:
                        counts[kill_once(experiment, sort, seed)] += 1
                    except AssertionError as error:
                        failures.append(str(error))
                        counts["WRONG"] += 1
                sys.stdout.write(f"{sort}: {options.count} kills\n")
                sys.stdout.writelines(f"  {count:3d}  {what}\n" for what, count in counts.most_common())
                sys.stdout.flush()
        finally:
            server.stop()
    sys.stdout.writelines(f"{failure}\n" for failure in failures)
    sys.stdout.write(f"{'wrong: ' + str(len(failures)) if failures else 'all results equal the undisturbed one'}\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
