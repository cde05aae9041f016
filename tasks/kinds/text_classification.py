"""Text classification: one of several classes for a text or a pair of texts.

Data: a text column, optionally a second one, and a label column with names or integers.
Metrics: accuracy, F1 weighted by support and unweighted (macro), Matthews correlation, log loss, and precision, recall and F1 per
class. Models: any encoder or decoder that `AutoModelForSequenceClassification` takes.
Source: Devlin et al. 2019, BERT, section 4.1 (arXiv 1810.04805).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from tasks.config import DataSettings, ExperimentConfig
from tasks.data.files import Part
from tasks.data.rows import Column
from tasks.kinds.kind import Array, Encoded, Kind, Predictions, Rows
from tasks.pretrained import load_config, load_pretrained
from tasks.scoring.classes import class_analysis, class_metrics, class_statistics

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TextClassificationData(DataSettings):
    """Where the rows come from and how they are split."""

    text_column: str = Field("text", min_length=1)
    """Column with the text."""
    pair_column: str | None = None
    """Column with a second text, for tasks on pairs of texts."""
    label_column: str = Field("label", min_length=1)
    """Column with the label, a name or an integer."""


class TextClassificationConfig(ExperimentConfig):
    """A text-classification experiment: fine-tune a model on labelled texts and score it before and after."""

    name: str = Field("text-classifier", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the model that this experiment makes, for runs and reports."""
    data: TextClassificationData = TextClassificationData()
    """Where the rows come from and how they are split."""

    @model_validator(mode="after")
    def _columns_differ(self) -> "TextClassificationConfig":
        names = [column.name for column in TextClassification(self).columns()]
        if len(set(names)) < len(names):
            raise ValueError(f"text, pair and label must be different columns, not {names}")
        return self


