"""Tests of `prefect.yaml`: every deployment names a flow that is there, with parameters that it takes."""

import importlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.experiments import FLOWS
from tasks.parsing import read_config_file

ROOT = Path(__file__).parent.parent
CONTENT = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS: dict[str, dict[str, Any]] = {deployment["name"]: deployment for deployment in CONTENT["deployments"]}


def flow_of(deployment: dict[str, Any]) -> Any:
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_is_whole(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert deployment["version"] == project["version"]
    assert deployment["description"].endswith(".")
    # The automation that restarts the runs of dead workers knows them by this tag, and by their heartbeats.
    assert "finetune-flows" in deployment["tags"]
    assert deployment["work_pool"]["job_variables"]["env"] == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    assert deployment["work_pool"]["name"] == ("gpu" if name == "gpu-stage" else "cpu")


def test_the_deployment_that_predicts_asks_for_model_and_files_alone() -> None:
    flow = flow_of(DEPLOYMENTS["predict"])
    parameters = {"name": "topics", "input": "/data/rows.csv", "output": "/data/out.csv", **DEPLOYMENTS["predict"]["parameters"]}
    assert Path(flow.validate_parameters(parameters)["store"]).is_absolute()
    assert set(flow.parameters.required) == {"name", "input", "output"}


@pytest.mark.parametrize("name", [name for name in DEPLOYMENTS if name not in ("gpu-stage", "predict")])
def test_a_deployments_parameters_are_taken_by_its_flow(name: str) -> None:
    flow = flow_of(DEPLOYMENTS[name])
    assert flow.name in FLOWS
    config = flow.validate_parameters(DEPLOYMENTS[name]["parameters"])["config"]
    # A worker's folder is temporary.
    assert Path(config.store).is_absolute()
    if config.gpu_deployment:
        stage = config.gpu_deployment.partition("/")[2]
        assert f"{flow_of(DEPLOYMENTS[stage]).name}/{stage}" == config.gpu_deployment


def test_every_kind_has_a_deployment_on_demand() -> None:
    on_demand = {flow_of(deployment).name for deployment in DEPLOYMENTS.values() if "on-demand" in deployment["tags"]}
    assert on_demand == set(FLOWS)
    assert all("schedules" not in deployment for deployment in DEPLOYMENTS.values() if "on-demand" in deployment["tags"])


def test_the_weekly_deployment_is_the_preset_on_a_schedule() -> None:
    weekly = DEPLOYMENTS["ag-news-weekly"]
    config = weekly["parameters"]["config"]
    assert {name: value for name, value in config.items() if name not in ("store", "gpu_deployment")} == read_config_file(
        "ag-news-bert"
    )
    (schedule,) = weekly["schedules"]
    assert (schedule["cron"], schedule["timezone"]) == ("0 3 * * 1", "Europe/Berlin")
    assert weekly["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_no_path_of_the_machine_that_deploys_is_stored() -> None:
    assert CONTENT["pull"] == []
    assert all("pull" not in deployment and ":" not in deployment["entrypoint"] for deployment in DEPLOYMENTS.values())
