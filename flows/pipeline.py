"""The whole story: from a configuration to a report."""

from prefect.runtime import flow_run

from flows.gpu_stage import run_gpu_stage
from flows.notifying import notifying
from flows.recovery import recovering
from tasks.alive import alive
from tasks.comparison.step import compare, compare_baselines, contend
from tasks.compute.client import ComputeProcess
from tasks.config import ExperimentConfig
from tasks.data.step import load_dataset
from tasks.inputs import pin_inputs
from tasks.promotion import promote, standings
from tasks.records import Contest, DatasetRef, Promotion, Report, Stage, Verdict
from tasks.reporting.step import report
from tasks.steps import Run
from tasks.tokenization import tokenize


@notifying
@recovering
def run_experiment(kind_name: str, config: ExperimentConfig, *, refresh: bool = False) -> Report:
    """Fine-tune a model, score it before and after, and report. To be called in a flow run.

    Args:
        kind_name: What sort of problem it is, e.g. `text-classification`.
        config: The kind's configuration.
        refresh: Compute every step anew, whatever the store has.

    Raises:
        InputError: the configuration, the data or the model is wrong.
        RunError: the run failed, or was asked to stop.
        StoreError: the store failed.
    """
    inputs = pin_inputs(kind_name, config)
    identity = {"id": str(flow_run.id), "name": str(flow_run.name)}
    run = Run(kind_name=kind_name, config=config, inputs=inputs, refresh=refresh, **identity)
    with alive(run.store, run.id):
        with ComputeProcess() as compute:
            dataset = load_dataset(run)
            tokens = tokenize(run, dataset=dataset, compute=compute)
            stage, verdict, contest, promotion = _compete(run, dataset, tokens, compute)
        leads = compare_baselines(run, dataset=dataset, after=stage.after, **stage.baselines) if stage.baselines else None
        return report(
            run,
            dataset=dataset,
            tokens=tokens,
            stage=stage,
            verdict=verdict,
            contest=contest,
            leads=leads,
            promotion=promotion,
        )


def _compete(
    run: Run, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess
) -> tuple[Stage, Verdict, Contest | None, Promotion]:
    """Train, score, compare and decide; compare anew where another run's model became the champion meanwhile."""
    for standing in standings(run):
        stage = run_gpu_stage(run, dataset, tokens, compute, standing.champion)
        verdict = compare(run, dataset=dataset, before=stage.before, after=stage.after)
        contest = contend(run, dataset, stage, standing.champion)
        promotion = promote(run, standing, dataset=dataset, stage=stage, verdict=verdict, contest=contest)
        if promotion is not None:
            return stage, verdict, contest, promotion
    raise AssertionError("`standings` ends with an error")
