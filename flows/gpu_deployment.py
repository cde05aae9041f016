"""The GPU stage as a run of a deployment on a GPU work pool: started once, found again, watched, cancelled with its parent."""

import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, WorkPoolStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelling

from tasks.config import ExperimentConfig
from tasks.errors import ComputeFailed, ConfigError
from tasks.steps import log_info, log_warning
from tasks.text import duration, one_line

MOST_CRASHES = 3
"""Times that a crashed run is started again."""
_POLL_S = 2.0
# An automation may put a crashed run back; only one that stays crashed is started anew.
_SETTLE_S = 5.0


def run_on_gpu(config: ExperimentConfig, identity: str, parameters: dict[str, Any]) -> str:
    """Run the stage on `config.gpu_deployment` and return the name of the run that completed it.

    A run of the same identity that is under way, started by an earlier attempt or by another run, is waited for instead.

    Args:
        config: Names the deployment, and says what to do where no worker is online.
        identity: Digest of the results' keys: runs of the same identity make the same, so one of them is enough.
        parameters: The parameters of the deployment's flow.

    Raises:
        ConfigError: there is no such deployment.
        ComputeFailed: its run failed, was cancelled, crashed too often, or no worker came.
    """
    with get_client(sync_client=True) as client:
        crashes = 0
        while True:
            run = _join_or_start(client, config, identity, parameters)
            ended = _wait(client, config, run)
            assert ended.state is not None
            if ended.state.is_completed():
                return ended.name
            told = f"Run {ended.name!r} of deployment {config.gpu_deployment!r} ended as {ended.state.name}: {_message(ended)}"
            crashes += 1
            if not ended.state.is_crashed() or crashes > MOST_CRASHES:
                raise ComputeFailed(told)
            log_warning(f"{told}; starting it again.")


def _join_or_start(client: SyncPrefectClient, config: ExperimentConfig, identity: str, parameters: dict[str, Any]) -> FlowRun:
    """Return a run that is not over: one of the same identity, or a new one, shown as a sub-flow of this run."""
    assert config.gpu_deployment is not None
    tag = f"stage:{identity}"
    known = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))
    going = [run for run in known if not _is_over(run)]
    number = len(known) - len(going)
    while True:
        try:
            # Of two that ask at the same time, one starts the run and the other is given it.
            run: Any = run_deployment(
                config.gpu_deployment,
                parameters=parameters,
                flow_run_name=f"gpu-stage-{flow_run.name}",
                tags=[tag],
                idempotency_key=f"{identity}-{number}",
                timeout=0,
            )
        except ObjectNotFound:
            raise ConfigError(
                f"There is no deployment {config.gpu_deployment!r}; run 'prefect deploy' or set gpu_deployment."
            ) from None
        if not _is_over(run):
            log_info(f"{'Waiting for' if going else 'Started'} run {run.name!r} of deployment {config.gpu_deployment!r}.")
            return FlowRun.model_validate(run)
        number += 1


def _wait(client: SyncPrefectClient, config: ExperimentConfig, run: FlowRun) -> FlowRun:
    """Wait until the run is over; cancel it if this run is cancelled, for then nobody asks for it any more."""
    assert config.gpu_deployment is not None
    pool = client.read_deployment_by_name(config.gpu_deployment).work_pool_name
    absent_since: float | None = None
    said = False
    try:
        while True:
            run = client.read_flow_run(run.id)
            if _is_over(run):
                if not _is_crashed(run):
                    return run
                time.sleep(_SETTLE_S)
                run = client.read_flow_run(run.id)
                if _is_over(run):
                    return run
            if pool is None or _is_running(run) or client.read_work_pool(pool).status == WorkPoolStatus.READY:
                absent_since, said = None, False
            else:
                absent_since = absent_since or time.monotonic()
                if not said and time.monotonic() - absent_since >= config.gpu_wait_s:
                    said = True
                    _say_absent(client, config, run, pool)
            time.sleep(_POLL_S)
    except (TerminationSignal, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or _is_being_cancelled(client):
            _cancel(client, run)
        raise


def _say_absent(client: SyncPrefectClient, config: ExperimentConfig, run: FlowRun, pool: str) -> None:
    told = (
        f"No worker of work pool {pool!r} has been online for {duration(config.gpu_wait_s)}, so run {run.name!r} does not start"
    )
    remedy = f"start one with 'prefect worker start --pool {pool}'"
    if config.gpu_absent == "fail":
        _cancel(client, run)
        raise ComputeFailed(f"{told}; {remedy}.")
    log_warning(f"{told}; {remedy}. Waiting.")


def _cancel(client: SyncPrefectClient, run: FlowRun) -> None:
    """Cancel a run that this one started; another's is left alone."""
    if run.parent_task_run_id and client.read_task_run(run.parent_task_run_id).flow_run_id == UUID(str(flow_run.id)):
        client.set_flow_run_state(run.id, Cancelling(message=f"Its parent {flow_run.name!r} ended."))


def _is_being_cancelled(client: SyncPrefectClient) -> bool:
    state = client.read_flow_run(UUID(str(flow_run.id))).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _is_over(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def _is_crashed(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_crashed()


def _is_running(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_running()


def _message(run: FlowRun) -> str:
    return one_line((run.state.message if run.state else "") or "no message", 300)
