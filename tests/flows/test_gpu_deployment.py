"""Tests of the GPU stage as a run of its own: with no worker, cancelled, crashed, orphaned."""

import itertools
import re
import time
from pathlib import Path

import psutil

from tests.flows.deployed import GPU, TRAINING, Prefect, flow_process, metrics, span, training

ENDLESS = TRAINING | {"epochs": 1000}


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

    prefect.logged(waiting, f".*{re.escape(said)}", seconds=240)
    assert prefect.run(waiting)["state_type"] == "RUNNING"
    prefect.command("flow-run", "cancel", waiting)
    assert prefect.wait(waiting)["state_type"] == "CANCELLED"
    (stage,) = prefect.gpu_runs(waiting)
    prefect.wait(stage["id"], lambda run: run["state_type"] == "CANCELLED", seconds=20)


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
    # However long the next run takes to find it, it is under way.
    compute.suspend()
    parent = next(process for process in psutil.Process().children(recursive=True) if runs(process, first))
    parent.kill()
    assert prefect.wait(first)["state_type"] == "CRASHED"

    # The next attempt finds the stage that is under way; another GPU job waits for its turn, for there is one place.
    second = prefect.start(**settings)
    other = prefect.start(**settings | {"store": f"{store}/other", "name": "other", "training": TRAINING | {"epochs": 1}})
    prefect.logged(second, "Waiting for run", seconds=240)
    (stage,) = prefect.gpu_runs(first)
    assert prefect.gpu_runs(second) == []
    assert prefect.run(stage["id"])["state_type"] == "RUNNING"

    # A stage that crashes gives its place back, is started again, and resumes.
    flow_process(compute).kill()
    assert prefect.wait(stage["id"])["state_type"] == "CRASHED"
    ended = prefect.complete(second)
    assert ended["run_count"] == 1
    (again,) = prefect.gpu_runs(second)
    prefect.logged(again["id"], "Resuming from the checkpoint of optimizer step ")
    prefect.logged(second, ".*ended as Crashed.*starting it again")
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
