"""The step `baseline-probe`: a linear model on what the untouched model makes of a text, its weights left as they are.

Source: Alain and Bengio 2016, Understanding intermediate layers using linear classifier probes (arXiv 1610.01644); Reimers and
Gurevych 2019, Sentence-BERT, section 3 (arXiv 1908.10084), for the mean over tokens.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from tasks.baselines.fitting import fit_best
from tasks.baselines.plan import draw, label_form, plan
from tasks.baselines.scores import score
from tasks.compute.client import ComputeProcess
from tasks.models import model_folder
from tasks.progress import EventSink
from tasks.records import DatasetRef, Scores
from tasks.steps import Run, read_json, step

_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
_BATCH_ROWS = 2_000


@step(
    "baseline-probe",
    reads=(
        *("kind", "seed", "model", "inputs.model_identity", "training.device", "training.precision"),
        # What decides how many train rows it learns from.
        *("training.epochs", "baselines.time_share", "baselines.zero_shot"),
    ),
    code=("tasks.compute.represent",),
)
def baseline_probe(run: Run, folder: Path, *, dataset: DatasetRef, tokens: DatasetRef, compute: ComputeProcess) -> Scores:
    """Score a linear model on the mean of the untouched model's last hidden states, on the same rows."""
    import datasets
    from sklearn.preprocessing import StandardScaler

    config, started, source = run.config, time.monotonic(), run.store.fetch(dataset.key)
    labels = read_json(source / "info.json")["labels"]
    kind, outputs = baseline_probe.kind(run, labels), max(1, len(labels))
    form = label_form(kind)
    assert form is not None, "it is planned for rows with labels alone"
    train, test = (datasets.Dataset.load_from_disk(str(source / split)) for split in ("train", "test"))
    drawn = draw(len(train), plan(run, dataset).probe_rows, config.seed)
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
        answer = compute.request(
            "represent",
            {
                "tokens": str(run.store.fetch(tokens.key)),
                "model": str(model_folder(config.model, run.inputs.model_identity, weights=True)),
                "output": scratch,
                "rows": {"train": drawn.tolist(), "test": None},
                "seed": config.seed,
                "device": config.training.device,
                "precision": config.training.precision,
                "allow_pickle": config.model.allow_pickle,
                "remote_code": config.model.trust_remote_code,
            },
            on_event=EventSink(baseline_probe.name),
        )
        learnt, asked = (np.load(Path(scratch) / f"{split}.npy", mmap_mode="r") for split in ("train", "test"))
        scale = StandardScaler().fit(learnt)
        predict = fit_best(form, scale.transform(learnt), train.select(drawn)["label"][:], outputs, _STRENGTHS, config.seed)
        parts = [asked[start : start + _BATCH_ROWS] for start in range(0, len(asked), _BATCH_ROWS)]
        predicted = np.concatenate([predict(scale.transform(part)) for part in parts])
        del learnt, asked, parts
    return score(folder, kind, kind.gather(predicted, test, test), test, device=answer["device"], started=started)
