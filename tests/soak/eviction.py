"""A test of an eviction: the command of a pod runs as a process, with all that the template of the pool gives it.

Run by hand, for it takes minutes: `pytest tests/soak/eviction.py`.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.states import Pending
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from tasks.compute.client import STOP_LIMIT_S
from tests.flows.test_launch import ROOT, start
from tests.flows.test_recovery import checkpoints, compute_process, config, wait_for


class Cluster:
    """A work pool of type `kubernetes` whose pods are processes of this machine."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = home
        self.processes: list[subprocess.Popen[Any]] = []
        self.environment = {
            **os.environ,
            "PREFECT_API_URL": url,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        self.prefect(
            "work-pool", "create", "pods", "--type", "kubernetes", "--base-job-template", "docs/kubernetes/gpu-pool.json"
        )
        folders = {"FINETUNE_FLOWS_CACHE": f"{home}/cache", "HF_HOME": f"{home}/hub"}
        variables = json.dumps({"image": "finetune-flows", "env": folders})
        self.prefect("--no-prompt", "deploy", "-n", "gpu-stage", "--pool", "pods", "--job-variable", variables)

    def prefect(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def scheduled(self) -> UUID | None:
        """Return the run of the pool that waits for a pod."""

        async def read() -> UUID | None:
            async with get_client() as client:
                waiting = await client.get_scheduled_flow_runs_for_work_pool("pods")
                return waiting[0].flow_run.id if waiting else None

        return asyncio.run(read())

    def start_pod(self, run: UUID) -> "subprocess.Popen[bytes]":
        """Do what the worker does with a run, and then what Kubernetes does with the job."""

        async def manifest() -> dict[str, Any]:
            async with get_client() as client:
                configuration = await KubernetesWorkerJobConfiguration.resolve_for_flow_run(
                    await client.read_flow_run(run),
                    client=client,
                    work_pool=await client.read_work_pool("pods"),
                    worker_name="worker",
                )
                await client.set_flow_run_state(run, Pending())
                return configuration.job_manifest

        (container,) = asyncio.run(manifest())["spec"]["template"]["spec"]["containers"]
        given = {entry["name"]: entry["value"] for entry in container["env"]}
        # The folder that the image starts in is empty.
        folder = self.home / "run"
        folder.mkdir(exist_ok=True)
        pod = subprocess.Popen(container["args"], cwd=folder, env=self.environment | given)
        self.processes.append(pod)
        return pod

    def states(self, run: UUID) -> list[str]:
        async def read() -> list[str]:
            async with get_client() as client:
                return [state.name or "" for state in await client.read_flow_run_states(run)]

        return asyncio.run(read())

    def logs(self, run: UUID) -> list[str]:
        async def read() -> list[str]:
            async with get_client() as client:
                chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
                return [entry.message for entry in await client.read_logs(chosen)]

        return asyncio.run(read())


@pytest.fixture
def cluster(prefect_api: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(prefect_api, tmp_path)
    yield cluster
    for process in cluster.processes:
        process.kill()
        process.wait()


@pytest.mark.timeout(600)
def test_an_evicted_pod_leaves_a_checkpoint_from_which_the_next_one_resumes(
    cluster: Cluster, tmp_path: Path, topics_csv: Path, encoder: Path
) -> None:
    store = tmp_path / "store"
    settings = config(store, topics_csv, encoder)
    short = settings.training.model_copy(update={"epochs": 12})
    settings = settings.model_copy(update={"gpu_deployment": "gpu-stage/gpu-stage", "training": short})
    path = tmp_path / "config.json"
    path.write_text(settings.model_dump_json(), encoding="utf-8")
    parent = start(tmp_path, "--config", str(path), "--json", PREFECT_API_URL=cluster.environment["PREFECT_API_URL"])
    cluster.processes.append(parent)
    run = wait_for(cluster.scheduled)
    pod = cluster.start_pod(run)
    wait_for(lambda: checkpoints(store))
    compute = compute_process(pod)
    flow = compute.parent()
    assert flow is not None
    assert flow.environ()["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    before = checkpoints(store)[-1]

    pod.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert pod.wait(60) == 0
    # Prefect's limit is 30 s; the pod's has to be longer.
    assert time.monotonic() - asked < STOP_LIMIT_S + 10
    _, alive = psutil.wait_procs([compute, flow], timeout=5)
    assert alive == []
    assert cluster.states(run)[-1] == "AwaitingRetry"
    step = checkpoints(store)[-1]
    assert step > before

    assert wait_for(cluster.scheduled) == run
    assert cluster.start_pod(run).wait(200) == 0
    _, error = parent.communicate(timeout=100)
    assert parent.returncode == 0, error
    assert f"Resuming from the checkpoint of optimizer step {step}." in cluster.logs(run)
    states = cluster.states(run)
    assert states[-1] == "Completed"
    assert not {"Crashed", "Failed"} & set(states)
