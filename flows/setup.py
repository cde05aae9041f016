"""The command `setup`: makes what is missing on a Prefect server, and leaves alone what is there."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from flows.arguments import Parser
from flows.console import print_line, print_table
from flows.serve import TAG
from tasks.errors import ConfigError

AUTOMATION = "finetune-flows: restart the runs of dead workers"
SILENCE_S = 90
"""Seconds without a heartbeat after which a run's process is taken for dead; three of the shortest intervals, 30 s."""


def setup(arguments: Sequence[str]) -> None:
    """Prepare the Prefect server at `PREFECT_API_URL`, and print what was done.

    Raises:
        ConfigError: a wrong option, no `PREFECT_API_URL`, or nothing answers there.
    """
    from flows.launch import check_answers

    parser = Parser(
        prog="python -m flows setup",
        description="Make what is missing on the Prefect server at PREFECT_API_URL: the work pools cpu and gpu, a limit on GPU "
        "runs, the block types, and the automation that restarts the runs of dead workers.",
    )
    parser.add_argument("--gpu_jobs", type=int, help="runs on the pool gpu at the same time: its machines (1, or as it is)")
    options = parser.parse_args(list(arguments))
    if options.gpu_jobs is not None and options.gpu_jobs < 1:
        raise ConfigError(f"--gpu_jobs is {options.gpu_jobs}; give 1 or more.")
    url = PREFECT_API_URL.value()
    if not url:
        raise ConfigError("PREFECT_API_URL is not set; set it to your Prefect server's. 'python -m flows serve' needs no setup.")
    check_answers(str(url))
    with get_client(sync_client=True) as client:
        print_table(("what", "name", "done"), list(_prepare(client, options.gpu_jobs)))
    print_line(
        "\nNext: 'prefect deploy --all', then a worker for each pool; 'python -m flows doctor' says what is still missing."
    )


def _prepare(client: SyncPrefectClient, gpu_jobs: int | None) -> Iterator[tuple[str, str, str]]:
    yield "work pool", "cpu", _make_pool(client, "cpu")
    yield "work pool", "gpu", _make_pool(client, "gpu")
    yield "limit of pool", "gpu", _limit_pool(client, "gpu", gpu_jobs)
    yield "block type", "S3 Store", _register_blocks()
    yield "automation", AUTOMATION, _make_automation(client)


def _make_pool(client: SyncPrefectClient, name: str) -> str:
    try:
        return f"there already, of type {client.read_work_pool(name).type}"
    except ObjectNotFound:
        template = run_coro_as_sync(get_default_base_job_template_for_infrastructure_type("process"))
        client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template or {}))
        return "made, of type process"


def _limit_pool(client: SyncPrefectClient, name: str, wanted: int | None) -> str:
    """Limit the runs of a pool; without a wish, to 1 where there is no limit."""
    limit = client.read_work_pool(name).concurrency_limit
    if limit is not None and wanted in (None, limit):
        return f"there already: {limit}"
    client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=wanted or 1))
    return f"set to {wanted or 1}"


def _register_blocks() -> str:
    from blocks import S3Store

    register: Any = S3Store.register_type_and_schema
    register(_sync=True)
    return "registered"


def dead_run_automation() -> AutomationCore:
    """Return the automation that schedules a deployment's run again when its process no longer gives signs of life."""
    return AutomationCore(
        name=AUTOMATION,
        description=f"A run that gives no sign of life for {SILENCE_S} s lost its worker: it is scheduled again, and resumes.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
            after={"prefect.flow-run.heartbeat"},
            # Its next heartbeat, or any change of its state.
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=dt.timedelta(seconds=SILENCE_S),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                message=f"Crashed: no heartbeat for {SILENCE_S} s, so its worker is taken for dead. A worker resumes it.",
            )
        ],
    )


def _make_automation(client: SyncPrefectClient) -> str:
    wanted = dead_run_automation()
    found = next(iter(client.read_automations_by_name(AUTOMATION)), None)
    if found is None:
        client.create_automation(wanted)
        return "made"
    if all(getattr(found, name) == getattr(wanted, name) for name in ("trigger", "actions", "enabled")):
        return "there already"
    client.update_automation(found.id, wanted)
    return "brought up to date"
