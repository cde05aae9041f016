"""The whole story: from a configuration to a report."""

from prefect.runtime import flow_run

from flows.gpu_stage import run_gpu_stage
from flows.notifying import notifying
from flows.recovery import recovering
from tasks.alive import alive
from tasks.comparison import compare
from tasks.compute.client import ComputeProcess
from tasks.config import ExperimentConfig
from tasks.data.step import load_dataset
from tasks.inputs import pin_inputs
from tasks.records import Report
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
    run = Run(kind_name=kind_name, config=config, inputs=inputs, id=str(flow_run.id), refresh=refresh)
    with alive(run.store, run.id):
        with ComputeProcess() as compute:
            dataset = load_dataset(run)
            tokens = tokenize(run, dataset=dataset, compute=compute)
            before, checkpoint, after = run_gpu_stage(run, dataset, tokens, compute)
        verdict = compare(run, dataset=dataset, before=before, after=after)
        return report(run, dataset=dataset, tokens=tokens, before=before, checkpoint=checkpoint, after=after, verdict=verdict)
