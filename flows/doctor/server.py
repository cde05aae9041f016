"""The Prefect server: whether it answers, and whether its work pools have workers."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import prefect
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import WorkerStatus, WorkPool
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from blocks.urls import shown
from flows.doctor.findings import Finding
from flows.launch import check_answers
from tasks.config import ExperimentConfig
from tasks.errors import ConfigError
from tasks.kinds import kind_names

SERVER_LIMIT_S = 10.0
"""Seconds for all requests; the first one, which meets a server that is silent, gives up after half of them."""

_NAME = "Prefect server"
_REQUEST_LIMIT_S = 3.0
_POOLS = ("cpu", "gpu")
_SET_UP = "python -m flows setup"


def check_server(config: ExperimentConfig) -> Iterator[Finding]:
    """Ask the server for its version, its pools and the deployment that the config names."""
    url = str(PREFECT_API_URL.value() or "")
    if not url:
        yield Finding("ok", _NAME, "PREFECT_API_URL is not set: a temporary server is started for each command")
        if config.gpu_deployment:
            text = f"No server that lasts has deployment {config.gpu_deployment!r}, nor workers for it"
            yield Finding("FAIL", "deployment", text, "set PREFECT_API_URL, or unset gpu_deployment")
        return
    check_answers(url)
    with _refusals(), get_client(httpx_settings={"timeout": _REQUEST_LIMIT_S}, sync_client=True) as client:
        yield compare_versions(shown(url), prefect.__version__, _version(client))
        found, pools = _deployment(client, config.gpu_deployment)
        yield from found
        for name in sorted({*_deployed_pools(client), *pools}):
            yield _pool(client, name)


@contextmanager
def _refusals() -> Iterator[None]:
    problem = ""
    try:
        yield
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        remedy = "check PREFECT_API_KEY or PREFECT_API_AUTH_STRING" if status in (401, 403) else "look into its log"
        problem = f"The Prefect server answers {status} to {error.request.url.path!r}; {remedy}."
    except httpx.HTTPError as error:
        problem = f"The Prefect server stopped answering ({type(error).__name__}); check that it runs well."
    # Outside of the handlers: the foreign error may hold a password of the URL.
    if problem:
        raise ConfigError(problem)


def _version(client: SyncPrefectClient) -> str | None:
    try:
        return client.api_version()
    except PrefectHTTPStatusError as error:
        if error.response.status_code == httpx.codes.NOT_FOUND:
            return None
        raise


def compare_versions(url: str, ours: str, its: str | None) -> Finding:
    """Tell a server's version, which should have the major and minor number of this machine's Prefect."""
    if its is None:
        return Finding("ok", _NAME, f"{url} answers, and does not tell its version")
    if ours.split(".")[:2] == its.split(".")[:2]:
        return Finding("ok", _NAME, f"{url} answers, version {its}")
    return Finding("warn", _NAME, f"{url} has version {its}, this machine {ours}", "install the same version on both sides")


def _deployment(client: SyncPrefectClient, name: str | None) -> tuple[list[Finding], list[str]]:
    """Return what is found of a deployment, and its pool."""
    if name is None:
        return [], []
    try:
        found = client.read_deployment_by_name(name)
    except ObjectNotFound:
        return [
            Finding("FAIL", "deployment", f"There is no deployment {name!r}", "prefect deploy --all, or set gpu_deployment")
        ], []
    pool = found.work_pool_name
    return [Finding("ok", "deployment", f"{name!r} is there, in work pool {pool!r}")], [pool] if pool else []


def _deployed_pools(client: SyncPrefectClient) -> list[str]:
    """Return the pools of the project's deployments, or those that the project sets up where it has none."""
    flows = FlowFilter(name=FlowFilterName(any_=[*kind_names(), "gpu-stage"]))
    pools = [one.work_pool_name for one in client.read_deployments(flow_filter=flows)]
    return [pool for pool in pools if pool] or [*_POOLS]


def _pool(client: SyncPrefectClient, name: str) -> Finding:
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        return describe_pool(name, None, 0)
    workers = client.read_workers_for_work_pool(name)
    return describe_pool(name, pool, sum(worker.status == WorkerStatus.ONLINE for worker in workers))


def describe_pool(name: str, pool: WorkPool | None, online: int) -> Finding:
    """Tell whether runs in a pool would be taken by anybody."""
    check = f"work pool {name}"
    if pool is None:
        return Finding("warn", check, "It is not there, so deployments in it cannot run", _SET_UP)
    if pool.is_paused:
        return Finding("warn", check, "It is paused", f"prefect work-pool resume {name}")
    if pool.is_push_pool or pool.is_managed_pool:
        return Finding("ok", check, f"It is of type {pool.type}, which needs no worker")
    if not online:
        return Finding("warn", check, "No worker is online", f"prefect worker start --pool {name}")
    return Finding("ok", check, f"{online} worker{'s' if online > 1 else ''} online")
