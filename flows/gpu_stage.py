"""The part of a run that needs a GPU: evaluating and fine-tuning; in place, or as a deployment's flow."""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from blocks.artifact_store import open_store
from blocks.errors import StoreConfigError
from flows.gpu_deployment import run_on_gpu
from flows.recovery import recovering
from tasks.alive import alive, says_it_uses
from tasks.baselines.run import find_baselines, run_baselines
from tasks.champions import Champion
from tasks.comparison.gate import check_metrics
from tasks.compute.client import ComputeProcess
from tasks.errors import ComputeFailed
from tasks.evaluation import evaluate_baseline, evaluate_champion, evaluate_fine_tuned
from tasks.kinds import load_kind
from tasks.records import Checkpoint, DatasetRef, Scores, Stage
from tasks.steps import Run, read_json, write_json
from tasks.training import fine_tune, forget_checkpoints

_SPEC = "spec.json"


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
    work = _read_spec(kind, folder / _SPEC)
    with alive(work.run.store, str(flow_run.id)), ComputeProcess() as compute:
        _run_here(work, compute)


@dataclass(frozen=True)
class _Work:
    """What the stage is given."""

    run: Run
    dataset: DatasetRef
    tokens: DatasetRef
    champion: Champion | None

    @property
    def inputs(self) -> dict[str, DatasetRef]:
        return {"dataset": self.dataset, "tokens": self.tokens}

    def seeds(self) -> Iterator[Run]:
        """Yield the run as it would be with each of the other seeds."""
        for number in range(1, self.run.config.training.seeds):
            config = self.run.config.model_copy(update={"seed": (self.run.config.seed + number) % 2**32})
            yield Run(**{**dict(self.run), "config": config})


def run_gpu_stage(
    run: Run, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess, champion: Champion | None = None
) -> Stage:
    """Run the stage in place, or through `gpu_deployment`; a GPU is asked for only if the store lacks a result.

    Args:
        run: The run.
        dataset: The dataset.
        tokens: Its tokens, made for the model to be trained.
        compute: The compute process, which is closed afterwards: what follows needs no GPU.
        champion: The model to be scored beside.

    Raises:
        ConfigError: there is no such deployment.
        ComputeFailed: the deployment's run failed, or no worker came to take it.
    """
    work = _Work(run, dataset, tokens, champion)
    if run.config.gpu_deployment is None:
        stage = _run_here(work, compute)
        compute.close()
        return stage
    compute.close()
    if found := _find(work):
        return found
    spec = _publish_spec(work)
    parameters = {"kind": run.kind_name, "spec": spec, "store": run.config.store}
    done_by = run_on_gpu(run.config, _identity(work), parameters)
    if result := _find(work, computed=True):
        return result
    raise ComputeFailed(
        f"Run {done_by!r} of deployment {run.config.gpu_deployment!r} completed, but its results are not under the expected "
        "keys; deploy the same version of finetune-flows on both sides, with the same store."
    )


def _run_here(work: _Work, compute: ComputeProcess) -> Stage:
    run, inputs = work.run, work.inputs
    before = evaluate_baseline(run, **inputs, compute=compute)
    check_metrics(run.config.gate, before.metrics, run.config.data.slice_columns)
    checkpoint, after = _train_and_evaluate(run, inputs, compute)
    champion = None
    if work.champion is not None and work.champion.key != checkpoint.key:
        champion = evaluate_champion(run, dataset=work.dataset, champion=work.champion, compute=compute)
    others = [_train_and_evaluate(other, inputs, compute) for other in work.seeds()]
    baselines, skipped = run_baselines(run, **inputs, compute=compute)
    return Stage(
        before=before,
        checkpoint=checkpoint,
        after=after,
        champion=champion,
        others=[scores for _, scores in others],
        others_trained=[trained for trained, _ in others],
        baselines=baselines,
        skipped=skipped,
    )


def _train_and_evaluate(run: Run, inputs: dict[str, DatasetRef], compute: ComputeProcess) -> tuple[Checkpoint, Scores]:
    checkpoint = fine_tune(run, **inputs, compute=compute)
    forget_checkpoints(run, checkpoint)
    return checkpoint, evaluate_fine_tuned(run, **inputs, checkpoint=checkpoint, compute=compute)


def _find(work: _Work, *, computed: bool = False) -> Stage | None:
    """Return the stage's records if the store has all artifacts; once it was `computed`, baselines may have failed."""
    before = evaluate_baseline.find(work.run, **work.inputs)
    trained = _find_trained(work.run, work.inputs)
    others = [_find_trained(other, work.inputs) for other in work.seeds()]
    if before is None or trained is None:
        return None
    champion = None
    if work.champion is not None and work.champion.key != trained[0].key:
        champion = evaluate_champion.find(work.run, dataset=work.dataset, champion=work.champion)
        if champion is None:
            return None
    made = [found for found in others if found is not None]
    found = find_baselines(work.run, **work.inputs, computed=computed)
    if len(made) < len(others) or found is None:
        return None
    return Stage(
        before=before,
        checkpoint=trained[0],
        after=trained[1],
        champion=champion,
        others=[scores for _, scores in made],
        others_trained=[checkpoint for checkpoint, _ in made],
        baselines=found[0],
        skipped=found[1],
    )


def _find_trained(run: Run, inputs: dict[str, DatasetRef]) -> tuple[Checkpoint, Scores] | None:
    if (checkpoint := fine_tune.find(run, **inputs)) is None:
        return None
    scores = evaluate_fine_tuned.find(run, **inputs, checkpoint=checkpoint)
    return (checkpoint, scores) if scores else None


def _identity(work: _Work) -> str:
    """Return a digest of what decides the stage's results; where they must be made anew, of who asks for it too."""
    run = work.run
    keys = [step.key(run, **work.inputs) for step in (evaluate_baseline, fine_tune)]
    champion = [evaluate_champion.key(run, dataset=work.dataset, champion=work.champion)] if work.champion else []
    seeds = str(run.config.training.seeds)
    parts = [run.config.store, *keys, *champion, seeds, run.id if run.refresh else ""]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _publish_spec(work: _Work) -> str:
    parts = {"run": work.run, "dataset": work.dataset, "tokens": work.tokens, "champion": work.champion}
    content = {name: value.model_dump(mode="json") if value else None for name, value in parts.items()}
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as folder:
        path = Path(folder) / _SPEC
        write_json(path, content)
        key = f"specs/{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"
        used = [part.key for part in (work.dataset, work.tokens, work.champion) if part]
        work.run.store.publish(path.parent, key, {}, inputs=used, made_by=work.run.id)
    says_it_uses(key)
    return key


def _read_spec(kind: str, path: Path) -> _Work:
    content = read_json(path)
    if content["run"]["kind_name"] != kind:
        raise StoreConfigError(f"Spec {str(path)!r} is of kind {content['run']['kind_name']!r}, not {kind!r}.")
    config = load_kind(kind).config_class.model_validate(content["run"].pop("config"))
    champion = Champion(**content["champion"]) if content["champion"] else None
    run = Run(config=config, **content["run"])
    return _Work(run, DatasetRef(**content["dataset"]), DatasetRef(**content["tokens"]), champion)
