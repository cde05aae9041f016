"""Tests of the files for Kubernetes against the classes of Prefect, its Kubernetes worker and the Kubernetes API; no cluster."""

import asyncio
import copy
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import prefect_kubernetes
import prefect_kubernetes.worker
import pytest
import yaml
from kubernetes_asyncio.client import ApiClient, V1Deployment, V1Job
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.server.api.validation import (
    ValidationError,
    _validate_work_pool_job_variables,
    validate_job_variable_defaults_for_work_pool,
)
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration, KubernetesWorkerVariables

from tasks.compute.client import STOP_LIMIT_S

DOCS = Path(__file__).parent.parent.parent / "docs"
TEMPLATE: dict[str, Any] = json.loads((DOCS / "kubernetes" / "gpu-pool.json").read_text(encoding="utf-8"))
WORKER = {part["kind"]: part for part in yaml.safe_load_all((DOCS / "kubernetes" / "worker.yaml").read_text(encoding="utf-8"))}
PAGE = (DOCS / "kubernetes.md").read_text(encoding="utf-8")
IMAGE = "registry.example.com/finetune-flows:0.1.0"
PASSWORD = "admin:not-to-be-seen"
# Prefect's own template puts these into the pod, where Kubernetes does not know them, and its worker insists on that.
MISPLACED = {("spec", "template", "spec", "parallelism"), ("spec", "template", "spec", "completions")}


def configure(**values: Any) -> KubernetesWorkerJobConfiguration:
    """Do what the worker does with the template, a deployment's variables and a run."""
    # There are no references to blocks or variables in it, so no server is asked.
    nobody = PrefectClient("http://127.0.0.1:1/api")
    values = {"image": IMAGE} | values
    built = KubernetesWorkerJobConfiguration.from_template_and_values(copy.deepcopy(TEMPLATE), values, client=nobody)
    configuration: KubernetesWorkerJobConfiguration = asyncio.run(built)
    flow = Flow(id=uuid4(), name="gpu-stage")
    run = FlowRun(id=uuid4(), name="gpu-stage-text-classification", flow_id=flow.id)
    configuration.prepare_for_flow_run(run, flow=flow)
    return configuration


