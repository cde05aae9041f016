"""The step `tokenize`: rows to token ids, with the model's own tokenizer."""

from pathlib import Path

from tasks.compute.client import ComputeProcess
from tasks.models import model_folder
from tasks.progress import EventSink
from tasks.records import SPLITS, DatasetRef
from tasks.steps import Run, log_warning, read_json, step, write_json


@step(
    "tokenize",
    reads=("kind", "model", "training.max_length", "inputs.model_identity"),
    code=("tasks.compute.tokenize",),
)
def tokenize(run: Run, folder: Path, *, dataset: DatasetRef, compute: ComputeProcess) -> DatasetRef:
    """Tokenize every split. The artifact has one `datasets` folder per split and `info.json` with lengths and truncation."""
    config = run.config
    found = compute.request(
        "tokenize",
        {
            "kind_name": run.kind_name,
            "settings": tokenize.settings(run),
            "labels": read_json(run.store.fetch(dataset.key) / "info.json")["labels"],
            "dataset": str(run.store.fetch(dataset.key)),
            "model": str(model_folder(config.model, run.inputs.model_identity, weights=False)),
            "output": str(folder),
            "remote_code": config.model.trust_remote_code,
        },
        on_event=EventSink("tokenize"),
    )
    write_json(folder / "info.json", found)
    truncated = sum(found[split]["truncated"] for split in SPLITS)
    rows = sum(found[split]["rows"] for split in SPLITS)
    if truncated:
        log_warning(f"{truncated} of {rows} rows are truncated to {config.training.max_length} tokens (training.max_length).")
    return DatasetRef(**{split: found[split]["rows"] for split in SPLITS})
