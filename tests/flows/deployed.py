"""A real Prefect server with the deployments of `prefect.yaml` and real workers, for the tests of what they do together."""

import datetime as dt
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows.experiments import text_classification
from tasks.kinds.text_classification import TextClassificationConfig

ROOT = Path(__file__).parent.parent.parent
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
FLOW = "text-classification"
GPU = {"gpu_deployment": "gpu-stage/gpu-stage"}
TRAINING = {"epochs": 24, "checkpoint_every": 40, "learning_rate": 0.002, "max_length": 32}


@dataclass(frozen=True)
class Prefect:
    """A server with all deployments and a worker for each pool."""

    url: str
    environment: dict[str, str]
    config: dict[str, Any]
    stack: ExitStack

    def command(self, *arguments: str, module: str = "prefect") -> str:
        """Run a command line and return its output."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the API, with POST where there is a body."""
        return ask(f"{self.url}/api/{path}", body)

    def deployment(self, name: str = FLOW, flow: str = FLOW) -> str:
        """Return the id of a deployment."""
        return str(self.api(f"deployments/name/{flow}/{name}")["id"])

    def copy_deployment(self, name: str, pool: str, *, of: str = f"{FLOW}/{FLOW}", **fields: Any) -> None:
        """Make another deployment of the same flow, with other fields, on another pool of processes."""
        with suppress(httpx.HTTPStatusError):
            self.api("work_pools/", {"name": pool, "type": "process"})
        found = self.api(f"deployments/name/{of}")
        kept = "flow_id entrypoint pull_steps tags job_variables parameters parameter_openapi_schema".split()
        self.api("deployments/", {**{key: found[key] for key in kept}, "name": name, "work_pool_name": pool, **fields})

    def start(self, deployment: str = FLOW, **changes: Any) -> str:
        """Start a run with changes to the common configuration, and return its id."""
        parameters = {"config": self.config | changes}
        return str(self.api(f"deployments/{self.deployment(deployment)}/create_flow_run", {"parameters": parameters})["id"])

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api(f"flow_runs/{run}")
        return found

    def wait(self, run: str, until: Callable[[dict[str, Any]], Any] | None = None, seconds: float = 240) -> dict[str, Any]:
        """Wait until a run is over, or until it meets a condition."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.run(run)
            if until(found) if until else found["state_type"] in ENDED:
                return found
            time.sleep(0.3)
        pytest.fail(f"flow run {run} is {found['state_name']} after {seconds} s")

    def complete(self, run: str) -> dict[str, Any]:
        """Wait until a run is completed."""
        ended = self.wait(run)
        assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
        return ended

    def tasks(self, run: str) -> dict[str, str]:
        """Return the states of the tasks of a run that is over; the server may hear of them after that."""
        deadline = time.monotonic() + 30
        while True:
            tasks = self.api("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
            if all(task["state"] and task["state"]["type"] in ENDED for task in tasks) or time.monotonic() > deadline:
                return {task["name"]: task["state"]["name"] for task in tasks}
            time.sleep(0.3)

    def states(self, run: str) -> list[dict[str, Any]]:
        """Return the states that a run went through."""
        found: list[dict[str, Any]] = self.api(f"flow_run_states/?flow_run_id={run}")
        return found

    def logs(self, run: str) -> list[str]:
        found = self.api("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"})
        return [entry["message"] for entry in found]

    def logged(self, run: str, pattern: str, seconds: float = 30) -> list[str]:
        """Wait until a line of a run's log begins with a pattern, and return the log: it comes after the states."""
        deadline = time.monotonic() + seconds
        while True:
            lines = self.logs(run)
            if any(re.match(pattern, line) for line in lines):
                return lines
            assert time.monotonic() < deadline, f"no line begins with {pattern!r}: {lines}"
            time.sleep(0.3)

    def gpu_runs(self, parent: str) -> list[dict[str, Any]]:
        """Return the runs of the GPU stage that a run started, oldest first."""
        body = {"flow_runs": {"parent_flow_run_id": {"any_": [parent]}}, "sort": "START_TIME_ASC"}
        found: list[dict[str, Any]] = self.api("flow_runs/filter", body)
        return found

    def worker(self, pool: str, *arguments: str) -> psutil.Process:
        """Start a worker, to be ended with the server."""
        return start(self.stack, self.environment, "worker", "start", "--pool", pool, *arguments)


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """Return the answer of a URL of Prefect's API, got with POST where there is a body."""
    for _ in range(20):
        # Without `verify` each call would read all certificates: 21 ms of polling every 0.3 s.
        answer = httpx.request("GET" if body is None else "POST", url, json=body, timeout=30, verify=False)
        # SQLite's way of saying that another one writes; Prefect's own clients try again too.
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(0.5)
    return answer.raise_for_status().json()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(stack: ExitStack, environment: dict[str, str], *arguments: str) -> psutil.Process:
    """Start a Prefect command, to be ended with all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def stop() -> None:
        with suppress(psutil.NoSuchProcess):
            for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                member.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            # It waits for a server that does not answer.
            process.kill()
            process.wait()

    stack.callback(stop)
    return psutil.Process(process.pid)


def start_prefect(stack: ExitStack, home: Path, config: dict[str, Any]) -> Prefect:
    """Start it all by the commands of the README."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        # The flows are found where they are installed; here that is this checkout.
        "PYTHONPATH": str(ROOT),
    }
    prefect = Prefect(url, environment, config, stack)
    start(stack, environment, "server", "start", "--host", "127.0.0.1", "--port", str(port))
    for _ in range(240):
        try:
            if httpx.get(f"{url}/api/health").is_success:
                break
        except httpx.HTTPError:
            time.sleep(0.25)
    # It makes the pools too.
    prefect.command("setup", module="flows")
    prefect.worker("cpu")
    prefect.worker("gpu", "--limit", "1")
    prefect.command("--no-prompt", "deploy", "--all")
    return prefect


