"""The part of a run that needs a GPU: evaluate-baseline, fine-tune, evaluate-fine-tuned; in place, or as a deployment's flow."""

import hashlib
import tempfile
from pathlib import Path
from typing import NamedTuple

from prefect import flow
from prefect.runtime import flow_run

from blocks.artifact_store import open_store
from blocks.errors import StoreConfigError
from flows.gpu_deployment import run_on_gpu
from flows.recovery import recovering
from tasks.alive import alive, says_it_uses
from tasks.compute.client import ComputeProcess
from tasks.errors import ComputeFailed
from tasks.evaluation import evaluate_baseline, evaluate_fine_tuned
from tasks.kinds import load_kind
from tasks.records import Checkpoint, DatasetRef, Scores
from tasks.steps import Run, read_json, write_json
from tasks.training import fine_tune, forget_checkpoints

_SPEC = "spec.json"


class StageResult(NamedTuple):
    """The records of the stage."""

    before: Scores
    checkpoint: Checkpoint
    after: Scores


@flow(name="gpu-stage", flow_run_name="gpu-stage-{kind}")
@recovering
def gpu_stage(kind: str, spec: str, store: str) -> None:
    """Run the GPU stage of a run. Started by the run that needs it; its records are found in the store.

    Args:
        kind: What sort of problem it is, e.g. `text-classification`.
        spec: Key in the store of the run's settings and inputs.
        store: The artifact store: an absolute path.
    """
    folder = open_store(store).fetch(spec)
    run, dataset, tokens = _read_spec(kind, folder / _SPEC)
    with alive(run.store, str(flow_run.id)), ComputeProcess() as compute:
        _run_here(run, dataset, tokens, compute)


def run_gpu_stage(run: Run, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> StageResult:
    """Run the stage in place, or through `gpu_deployment`; a GPU is asked for only if the store lacks a result.

    Raises:
        ConfigError: there is no such deployment.
        ComputeFailed: the deployment's run failed, or no worker came to take it.
    """
    if run.config.gpu_deployment is None:
        return _run_here(run, dataset, tokens, compute)
    compute.close()
    if found := _find(run, dataset, tokens):
        return found
    spec = _publish_spec(run, dataset, tokens)
    parameters = {"kind": run.kind_name, "spec": spec, "store": run.config.store}
    done_by = run_on_gpu(run.config, _identity(run, dataset, tokens), parameters)
    if result := _find(run, dataset, tokens):
        return result
    raise ComputeFailed(
        f"Run {done_by!r} of deployment {run.config.gpu_deployment!r} completed, but its results are not under the expected "
        "keys; deploy the same version of finetune-flows on both sides, with the same store."
    )


def _run_here(run: Run, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> StageResult:
    before = evaluate_baseline(run, dataset=dataset, tokens=tokens, compute=compute)
    checkpoint = fine_tune(run, dataset=dataset, tokens=tokens, compute=compute)
    forget_checkpoints(run, checkpoint)
    after = evaluate_fine_tuned(run, dataset=dataset, tokens=tokens, checkpoint=checkpoint, compute=compute)
    return StageResult(before, checkpoint, after)


def _find(run: Run, dataset: DatasetRef, tokens: DatasetRef) -> StageResult | None:
    """Return the stage's records if the store has all three artifacts."""
    before = evaluate_baseline.find(run, dataset=dataset, tokens=tokens)
    checkpoint = fine_tune.find(run, dataset=dataset, tokens=tokens)
    if before is None or checkpoint is None:
        return None
    after = evaluate_fine_tuned.find(run, dataset=dataset, tokens=tokens, checkpoint=checkpoint)
    return StageResult(before, checkpoint, after) if after else None


def _identity(run: Run, dataset: DatasetRef, tokens: DatasetRef) -> str:
    """Return a digest of what decides the stage's results; where they must be made anew, of who asks for it too."""
    keys = [step.key(run, dataset=dataset, tokens=tokens) for step in (evaluate_baseline, fine_tune)]
    parts = [run.config.store, *keys, run.id if run.refresh else ""]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _publish_spec(run: Run, dataset: DatasetRef, tokens: DatasetRef) -> str:
    content = {name: value.model_dump(mode="json") for name, value in (("run", run), ("dataset", dataset), ("tokens", tokens))}
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as folder:
        path = Path(folder) / _SPEC
        write_json(path, content)
        key = f"specs/{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"
        run.store.publish(path.parent, key, {}, inputs=[dataset.key, tokens.key], made_by=run.id)
    says_it_uses(key)
    return key


def _read_spec(kind: str, path: Path) -> tuple[Run, DatasetRef, DatasetRef]:
    content = read_json(path)
    if content["run"]["kind_name"] != kind:
        raise StoreConfigError(f"Spec {str(path)!r} is of kind {content['run']['kind_name']!r}, not {kind!r}.")
    config = load_kind(kind).config_class.model_validate(content["run"].pop("config"))
    run = Run(config=config, **content["run"])
    return run, DatasetRef(**content["dataset"]), DatasetRef(**content["tokens"])
