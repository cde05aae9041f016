"""Tests of deployed runs: pools, schedules, and runs that lose their process, their worker or their parent."""

import datetime as dt
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from blocks.artifact_store import LocalStore
from tests.flows.deployed import (
    GPU,
    TRAINING,
    Prefect,
    compute_process,
    flow_process,
    metrics,
    span,
    training,
)
from tests.flows.test_kinds import settings as run_settings
from tests.helpers import TOPICS, topic_rows, write_csv
from tests.predicting import crown, publish_model


@dataclass
class Lost:
    """A run whose worker was killed with all that it had started, as a machine that loses its power."""

    run: str
    store: str
    killed: float


@pytest.fixture(scope="module")
def lost(prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Lost:
    """Kill a worker in mid-training and start another; the tests after the first pass the time until it is taken for dead."""
    prefect.copy_deployment("spare", "spare")
    store = str(tmp_path_factory.mktemp("lost"))
    worker = prefect.worker("spare")
    # The first checkpoint comes late, so that little is left to do.
    run = prefect.start("spare", training=TRAINING | {"checkpoint_every": 120}, store=store, name="lost")
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
    # What the compute process says is in the run's log, and no bar's debris.
    lines = prefect.logged(stage["id"], r"step 11/11, epoch 1\.00, loss ")
    assert not any(debris in line for line in lines for debris in ("\r", "it/s]", "%|", "\x1b"))

    # As the next tick of a schedule, with nothing changed.
    second = prefect.start(**GPU)
    again = prefect.complete(second)
    assert prefect.tasks(second)["tokenize"] == "Cached"
    assert prefect.gpu_runs(second) == [], "a GPU was asked for though the store had the result"
    said = f"Nothing changed since {ended['name']}: data, model, code and settings are the same; no step was computed."
    assert again["state"]["message"] == said
    prefect.logged(second, f"{re.escape(said)}$")
    assert not (ended["state"]["message"] or "").startswith("Nothing changed")


def test_a_relative_store_is_refused_in_a_deployments_run(prefect: Prefect) -> None:
    ended = prefect.wait(prefect.start(store="artifacts"))
    assert ended["state_type"] == "FAILED"
    assert "Store 'artifacts' is a relative path" in ended["state"]["message"]


def test_a_file_is_predicted_by_a_worker(prefect: Prefect, tmp_path: Path, encoder: Path) -> None:
    store = LocalStore(tmp_path / "store")
    crown(store, "topics", publish_model(store, tmp_path, encoder, "text-classification", {}, labels=list(TOPICS)))
    source = write_csv(tmp_path / "rows.csv", [{"text": row["text"]} for row in topic_rows(30)])
    files = {"input": str(source), "output": str(tmp_path / "out.jsonl"), "store": str(store.root), "shard_rows": 10}

    def start(**changes: Any) -> str:
        parameters = {"name": "topics", **files, **changes}
        deployment = prefect.deployment("predict", "predict")
        return str(prefect.api(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])

    whole, wrong = start(columns={"text_column": "text"}), start(output="out.jsonl")
    prefect.complete(whole)
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 30
    assert set(prefect.tasks(whole).values()) == {"Completed"}
    ended = prefect.wait(wrong)
    assert ended["state_type"] == "FAILED"
    assert "output 'out.jsonl' is a relative path" in ended["state"]["message"]


def test_another_worker_finishes_the_run_of_a_dead_one_within_150_seconds(
    prefect: Prefect, lost: Lost, request: pytest.FixtureRequest
) -> None:
    ended = prefect.complete(lost.run)
    assert dt.datetime.fromisoformat(ended["end_time"]).timestamp() - lost.killed < 150
    assert ended["run_count"] == 2
    prefect.logged(lost.run, "Resuming from the checkpoint of optimizer step ")
    assert any("no heartbeat for 90 s" in (state["message"] or "") for state in prefect.states(lost.run))
    # Not before: it computes.
    assert metrics(lost.store, "lost") == request.getfixturevalue("undisturbed")


def test_a_gpu_deployment_that_is_not_there_is_named(prefect: Prefect) -> None:
    ended = prefect.wait(prefect.start(gpu_deployment="gpu-stage/none", seed=3))
    assert ended["state_type"] == "FAILED"
    assert "There is no deployment 'gpu-stage/none'" in ended["state"]["message"]


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
    prefect.logged(run, "Resuming from the checkpoint of optimizer step ")
    states = [state["name"] for state in prefect.states(run)]
    assert "AwaitingRetry" in states
    assert "Crashed" not in states
    assert metrics(store, "evicted") == undisturbed


def test_a_run_is_started_from_the_command_line(prefect: Prefect) -> None:
    # A setting that changes no result: another test's run has left all artifacts.
    config = prefect.config | {"name": "by-hand", "training": prefect.config["training"] | {"time_limit_s": 77}}
    words = ("text-classification/text-classification", "--param", f"config={json.dumps(config)}", "--watch")
    prefect.command("deployment", "run", *words)
    (path,) = Path(prefect.config["store"]).glob("runs/by-hand-*/run.json")
    assert json.loads(path.read_text())["config"]["training"]["time_limit_s"] == 77


def test_another_kind_runs_its_gpu_stage_on_the_gpu_pool_too(prefect: Prefect, tmp_path: Path) -> None:
    config = run_settings("causal-lm", tmp_path, str(tmp_path / "store")) | GPU
    deployment = prefect.deployment("causal-lm", "causal-lm")
    run = str(prefect.api(f"deployments/{deployment}/create_flow_run", {"parameters": {"config": config}})["id"])
    prefect.complete(run)
    (stage,) = prefect.gpu_runs(run)
    assert stage["work_pool_name"] == "gpu"
    assert set(prefect.tasks(stage["id"])) == {"evaluate-baseline", "fine-tune", "evaluate-fine-tuned", "baseline-unigram"}


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


def test_a_tick_is_skipped_while_the_last_one_runs_if_that_is_set(prefect: Prefect, tmp_path: Path) -> None:
    skip = {"collision_strategy": "CANCEL_NEW"}
    prefect.copy_deployment("skipping", "cpu", concurrency_limit=1, concurrency_options=skip)
    settings = {"store": str(tmp_path), "name": "tick"}
    first = prefect.start("skipping", **settings)
    prefect.wait(first, lambda run: run["state_type"] == "RUNNING")
    assert prefect.wait(prefect.start("skipping", **settings))["state_type"] == "CANCELLED"
    prefect.complete(first)
