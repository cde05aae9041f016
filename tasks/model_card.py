"""The model card: the README.md of a model's folder, with the metadata block that the Hub reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from tasks.text import escape_markdown, one_line
from tasks.records import Checkpoint, DatasetRef
from tasks.steps import Run

_HYPERPARAMETERS = "epochs learning_rate batch_size weight_decay warmup_ratio max_length".split()
_TEMPLATE = """---
{metadata}
---

# {name}

Fine-tuned from {base} for {kind} by finetune-flows. Load it with transformers:

```python
from transformers import pipeline

classify = pipeline("{tag}", "path/to/this/folder")
```

## Labels

{labels}

## Data

{data}: {train} train rows, {validation} validation rows, {test} test rows. The test rows took no part in training or in the
choice of the epoch.

## Validation scores

Of the epoch that was kept ({best_epoch:g}). The scores on the test rows, before and after, are in the run's report.

{scores}

## Training

{training}
"""


def write_model_card(folder: Path, run: Run, checkpoint: Checkpoint, dataset: DatasetRef, labels: Sequence[str]) -> None:
    """Write README.md into a model's folder."""
    config = run.config
    headline = {name: value for name, value in checkpoint.validation.items() if "/" not in name}
    on_hub = not Path(config.model.name).expanduser().is_dir()
    base = {"quickstart": "sentence-transformers/all-MiniLM-L6-v2"}.get(config.model.name, config.model.name)
    # A path of the machine that trained means nothing to who reads the card.
    base = base if on_hub else Path(base).name
    data = config.data.source if not Path(config.data.source).expanduser().exists() else Path(config.data.source).name
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=run.kind.pipeline_tag,
        base_model=base if on_hub else None,
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
        tag=run.kind.pipeline_tag,
        labels="\n".join(f"- {escape_markdown(label)}" for label in labels),
        data=escape_markdown(data),
        **{split: getattr(dataset, split) for split in ("train", "validation", "test")},
        best_epoch=checkpoint.best_epoch,
        scores=_table("Metric", headline),
        training=_table("Setting", {name: getattr(config.training, name) for name in _HYPERPARAMETERS} | {"seed": config.seed}),
    )
    ModelCard(text).save(folder / "README.md")


def _table(title: str, values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value:.6g} |" for name, value in values.items()]
    return "\n".join([f"| {title} | Value |", "|---|---|", *rows])
