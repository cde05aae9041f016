"""Text classification: one of several classes for a text or a pair of texts.

Data: a text column, optionally a second one, and a label column with names or integers.
Metrics: accuracy, F1 weighted by support and unweighted (macro), Matthews correlation, log loss, and precision, recall and F1 per
class. Models: any encoder or decoder that `AutoModelForSequenceClassification` takes.
Source: Devlin et al. 2019, BERT, section 4.1 (arXiv 1810.04805); Gorodkin 2004 for the Matthews correlation of several classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from tasks.config import DataSettings, ExperimentConfig
from tasks.data.rows import Column
from tasks.errors import ModelError
from tasks.kinds.kind import Array
from tasks.text import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TextClassificationConfig(ExperimentConfig):
    """A text-classification experiment: fine-tune a model on labelled texts and score it before and after."""

    name: str = Field("text-classifier", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the model that this experiment makes, for runs and reports."""

    @model_validator(mode="after")
    def _columns_differ(self) -> "TextClassificationConfig":
        names = [column.name for column in KIND.columns(self.data)]
        if len(set(names)) < len(names):
            raise ValueError(f"text, pair and label must be different columns, not {names}")
        return self


@dataclass(frozen=True)
class TextClassification:
    """See the module's docstring; satisfies `Kind`."""

    name: str = "text-classification"
    config_class: type[ExperimentConfig] = TextClassificationConfig
    primary_metric: str = "accuracy"
    lower_is_better: frozenset[str] = frozenset({"log_loss"})
    pipeline_tag: str = "text-classification"

    def columns(self, data: DataSettings) -> tuple[Column, ...]:
        """See `Kind`."""
        texts = [Column("text", data.text_column, "text", "data.text_column")]
        if data.pair_column:
            texts.append(Column("pair", data.pair_column, "text", "data.pair_column"))
        return (*texts, Column("label", data.label_column, "label", "data.label_column"))

    def load_model(
        self, folder: Path, labels: Sequence[str], *, trained: bool, allow_pickle: bool, remote_code: bool
    ) -> "tuple[PreTrainedModel, str]":
        """Load the model; its own head is kept only if it was made for these labels in this order. See `Kind`."""
        from transformers import AutoConfig, AutoModelForSequenceClassification

        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
            fits = _head_fits(config, labels)
            config.num_labels = len(labels)
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: number for number, label in enumerate(labels)}
            config.problem_type = "single_label_classification"
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                use_safetensors=not allow_pickle or any(folder.glob("*.safetensors")),
                trust_remote_code=remote_code,
                dtype="float32",
            )
        except Exception as error:  # damaged files raise all sorts: SafetensorError and UnpicklingError are of no common class
            raise ModelError(f"Model {str(folder)!r} cannot be loaded for text-classification: {one_line(error)}") from error
        fresh = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
        if trained and fresh:
            raise ModelError(f"Model {str(folder)!r} lacks trained weights: {one_line(sorted(fresh)[:5])}.")
        if not fresh and not fits:
            _renew_head(model)
        head = "trained" if trained else "pretrained" if fits and not fresh else "fresh"
        return model, head

    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", batch: Mapping[str, list[Any]], max_length: int
    ) -> tuple[dict[str, list[Any]], list[bool]]:
        """Tokenize texts, or pairs of which the longer is cut first. See `Kind`."""
        encoded = tokenizer(batch["text"], batch.get("pair"), truncation=True, max_length=max_length)
        if encoded.is_fast:
            truncated = [bool(encoding.overflowing) for encoding in encoded.encodings or []]
        else:
            truncated = [len(ids) >= max_length for ids in encoded["input_ids"]]
        inputs = {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}
        return {**inputs, "labels": batch["label"]}, truncated

    def collator(self, tokenizer: "PreTrainedTokenizerBase") -> Any:
        """Pad to the batch's longest row, and on to a multiple of 8 tokens where the model takes that. See `Kind`."""
        from transformers import DataCollatorWithPadding

        def collate(rows: list[dict[str, Any]]) -> Any:
            longest = max(len(row["input_ids"]) for row in rows)
            # Fewer shapes: kernels are kept per shape (0.4 GB less on a CPU), and tensor cores like multiples of 8.
            length = min(-(-longest // 8) * 8, max(longest, tokenizer.model_max_length))
            return DataCollatorWithPadding(tokenizer, padding="max_length", max_length=length)(rows)

        return collate

    def predict(self, model: "PreTrainedModel", batch: Mapping[str, Any]) -> Array:
        """Return probabilities of shape (batch, classes) in float32. See `Kind`."""
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        probabilities: Array = logits.float().softmax(-1).cpu().numpy()
        return probabilities

    def statistics(self, predictions: Array, references: Array) -> Array:
        """Return the row's cell of the confusion matrix and its negative log likelihood.

        Args:
            predictions: Probabilities, shape (rows, classes).
            references: Class numbers, shape (rows,).

        Returns:
            Array: shape (rows, classes * classes + 1): one-hot of reference * classes + prediction, then nats.
        """
        rows, classes = predictions.shape
        cells = np.zeros((rows, classes * classes + 1))
        index = np.arange(rows)
        cells[index, references * classes + predictions.argmax(1)] = 1.0
        likelihood = predictions[index, references].astype(np.float64)
        # As scikit-learn's log_loss: a probability of zero counts as the type's smallest step.
        cells[:, -1] = -np.log(np.clip(likelihood, np.finfo(predictions.dtype).eps, 1.0))
        return cells

    def metrics(self, sums: Array, labels: Sequence[str]) -> dict[str, float]:
        """Return the metrics of the module's docstring; a ratio with a zero denominator is 0. See `Kind`."""
        classes = len(labels)
        confusion = np.asarray(sums[:-1], np.float64).reshape(classes, classes)
        rows, correct = confusion.sum(), np.diag(confusion)
        support, predicted = confusion.sum(1), confusion.sum(0)
        precision, recall = _ratio(correct, predicted), _ratio(correct, support)
        f1 = _ratio(2 * correct, support + predicted)
        covariance = correct.sum() * rows - predicted @ support
        spread = np.sqrt(rows**2 - predicted @ predicted) * np.sqrt(rows**2 - support @ support)
        scores = {
            "accuracy": correct.sum() / rows,
            "f1_weighted": f1 @ support / rows,
            "f1_macro": f1.mean(),
            "matthews_correlation": covariance / spread if spread else 0.0,
            "log_loss": sums[-1] / rows,
        }
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            scores |= {f"{name}/{label}": value for label, value in zip(labels, values, strict=True)}
        return {name: float(value) for name, value in scores.items()}


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


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


KIND = TextClassification()