def compute_process(store: str) -> psutil.Process | None:
    """Return the compute process that trains for a run with this store, once there is a checkpoint in it."""
    if not list(Path(store).glob("checkpoints/*/[0-9]*/manifest.json")):
        return None
    for mark in Path(store).glob("running/*.json"):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                is_compute = "tasks.compute" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
                parent = process.parent() if is_compute else None
                if parent is not None and parent.environ().get("PREFECT__FLOW_RUN_ID", "").replace("-", "") == mark.stem.replace(
                    "-", ""
                ):
                    return process
    return None


def metrics(store: str, name: str) -> Any:
    """Return the metrics after fine-tuning that the one run with this name reported."""
    (path,) = Path(store).glob(f"runs/{name}-*/metrics.json")
    return json.loads(path.read_text(encoding="utf-8"))["after"]


def flow_process(compute: psutil.Process) -> psutil.Process:
    """Return the process of the flow run that a compute process belongs to."""
    parent = compute.parent()
    assert parent is not None
    return parent


def training(prefect: Prefect, run: str, store: str) -> psutil.Process:
    """Wait until a run has published a checkpoint, and return its compute process."""
    found: list[psutil.Process | None] = []

    def has_checkpoint(_: dict[str, Any]) -> bool:
        found[:] = [compute_process(store)]
        return found[0] is not None

    prefect.wait(run, has_checkpoint)
    assert found[0] is not None
    return found[0]


def span(prefect: Prefect, run: str) -> tuple[dt.datetime, dt.datetime]:
    """Return when a run began to run and when it ended."""
    times = {state["type"]: dt.datetime.fromisoformat(state["timestamp"]) for state in prefect.states(run)}
    return times["RUNNING"], max(times.values())


def undisturbed_metrics(prefect: Prefect, store: Path) -> dict[str, float]:
    """Return what comes of `TRAINING` where nothing disturbs it, in this process."""
    changes = {"training": TRAINING, "store": str(store)}
    return text_classification(TextClassificationConfig.model_validate(prefect.config | changes)).after
