"""Tests of `prefect.yaml`: a real server, real workers, and the Prefect UI in a real browser."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.helpers import browser

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Prefect:
    """A server with both deployments and a worker for each pool."""

    url: str
    environment: dict[str, str]
    config: dict[str, Any]

    def command(self, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = httpx.get(f"{self.url}/api/{path}") if body is None else httpx.post(f"{self.url}/api/{path}", json=body)
        return request.raise_for_status().json()

    def deployment(self) -> str:
        return str(self.api("deployments/name/text-classification/text-classification")["id"])

    def start(self, **changes: Any) -> str:
        parameters = {"config": self.config | changes}
        return str(self.api(f"deployments/{self.deployment()}/create_flow_run", {"parameters": parameters})["id"])

    def wait(self, run: str, until: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.api(f"flow_runs/{run}")
            if until(found) if until else found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return found
            time.sleep(0.5)
        pytest.fail(f"flow run {run} is {found['state_name']} after 240 s")

    def tasks(self, run: str) -> dict[str, str]:
        tasks = self.api("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task["state"]["name"] for task in tasks}

    def gpu_runs(self) -> list[str]:
        runs = self.api("flow_runs/filter", {"flows": {"name": {"any_": ["gpu-stage"]}}})
        return [run["id"] for run in runs]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _start(stack: ExitStack, environment: dict[str, str], *arguments: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def stop() -> None:
        family = [*psutil.Process(process.pid).children(recursive=True), process]
        for member in family:
            member.terminate()
        process.wait(30)

    stack.callback(stop)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory, topics_csv: Path, encoder: Path) -> Iterator[Prefect]:
    home, port = tmp_path_factory.mktemp("server"), _free_port()
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
    config = {
        "name": "deployed",
        "store": str(tmp_path_factory.mktemp("store")),
        "data": {"source": str(topics_csv)},
        "model": {"name": str(encoder)},
        "training": {"epochs": 1, "learning_rate": 0.01, "max_length": 32},
    }
    prefect = Prefect(url, environment, config)
    with ExitStack() as stack:
        _start(stack, environment, "server", "start", "--host", "127.0.0.1", "--port", str(port))
        for _ in range(240):
            try:
                if httpx.get(f"{url}/api/health").is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.25)
        for pool in ("cpu", "gpu"):
            prefect.command("work-pool", "create", pool, "--type", "process")
            _start(stack, environment, "worker", "start", "--pool", pool)
        prefect.command("--no-prompt", "deploy", "--all")
        yield prefect


def test_the_gpu_stage_runs_on_its_own_pool_and_only_when_it_must(prefect: Prefect) -> None:
    first = prefect.start(gpu_deployment="gpu-stage/gpu-stage")
    ended = prefect.wait(first)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    assert ended["name"] == "deployed-topics.csv-tiny-bert"
    (stage,) = prefect.gpu_runs()
    assert set(prefect.tasks(stage)) == {"evaluate-baseline", "fine-tune", "evaluate-fine-tuned"}
    assert prefect.api(f"flow_runs/{stage}")["work_pool_name"] == "gpu"
    assert {"preflight", "load-dataset", "tokenize", "compare", "report"} <= set(prefect.tasks(first))

    second = prefect.start(gpu_deployment="gpu-stage/gpu-stage")
    again = prefect.wait(second)
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    assert prefect.tasks(second)["tokenize"] == "Cached"
    assert prefect.gpu_runs() == [stage], "a GPU was asked for though the store had the result"


def test_a_relative_store_is_refused_in_a_deployments_run(prefect: Prefect) -> None:
    ended = prefect.wait(prefect.start(store="artifacts"))
    assert ended["state_type"] == "FAILED"
    assert "Store 'artifacts' is a relative path" in ended["state"]["message"]


def test_a_gpu_deployment_that_is_not_there_is_named(prefect: Prefect) -> None:
    ended = prefect.wait(prefect.start(gpu_deployment="gpu-stage/none", seed=3))
    assert ended["state_type"] == "FAILED"
    assert "There is no deployment 'gpu-stage/none'" in ended["state"]["message"]


def compute_processes() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and "tasks.compute" in process.cmdline()
    ]


def flow_process(compute: psutil.Process) -> psutil.Process:
    """Return the process of the flow run that a compute process belongs to."""
    parent = compute.parent()
    assert parent is not None
    return parent


def training_process(prefect: Prefect, run: str) -> psutil.Process:
    """Wait until a run has published a checkpoint, and return its compute process."""
    found: list[psutil.Process] = []

    def has_checkpoint(_: dict[str, Any]) -> bool:
        found[:] = compute_processes()
        return bool(found) and bool(list(Path(prefect.config["store"]).glob("checkpoints/*/[0-9]*/manifest.json")))

    prefect.wait(run, has_checkpoint)
    return found[0]


def long_training(prefect: Prefect, learning_rate: float) -> dict[str, Any]:
    return prefect.config["training"] | {"epochs": 60, "checkpoint_every": 60, "learning_rate": learning_rate}


def logs(prefect: Prefect, run: str) -> list[str]:
    found = prefect.api("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    return [entry["message"] for entry in found]


def test_a_run_that_gets_sigterm_is_scheduled_again_and_resumes(prefect: Prefect) -> None:
    training = long_training(prefect, 0.002)
    run = prefect.start(name="evicted", training=training)
    compute = training_process(prefect, run)
    flow_process(compute).terminate()
    compute.wait(30)
    ended = prefect.wait(run)
    assert ended["state_type"] == "COMPLETED", ended["state"]
    assert ended["run_count"] == 2
    assert any(line.startswith("Resuming from the checkpoint of optimizer step ") for line in logs(prefect, run))
    states = [state["name"] for state in prefect.api(f"flow_run_states/?flow_run_id={run}")]
    assert "AwaitingRetry" in states
    assert "Crashed" not in states
    # What came of it is what comes of the same training undisturbed.
    other = prefect.wait(prefect.start(name="undisturbed", training=training, store=f"{prefect.config['store']}-other"))
    assert other["state_type"] == "COMPLETED"
    metrics = [
        report_of(prefect, store, name)
        for store, name in ((prefect.config["store"], "evicted"), (f"{prefect.config['store']}-other", "undisturbed"))
    ]
    assert metrics[0] == metrics[1]


def report_of(prefect: Prefect, store: str, name: str) -> Any:
    (path,) = Path(store).glob(f"runs/{name}-*/metrics.json")
    return json.loads(path.read_text())["after"]


def test_a_run_that_is_cancelled_stays_cancelled_and_leaves_no_compute_process(prefect: Prefect) -> None:
    run = prefect.start(name="cancelled", training=long_training(prefect, 0.0021) | {"epochs": 1000})
    compute = training_process(prefect, run)
    prefect.command("flow-run", "cancel", run)
    assert prefect.wait(run)["state_type"] == "CANCELLED"
    _, alive = psutil.wait_procs([compute], timeout=30)
    assert alive == []
    # Nobody takes it up again.
    time.sleep(3)
    assert prefect.api(f"flow_runs/{run}")["state_type"] == "CANCELLED"


def test_a_run_is_started_in_the_ui_and_shows_its_artifacts_there(prefect: Prefect) -> None:
    deployment = prefect.deployment()
    httpx.patch(
        f"{prefect.url}/api/deployments/{deployment}", json={"parameters": {"config": prefect.config | {"name": "from-ui"}}}
    ).raise_for_status()
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(f"{prefect.url}/deployments/deployment/{deployment}/run")
        descriptions = ("Name of the model", "Seed of everything", "Where artifacts", "Passes over")
        for words in descriptions:
            page.get_by_text(words).first.wait_for(timeout=60_000)
        text = page.locator("main, body").first.inner_text()
        # The form keeps the order of the config.
        places = [text.index(words) for words in descriptions]
        assert places == sorted(places)
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url(f"**/deployments/deployment/{deployment}?**", timeout=60_000)
        newest = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
        (run,) = prefect.api("flow_runs/filter", newest)
        assert prefect.wait(run["id"])["name"] == "from-ui-topics.csv-tiny-bert"
        assert prefect.wait(run["id"])["state_type"] == "COMPLETED"
        artifacts = {entry["key"]: entry["id"] for entry in prefect.api("artifacts/filter", {})}
        page.goto(f"{prefect.url}/artifacts/artifact/{artifacts['from-ui-summary']}")
        page.get_by_text("after fine-tuning and").first.wait_for(timeout=60_000)
        assert "report.html" in page.locator("body").inner_text()
        page.goto(f"{prefect.url}/artifacts/artifact/{artifacts['from-ui-scores']}")
        page.locator("img[src^='data:image/png']").first.wait_for(timeout=60_000)
        page.goto(f"{prefect.url}/artifacts/artifact/{artifacts['from-ui-metrics']}")
        page.get_by_text("Matthews correlation").first.wait_for(timeout=60_000)
