"""Tests of deployed runs: pools, schedules, and runs that lose their process, their worker or their parent."""

import datetime as dt
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.experiments import text_classification
from tasks.kinds.text_classification import TextClassificationConfig
from tests.flows.deployed import Prefect, compute_process, metrics

GPU = {"gpu_deployment": "gpu-stage/gpu-stage"}
TRAINING = {"epochs": 60, "checkpoint_every": 60, "learning_rate": 0.002, "max_length": 32}
ENDLESS = TRAINING | {"epochs": 1000}


@pytest.fixture(scope="module")
def undisturbed(prefect_api: str, prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Return what comes of `TRAINING` where nothing disturbs it."""
    changes = {"training": TRAINING, "store": str(tmp_path_factory.mktemp("undisturbed"))}
    return text_classification(TextClassificationConfig.model_validate(prefect.config | changes)).after


@dataclass
class Lost:
    """A run whose worker was killed with all that it had started, as a machine that loses its power."""

    run: str
    store: str
    killed: float


@pytest.fixture(scope="module")
def lost(prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Lost:
    """Kill a worker in mid-training and start another; the tests between the first and the last of this module pass the time."""
    prefect.copy_deployment("spare", "spare")
    store = str(tmp_path_factory.mktemp("lost"))
    worker = prefect.worker("spare")
    run = prefect.start("spare", training=TRAINING, store=store, name="lost")
    prefect.wait(run, lambda _: compute_process(store))
    # The run's first sign of life comes with its first step; from then on the server knows that it lived.
    family = [*worker.children(recursive=True), worker]
    for process in family:
        process.kill()
    killed = time.time()
    psutil.wait_procs(family, timeout=20)
    prefect.worker("spare")
    return Lost(run, store, killed)


def test_a_run_whose_worker_died_is_still_said_to_run(prefect: Prefect, lost: Lost) -> None:
    assert prefect.run(lost.run)["state_type"] == "RUNNING"


def test_the_gpu_stage_runs_on_its_own_pool_and_only_when_it_must(prefect: Prefect) -> None:
    first = prefect.start(**GPU)
    ended = prefect.complete(first)
    assert ended["name"] == "deployed-topics.csv-tiny-bert"
    (stage,) = prefect.gpu_runs(first)
    assert set(prefect.tasks(stage["id"])) == {"evaluate-baseline", "fine-tune", "evaluate-fine-tuned"}
    assert stage["work_pool_name"] == "gpu"
    assert {"preflight", "load-dataset", "tokenize", "compare", "report"} <= set(prefect.tasks(first))

    # As the next tick of a schedule, with nothing changed.
    second = prefect.start(**GPU)
    again = prefect.complete(second)
    assert prefect.tasks(second)["tokenize"] == "Cached"
    assert prefect.gpu_runs(second) == [], "a GPU was asked for though the store had the result"
    said = f"Nothing changed since {ended['name']}: data, model, code and settings are the same; no step was computed."
    assert again["state"]["message"] == said
    assert said in prefect.logs(second)
    assert not (ended["state"]["message"] or "").startswith("Nothing changed")


def test_a_relative_store_is_refused_in_a_deployments_run(prefect: Prefect) -> None:
    ended = prefect.wait(prefect.start(store="artifacts"))
    assert ended["state_type"] == "FAILED"
    assert "Store 'artifacts' is a relative path" in ended["state"]["message"]


def test_a_gpu_deployment_that_is_not_there_is_named(prefect: Prefect) -> None:
    ended = prefect.wait(prefect.start(gpu_deployment="gpu-stage/none", seed=3))
    assert ended["state_type"] == "FAILED"
    assert "There is no deployment 'gpu-stage/none'" in ended["state"]["message"]


def test_where_no_gpu_worker_is_online_the_run_says_so_and_fails_or_waits(prefect: Prefect) -> None:
    prefect.copy_deployment("idle", "idle", of="gpu-stage/gpu-stage")
    absent = {"gpu_deployment": "gpu-stage/idle", "gpu_wait_s": 1, "training": TRAINING | {"learning_rate": 0.1}}
    failing, waiting = (prefect.start(**absent, gpu_absent=way, seed=seed) for way, seed in (("fail", 1), ("wait", 2)))
    said = "No worker of work pool 'idle' has been online for 1 s"
    remedy = "start one with 'prefect worker start --pool idle'"
    ended = prefect.wait(failing)
    assert ended["state_type"] == "FAILED"
    assert said in ended["state"]["message"]
    assert remedy in ended["state"]["message"]
    (stage,) = prefect.gpu_runs(failing)
    assert stage["state_type"] == "CANCELLED", "the run that nobody waits for would start with the next worker"

    prefect.wait(waiting, lambda _: any(said in line for line in prefect.logs(waiting)))
    assert prefect.run(waiting)["state_type"] == "RUNNING"
    prefect.command("flow-run", "cancel", waiting)
    assert prefect.wait(waiting)["state_type"] == "CANCELLED"
    (stage,) = prefect.gpu_runs(waiting)
    prefect.wait(stage["id"], lambda run: run["state_type"] == "CANCELLED", seconds=20)


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


def test_a_run_that_gets_sigterm_is_scheduled_again_and_resumes(
    prefect: Prefect, undisturbed: dict[str, float], tmp_path: Path
) -> None:
    store = str(tmp_path)
    run = prefect.start(name="evicted", training=TRAINING, store=store)
    compute = training(prefect, run, store)
    flow_process(compute).terminate()
    compute.wait(30)
    ended = prefect.complete(run)
    assert ended["run_count"] == 2
    assert any(line.startswith("Resuming from the checkpoint of optimizer step ") for line in prefect.logs(run))
    states = [state["name"] for state in prefect.states(run)]
    assert "AwaitingRetry" in states
    assert "Crashed" not in states
    assert metrics(store, "evicted") == undisturbed


def test_a_run_that_is_cancelled_stays_cancelled_and_leaves_no_compute_process(prefect: Prefect, tmp_path: Path) -> None:
    run = prefect.start(name="cancelled", training=ENDLESS, store=str(tmp_path))
    compute = training(prefect, run, str(tmp_path))
    prefect.command("flow-run", "cancel", run)
    assert prefect.wait(run)["state_type"] == "CANCELLED"
    _, alive = psutil.wait_procs([compute], timeout=30)
    assert alive == []
    # Nobody takes it up again.
    time.sleep(3)
    assert prefect.run(run)["state_type"] == "CANCELLED"


def test_cancelling_a_run_cancels_its_gpu_stage(prefect: Prefect, tmp_path: Path) -> None:
    run = prefect.start(name="cancelled", training=ENDLESS, store=str(tmp_path), **GPU)
    compute = training(prefect, run, str(tmp_path))
    prefect.command("flow-run", "cancel", run)
    assert prefect.wait(run)["state_type"] == "CANCELLED"
    (stage,) = prefect.gpu_runs(run)
    assert prefect.wait(stage["id"])["state_type"] == "CANCELLED"
    _, alive = psutil.wait_procs([compute], timeout=30)
    assert alive == []


def test_a_gpu_stage_outlives_its_parent_and_a_crashed_one_is_started_again(
    prefect: Prefect, undisturbed: dict[str, float], tmp_path: Path
) -> None:
    store = str(tmp_path)
    settings = {"name": "orphan", "training": TRAINING, "store": store, **GPU}
    first = prefect.start(**settings)
    compute = training(prefect, first, store)
    parent = next(process for process in psutil.Process().children(recursive=True) if runs(process, first))
    parent.kill()
    assert prefect.wait(first)["state_type"] == "CRASHED"

    # The next attempt finds the stage that is under way; another GPU job waits for its turn, for there is one place.
    second = prefect.start(**settings)
    other = prefect.start(**settings | {"store": f"{store}/other", "name": "other", "training": TRAINING | {"epochs": 1}})
    prefect.wait(second, lambda _: any(line.startswith("Waiting for run") for line in prefect.logs(second)))
    (stage,) = prefect.gpu_runs(first)
    assert prefect.gpu_runs(second) == []
    assert prefect.run(stage["id"])["state_type"] == "RUNNING"

    # A stage that crashes gives its place back, is started again, and resumes.
    flow_process(compute).kill()
    assert prefect.wait(stage["id"])["state_type"] == "CRASHED"
    ended = prefect.complete(second)
    assert ended["run_count"] == 1
    (again,) = prefect.gpu_runs(second)
    assert any(line.startswith("Resuming from the checkpoint of optimizer step ") for line in prefect.logs(again["id"]))
    assert any("ended as Crashed" in line and "starting it again" in line for line in prefect.logs(second))
    assert metrics(store, "orphan") == undisturbed
    prefect.complete(other)
    (third,) = prefect.gpu_runs(other)
    runs_of_gpu = sorted(span(prefect, run) for run in (stage["id"], again["id"], third["id"]))
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(runs_of_gpu))


def runs(process: psutil.Process, run: str) -> bool:
    """Tell whether a process is the one of a flow run."""
    try:
        return process.environ().get("PREFECT__FLOW_RUN_ID", "") == run and "tasks.compute" not in process.cmdline()
    except psutil.Error:
        return False


def span(prefect: Prefect, run: str) -> tuple[dt.datetime, dt.datetime]:
    """Return when a run began to run and when it ended."""
    times = {state["type"]: dt.datetime.fromisoformat(state["timestamp"]) for state in prefect.states(run)}
    return times["RUNNING"], max(times.values())


def test_a_run_is_started_from_the_command_line(prefect: Prefect, tmp_path: Path) -> None:
    config = prefect.config | {"name": "by-hand", "store": str(tmp_path), "training": prefect.config["training"] | {"epochs": 2}}
    words = ("text-classification/text-classification", "--param", f"config={json.dumps(config)}", "--watch")
    prefect.command("deployment", "run", *words)
    (path,) = tmp_path.glob("runs/by-hand-*/run.json")
    assert json.loads(path.read_text())["config"]["training"]["epochs"] == 2


def test_a_tick_that_comes_while_the_last_one_runs_waits(prefect: Prefect, tmp_path: Path) -> None:
    settings = {"config": prefect.config | {"store": str(tmp_path), "name": "tick"}}
    weekly = prefect.deployment("ag-news-weekly")
    ticks = [prefect.api(f"deployments/{weekly}/create_flow_run", {"parameters": settings})["id"] for _ in range(2)]
    for tick in ticks:
        prefect.complete(tick)
    first, second = sorted(span(prefect, tick) for tick in ticks)
    assert first[1] <= second[0]
    messages = [prefect.run(tick)["state"]["message"] or "" for tick in ticks]
    assert sum(message.startswith("Nothing changed since tick-") for message in messages) == 1


def test_another_worker_finishes_the_run_of_a_dead_one_within_150_seconds(
    prefect: Prefect, lost: Lost, undisturbed: dict[str, float]
) -> None:
    ended = prefect.complete(lost.run)
    assert dt.datetime.fromisoformat(ended["end_time"]).timestamp() - lost.killed < 150
    assert ended["run_count"] == 2
    assert any(line.startswith("Resuming from the checkpoint of optimizer step ") for line in prefect.logs(lost.run))
    assert any("no heartbeat for 90 s" in (state["message"] or "") for state in prefect.states(lost.run))
    assert metrics(lost.store, "lost") == undisturbed