def pod(**values: Any) -> dict[str, Any]:
    found: dict[str, Any] = configure(**values).job_manifest["spec"]["template"]["spec"]
    return found


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def paths(tree: Any, start: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, child in children:
        yield (*start, str(name))
        yield from paths(child, (*start, str(name)))


def unknown_fields(manifest: dict[str, Any], model: type) -> set[tuple[str, ...]]:
    """Return the paths of fields that the Kubernetes API has no place for."""

    async def read() -> Any:
        async with ApiClient() as client:
            return client.sanitize_for_serialization(
                client.deserialize(SimpleNamespace(data=json.dumps(manifest)), model.__name__)
            )

    return set(paths(manifest)) - set(paths(asyncio.run(read())))


def test_prefect_takes_the_template() -> None:
    WorkPoolCreate(name="gpu", type="kubernetes", base_job_template=TEMPLATE)
    asyncio.run(validate_job_variable_defaults_for_work_pool(None, "gpu", TEMPLATE))


def validate(**values: Any) -> None:
    """Do what the server does with a new run's variables."""
    asyncio.run(_validate_work_pool_job_variables(None, "gpu", TEMPLATE, values, ignore_required=False))


def test_the_server_checks_what_a_deployment_sets() -> None:
    validate(image=IMAGE)
    validate(image=IMAGE, gpu_count=2, cache_volume={"name": "cache", "persistentVolumeClaim": {"claimName": "models"}})


@pytest.mark.parametrize(
    "values",
    [
        # Prefect's own image would be taken, which has no finetune-flows.
        {},
        {"image": IMAGE, "gpu_count": "one"},
        {"image": IMAGE, "cache_volume": {"name": "other", "emptyDir": {}}},
        {"image": IMAGE, "termination_grace_period_seconds": 30},
        {"image": IMAGE, "tolerations": {"key": "nvidia.com/gpu"}},
    ],
)
def test_the_server_refuses_wrong_variables(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate(**values)


def test_all_variables_of_prefects_own_template_are_there_and_used() -> None:
    default = KubernetesWorker.get_default_base_job_template()
    theirs, ours = default["variables"]["properties"], TEMPLATE["variables"]["properties"]
    assert set(KubernetesWorkerVariables.model_fields) <= set(ours)
    for name, field in theirs.items():
        # A deployment that was made for their template works with ours.
        assert ours[name].get("type") == field.get("type") or name == "image"
        assert ours[name].get("anyOf") == field.get("anyOf") or name == "image"
    assert TEMPLATE["variables"]["definitions"] == default["variables"]["definitions"]
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == set(ours)
    # Nothing of their template was lost on the way, and no field has another variable.
    lost = set(paths(default["job_configuration"])) - set(paths(TEMPLATE["job_configuration"]))
    assert lost == set()


def test_a_pod_by_default() -> None:
    configuration = configure()
    job = configuration.job_manifest
    assert (job["metadata"]["namespace"], configuration.namespace) == ("finetune-flows", "finetune-flows")
    assert job["metadata"]["generateName"] == "gpu-stage-text-classification-"
    assert job["metadata"]["labels"]["prefect.io/flow-run-name"] == "gpu-stage-text-classification"
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (0, 3600)
    spec = job["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "serviceAccountName" not in spec
    (container,) = spec["containers"]
    assert container["image"] == IMAGE
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 1}, "requests": {"cpu": "2", "memory": "8Gi"}}
    assert container["envFrom"] == [{"secretRef": {"name": "finetune-flows", "optional": False}}]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert mounts["/cache"]["emptyDir"] == {}
    assert environment(container)["FINETUNE_FLOWS_CACHE"].startswith("/cache/")
    assert environment(container)["HF_HOME"].startswith("/cache/")


def test_a_pod_may_do_little() -> None:
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert spec["containers"][0]["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_an_evicted_pod_has_time_for_a_checkpoint_and_its_run_is_scheduled_again() -> None:
    spec = pod()
    # The 30 s that `prefect flow-run execute` gives the flow, and what it does before and after.
    assert spec["terminationGracePeriodSeconds"] >= STOP_LIMIT_S + 30
    assert TEMPLATE["variables"]["properties"]["termination_grace_period_seconds"]["minimum"] > max(30, STOP_LIMIT_S)
    given = environment(spec["containers"][0])
    assert given["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert given["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_a_deployment_sets_all_of_it() -> None:
    configuration = configure(
        name="stage",
        namespace="other",
        labels={"team": "nlp"},
        annotations={"note": "x"},
        command="prefect flow-run execute --help",
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": "/models"},
        image_pull_policy="Always",
        service_account_name="trainer",
        backoff_limit=3,
        finished_job_ttl=60,
        job_watch_timeout_seconds=10,
        pod_watch_timeout_seconds=600,
        stream_output=False,
        cpu_request="4",
        cpu_limit="8",
        memory_request="16Gi",
        memory_limit="32Gi",
        gpu_count=4,
        node_selector={"gpu": "h100"},
        tolerations=[],
        shm_size="8Gi",
        cache_volume={"name": "cache", "persistentVolumeClaim": {"claimName": "models"}},
        secret_name="keys",
        secret_optional=True,
        termination_grace_period_seconds=60,
    )
    assert (configuration.job_watch_timeout_seconds, configuration.pod_watch_timeout_seconds) == (10, 600)
    assert configuration.stream_output is False
    job = configuration.job_manifest
    assert job["metadata"]["generateName"] == "stage-"
    assert job["metadata"]["namespace"] == "other"
    assert job["spec"]["template"]["metadata"]["labels"]["team"] == "nlp"
    assert job["metadata"]["annotations"] == {"note": "x"}
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (3, 60)
    spec = job["spec"]["template"]["spec"]
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"gpu": "h100"}, [])
    assert spec["serviceAccountName"] == "trainer"
    assert spec["terminationGracePeriodSeconds"] == 60
    (container,) = spec["containers"]
    assert container["args"] == ["prefect", "flow-run", "execute", "--help"]
    assert container["imagePullPolicy"] == "Always"
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": 4}
    assert container["resources"]["requests"] == {"cpu": "4", "memory": "16Gi"}
    assert container["envFrom"] == [{"secretRef": {"name": "keys", "optional": True}}]
    shm, cache, _ = spec["volumes"]
    assert shm["emptyDir"]["sizeLimit"] == "8Gi"
    assert cache == {"name": "cache", "persistentVolumeClaim": {"claimName": "models"}}
    given = environment(container)
    assert (given["HF_HOME"], given["HF_HUB_OFFLINE"]) == ("/models", "1")
    # What it does not name is kept, and Prefect leaves the run to Kubernetes where that tries again.
    assert given["FINETUNE_FLOWS_CACHE"] == "/cache/finetune-flows"
    assert given["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "relinquish"
    assert unknown_fields(job, V1Job) == MISPLACED


def test_kubernetes_knows_every_field() -> None:
    assert unknown_fields(configure().job_manifest, V1Job) == MISPLACED
    assert unknown_fields(WORKER["Deployment"], V1Deployment) == set()


@pytest.fixture
def worker_settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Set the environment of the worker in `worker.yaml`, and return what it has by reference."""
    (container,) = WORKER["Deployment"]["spec"]["template"]["spec"]["containers"]
    given = environment(container)
    for name, value in given.items():
        if isinstance(value, str) and name != "PREFECT_API_URL":
            monkeypatch.setenv(name, value)
    return {name: value for name, value in given.items() if isinstance(value, dict)}


def test_the_password_of_the_server_is_named_and_not_written(
    worker_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker_settings["PREFECT_API_AUTH_STRING"]["secretKeyRef"]["name"] == "finetune-flows"
    posted: list[dict[str, Any]] = []

    class Kubernetes:
        """Takes the jobs that the worker creates."""

        def __init__(self, client: object) -> None: ...

        async def create_namespaced_job(self, namespace: str, manifest: dict[str, Any]) -> None:
            posted.append(manifest)

    monkeypatch.setattr(prefect_kubernetes.worker, "BatchV1Api", Kubernetes)
    with temporary_settings({PREFECT_API_AUTH_STRING: PASSWORD, PREFECT_API_URL: "http://prefect.example.com/api"}):
        configuration = configure()
        # It would be, were it not for the worker's settings.
        assert PASSWORD in json.dumps(configuration.job_manifest)
        worker = KubernetesWorker(work_pool_name="gpu")
        asyncio.run(worker._create_job(configuration, None))
    (job,) = posted
    assert PASSWORD not in json.dumps(job)
    given = environment(job["spec"]["template"]["spec"]["containers"][0])
    assert given["PREFECT_API_AUTH_STRING"] == {"secretKeyRef": {"name": "finetune-flows", "key": "PREFECT_API_AUTH_STRING"}}
    assert given["PREFECT_API_URL"] == "http://prefect.example.com/api"


def test_the_files_hold_no_secrets() -> None:
    secret = re.compile(r"(TOKEN|PASSWORD|AUTH_STRING|API_KEY|ACCESS_KEY(_ID)?)$")
    (container,) = WORKER["Deployment"]["spec"]["template"]["spec"]["containers"]
    for name, value in {**TEMPLATE["variables"]["properties"]["env"]["default"], **environment(container)}.items():
        assert not secret.search(name) or set(value) == {"secretKeyRef"}
    # In the page they come out of the environment of who runs the command.
    literals = dict(re.findall(r"--from-literal=(\w+)=(\S+)", PAGE))
    assert {name: value for name, value in literals.items() if secret.search(name)} == {
        name: f'"${name}"' for name in ("PREFECT_API_AUTH_STRING", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }


def test_the_worker_may_do_what_its_code_does_and_no_more(worker_settings: dict[str, Any]) -> None:
    # Secrets are touched only by settings that are not set.
    settings = KubernetesSettings()
    assert not settings.worker.create_secret_for_api_key
    assert not settings.worker.store_env_as_secret
    assert settings.observer.namespaces == {TEMPLATE["variables"]["properties"]["namespace"]["default"]}
    calls = set()
    for name in ("worker.py", "observer.py"):
        source = (Path(prefect_kubernetes.__file__).parent / name).read_text(encoding="utf-8")
        calls |= set(re.findall(r"\.(create|delete|get|list|patch|read|replace)_namespaced_(\w+)\(", source))
        # The observer watches these, and lists them first.
        for resource in re.findall(r'"(pods|jobs)",\n', source):
            calls |= {("list", resource[:-1]), ("watch", resource[:-1])}
    verbs = {"read": "get", "replace": "update"}
    needed = {(verbs.get(verb, verb), noun.replace("pod_log", "pods/log")) for verb, noun in calls if noun != "secret"}
    needed = {(verb, noun if "/" in noun else f"{noun}s") for verb, noun in needed}
    assert ("watch", "jobs") in needed
    allowed = {(verb, noun) for rule in WORKER["Role"]["rules"] for noun in rule["resources"] for verb in rule["verbs"]}
    assert needed <= allowed
    assert allowed - needed <= {("get", "pods"), ("watch", "pods")}
    assert WORKER["RoleBinding"]["roleRef"]["name"] == WORKER["Role"]["metadata"]["name"]
    account = WORKER["ServiceAccount"]["metadata"]["name"]
    assert WORKER["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert WORKER["Deployment"]["spec"]["template"]["spec"]["serviceAccountName"] == account


def test_the_page_names_what_is_there() -> None:
    own = set(TEMPLATE["variables"]["properties"]) - set(KubernetesWorkerVariables.model_fields)
    assert [name for name in own if f"`{name}`" not in PAGE] == []
    for path in re.findall(r"docs/kubernetes/[\w.-]+", PAGE):
        assert (DOCS.parent / path).exists()
    for prefix, suffix in re.findall(r"`(PREFECT_INTEGRATIONS_\w+?)_SECRET_NAME` and `\.\.\.(_SECRET_KEY)`", PAGE):
        section, name = prefix.removeprefix("PREFECT_INTEGRATIONS_KUBERNETES_").lower().split("_", 1)
        assert hasattr(getattr(KubernetesSettings(), section), f"{name}{suffix.lower()}")
    commands = [shlex.split(line, comments=True) for line in PAGE.splitlines() if line.startswith("prefect ")]
    assert ["work-pool", "create", "gpu", "--type", "kubernetes"] in [command[1:6] for command in commands]
