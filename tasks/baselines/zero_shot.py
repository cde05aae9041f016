"""The step `baseline-zero-shot`: which class's name the untouched model finds likeliest after the text, without any training.

Source: Brown et al. 2020, Language Models are Few-Shot Learners, section 2.4 (arXiv 2005.14165), for likelihoods by length.
"""

from pathlib import Path

from tasks.compute.client import ComputeProcess
from tasks.models import model_folder
from tasks.progress import EventSink
from tasks.records import DatasetRef, Scores
from tasks.steps import Run, read_json, step


@step(
    "baseline-zero-shot",
    reads=("kind", "seed", "model", "inputs.model_identity", "training.max_length", "training.device", "training.precision"),
    code=("tasks.compute.zero_shot",),
)
def baseline_zero_shot(run: Run, folder: Path, *, dataset: DatasetRef, compute: ComputeProcess) -> Scores:
    """Score the untouched model by how likely it finds each class's name after the text, on the same rows."""
    config, source = run.config, run.store.fetch(dataset.key)
    answer = compute.request(
        "zero_shot",
        {
            "kind_name": run.kind_name,
            "settings": baseline_zero_shot.settings(run),
            "labels": read_json(source / "info.json")["labels"],
            "dataset": str(source),
            "model": str(model_folder(config.model, run.inputs.model_identity, weights=True)),
            "output": str(folder),
            "seed": config.seed,
            "device": config.training.device,
            "precision": config.training.precision,
            "allow_pickle": config.model.allow_pickle,
            "remote_code": config.model.trust_remote_code,
        },
        on_event=EventSink(baseline_zero_shot.name),
    )
    return Scores(**answer)
