"""The model card: the README.md of a model's folder, with the metadata block that the Hub reads."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from tasks.comparison.analysis import in_words
from tasks.config import ModelSettings, TrainingSettings
from tasks.data.files import SUFFIXES
from tasks.kinds import load_kind
from tasks.kinds.kind import Kind
from tasks.records import Checkpoint, DatasetRef, Report
from tasks.steps import Run, read_json, write_json
from tasks.text import escape_markdown, one_line

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_HYPERPARAMETERS = (
    *"method epochs learning_rate scheduler batch_size weight_decay warmup_ratio max_grad_norm label_smoothing".split(),
    "max_length",
)
_OF_ADAPTERS = "lora_rank lora_alpha lora_dropout lora_targets".split()
_TEMPLATE = """---
{metadata}
---

# {name}

Fine-tuned from {base} for {kind} by finetune-flows. Load it with transformers:

```python
{usage}
```
{labels}
## Data

{data}: {train} train rows, {validation} validation rows, {test} test rows. The test rows took no part in training or in the
choice of the epoch.

## Validation scores

Of the epoch that was kept ({best_epoch:g}). Those on the test rows, before and after, are in the run's report.

{scores}

## Training

{training}
"""


def write_model_card(folder: Path, run: Run, checkpoint: Checkpoint, dataset: DatasetRef, labels: Sequence[str]) -> None:
    """Write README.md into a model's folder."""
    config = run.config
    headline = {name: value for name, value in checkpoint.validation.items() if "/" not in name}
    model = _name(config.model)
    base, data = _public_name(model), _public_name(config.data.source)
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=run.kind.pipeline_tag,
        base_model=base if base == model else None,
        tags=["finetune-flows"],
        model_name=config.name,
        eval_results=[
            EvalResult(
                task_type=run.kind.pipeline_tag,
                dataset_type=one_line(data, 100),
                dataset_name=one_line(data, 100),
                dataset_split="validation",
                metric_type=name,
                metric_value=value,
            )
            for name, value in headline.items()
        ],
    )
    text = _TEMPLATE.format(
        metadata=metadata.to_yaml(),
        name=config.name,
        base=escape_markdown(base),
        kind=run.kind_name,
        usage=run.kind.usage,
        labels="\n".join(["", "## Labels", "", *(f"- {escape_markdown(label)}" for label in labels), ""]) if labels else "",
        data=escape_markdown(data),
        **{split: getattr(dataset, split) for split in ("train", "validation", "test")},
        best_epoch=checkpoint.best_epoch,
        scores=_table("Metric", headline),
        training=_table("Setting", _settings(config.training) | {"seed": config.seed}),
    )
    ModelCard(text).save(folder / "README.md")


def with_verdict(card: str, report: Report) -> str:
    """Return the card of a model's folder with what its run found on the test rows."""
    kind = load_kind(report.kind)(load_kind(report.kind).config_class())
    names = [name for name in report.before if "/" not in name]
    champion = report.contest.champion if report.contest else None
    rows = [
        f"| {name} | {report.before[name]:.4f} | {f'{champion[name]:.4f} | ' if champion else ''}{report.after[name]:.4f} | "
        f"{_interval(kind, report, name)} |"
        for name in names
    ]
    head = f"| Metric | Before | {'Champion | ' if champion else ''}After | Difference, 95 % interval |"
    table = "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows])
    verdict = (
        f"## Verdict\n\n{escape_markdown(report.outcome)}\n\nOn {report.rows:,} test rows, which chose nothing:\n\n{table}\n\n"
    )
    return card.replace("## Data\n", f"{verdict}## Data\n", 1)


def _interval(kind: Kind, report: Report, name: str) -> str:
    told = in_words(kind, name, report.difference[name])
    if name not in report.intervals:
        return told
    low, high = report.intervals[name]
    return f"{told} ({in_words(kind, name, low, unit=False)} to {in_words(kind, name, high)})"


def name_base(adapter: Path, run: Run) -> None:
    """Say in the configuration of adapters which model on the Hub they are for; where a folder lay is nobody's business."""
    path, name = adapter / "adapter_config.json", _name(run.config.model)
    on_hub = _public_name(name) == name
    revision = run.inputs.model_identity if on_hub and run.config.model.name != "quickstart" else None
    write_json(path, read_json(path) | {"base_model_name_or_path": name if on_hub else None, "revision": revision})


def _name(model: ModelSettings) -> str:
    return {"quickstart": "sentence-transformers/all-MiniLM-L6-v2"}.get(model.name, model.name)


def _settings(training: TrainingSettings) -> dict[str, Any]:
    names = (*_HYPERPARAMETERS, *(_OF_ADAPTERS if training.method == "lora" else ()))
    return {name: getattr(training, name) for name in names}


def _public_name(name: str) -> str:
    """Return a Hub id as it is, and the last part of a path or glob: where it lay on some machine is nobody's business.

    Its form decides as well, since the data need not be on the machine that trains.
    """
    if _HUB_ID.fullmatch(name) and not name.lower().endswith(SUFFIXES) and not Path(name).exists():
        return name
    return Path(os.path.abspath(name)).name


def _table(title: str, values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value if isinstance(value, str) else f'{value:.6g}'} |" for name, value in values.items()]
    return "\n".join([f"| {title} | Value |", "|---|---|", *rows])