@dataclass(frozen=True)
class TextClassification(Kind):
    """See the module's docstring, and `Kind` for its methods."""

    config: TextClassificationConfig
    labels: tuple[str, ...] = ()
    name: ClassVar[str] = "text-classification"
    config_class: ClassVar[type[ExperimentConfig]] = TextClassificationConfig
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"log_loss"})
    unbounded: ClassVar[frozenset[str]] = frozenset({"log_loss"})
    loss_metric: ClassVar[str | None] = "log_loss"
    smoothable: ClassVar[bool] = True

    @property
    def primary_metric(self) -> str:
        """See `Kind`."""
        return "accuracy"

    @property
    def pipeline_tag(self) -> str:
        """See `Kind`."""
        return "text-classification"

    def columns(self) -> tuple[Column, ...]:
        """See `Kind`."""
        data = self.config.data
        texts = [Column("text", data.text_column, "text", "data.text_column")]
        if data.pair_column:
            texts.append(Column("pair", data.pair_column, "text", "data.pair_column"))
        return (*texts, Column("label", data.label_column, "label", "data.label_column"))

    def quickstart(self) -> Part:
        """See `Kind`."""
        from tasks.data.quickstart.families import families_part

        return families_part()

    def load_model(self, folder: Path, *, trained: bool, allow_pickle: bool, remote_code: bool) -> "tuple[PreTrainedModel, str]":
        """Load the model; its own head is kept only if it was made for these labels in this order. See `Kind`."""
        config = load_config(folder, kind=self.name, remote_code=remote_code)
        fits = _head_fits(config, self.labels)
        config.num_labels = len(self.labels)
        config.id2label = dict(enumerate(self.labels))
        config.label2id = {label: number for number, label in enumerate(self.labels)}
        config.problem_type = "single_label_classification"
        model, fresh = load_pretrained(
            "AutoModelForSequenceClassification",
            folder,
            config,
            kind=self.name,
            trained=trained,
            allow_pickle=allow_pickle,
            remote_code=remote_code,
        )
        if not fresh and not fits:
            _renew_head(model)
        head = "trained" if trained else "pretrained" if fits and not fresh else "fresh"
        return model, head

    def encode(self, tokenizer: "PreTrainedTokenizerBase", rows: Rows, *, train: bool) -> Encoded:
        """Tokenize texts, or pairs of which the longer is cut first. See `Kind`."""
        max_length = self.config.training.max_length
        encoded = tokenizer(rows["text"], rows.get("pair"), truncation=True, max_length=max_length)
        if encoded.is_fast:
            truncated = [bool(encoding.overflowing) for encoding in encoded.encodings or []]
        else:
            truncated = [len(ids) >= max_length for ids in encoded["input_ids"]]
        inputs = {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}
        return Encoded({**inputs, "labels": list(rows["label"])}, truncated)

    def collator(self, tokenizer: "PreTrainedTokenizerBase", *, train: bool) -> Callable[[list[dict[str, Any]]], Any]:
        """Pad to the batch's longest row, and on to a multiple of 8 tokens where the model takes that. See `Kind`."""
        from transformers import DataCollatorWithPadding

        def collate(rows: list[dict[str, Any]]) -> Any:
            longest = max(len(row["input_ids"]) for row in rows)
            # Fewer shapes: kernels are kept per shape (0.4 GB less on a CPU), and tensor cores like multiples of 8.
            length = min(-(-longest // 8) * 8, max(longest, tokenizer.model_max_length))
            return DataCollatorWithPadding(tokenizer, padding="max_length", max_length=length)(rows)

        return collate

    def predict(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch: Mapping[str, Any]) -> Array:
        """Return probabilities of shape (batch, classes) in float32. See `Kind`."""
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        probabilities: Array = logits.float().softmax(-1).cpu().numpy()
        return probabilities

    def gather(self, outputs: Array, features: "datasets.Dataset", rows: "datasets.Dataset") -> Predictions:
        """See `Kind`."""
        return {"probabilities": outputs}

    def statistics(self, predictions: Predictions, rows: Rows) -> Array:
        """Return the row's cell of the confusion matrix and its negative log likelihood. See `Kind`."""
        return class_statistics(predictions["probabilities"], np.asarray(rows["label"]))

    def metrics(self, sums: Array) -> dict[str, float]:
        """Return the metrics of the module's docstring. See `Kind`."""
        return class_metrics(sums, self.labels)

    def row_scores(self, predictions: Predictions, rows: Rows) -> Array:
        """Return 1 where the most probable class is right. See `Kind`."""
        right: Array = predictions["probabilities"].argmax(1) == np.asarray(rows["label"])
        return right.astype(float)

    def table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """Return `label`, `prediction`, `probabilities` in the order of the labels, and that of the right label. See `Kind`."""
        import pyarrow as pa

        probabilities, references = predictions["probabilities"], np.asarray(rows["label"])
        names = pa.array(self.labels, pa.string())
        return {
            "label": pa.DictionaryArray.from_arrays(pa.array(references, pa.int32()), names),
            "prediction": pa.DictionaryArray.from_arrays(pa.array(probabilities.argmax(1), pa.int32()), names),
            "probabilities": pa.array(list(probabilities.astype(np.float32)), pa.list_(pa.float32())),
            "fine_score": pa.array(probabilities[np.arange(len(references)), references].astype(np.float64)),
        }

    def shown_row(self, row: Mapping[str, Any]) -> tuple[list[str], str]:
        """See `Kind`."""
        return [row[name] for name in ("text", "pair") if name in row], self.labels[row["label"]]

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """Return the predicted class and its probability. See `Kind`."""
        return f"{entry['prediction']} ({max(entry['probabilities']):.2f})"

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
        """See `Kind`."""
        return class_analysis(before, after)


def _head_fits(config: Any, labels: Sequence[str]) -> bool:
    """Tell whether a model's own head is for these labels: the same names in this order, or only numbers: `LABEL_0` and so on."""
    names = [str(name) for _, name in sorted((int(number), name) for number, name in (config.id2label or {}).items())]
    return names in (list(labels), [f"LABEL_{number}" for number in range(len(labels))])


def _renew_head(model: "PreTrainedModel") -> None:
    """Initialise the head anew: one made for other labels would be read under wrong names."""
    import torch

    body = getattr(model, model.base_model_prefix)
    inside = set(body.parameters())
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and not inside.intersection(own) and isinstance(module, torch.nn.Linear):
            deviation = getattr(model.config, "initializer_range", 0.02)
            torch.nn.init.normal_(module.weight, 0.0, deviation)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


KIND = TextClassification
