"""Text classification: one of several classes, any number of labels, or a number for a text or a pair of texts.

Data: a text column, optionally a second one, and a label column; `problem` says what that holds.
`single_label`, a class's name or number. Metrics: accuracy, F1 weighted by support and unweighted (macro), Matthews correlation,
log loss, expected calibration error, and precision, recall and F1 per class.
`multi_label`, a list of names, or names in one text with a separator. Metrics: F1 over all decisions (micro), over labels
(macro, weighted) and over rows (samples), exact matches (subset accuracy), Hamming loss, log loss, expected calibration error
(over all decisions), and precision, recall and F1 per label; a label is predicted where its probability is at least 0.5.
`regression`, a number. Metrics: R², Pearson's correlation, mean absolute and (root) mean squared error.
Models: any encoder or decoder that `AutoModelForSequenceClassification` takes.
Source: Devlin et al. 2019, BERT, section 4.1 (arXiv 1810.04805).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tasks.config import DataSettings, ExperimentConfig
from tasks.data.columns import Column
from tasks.data.files import Part
from tasks.encoding.padding import padded, truncated_rows
from tasks.kinds.kind import Array, Encoded, Kind, Metrics, Predictions, Rows
from tasks.pretrained import fresh_weights, load_config, load_pretrained
from tasks.problems.multi_label import MultiLabel
from tasks.problems.problem import Problem
from tasks.problems.regression import Regression
from tasks.problems.single_label import SingleLabel

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROBLEMS: dict[str, Problem] = {"single_label": SingleLabel(), "multi_label": MultiLabel(), "regression": Regression()}


class TextClassificationData(DataSettings):
    """Where the rows come from and how they are split."""

    verbatim: ClassVar[frozenset[str]] = frozenset({"label_separator"})

    text_column: str = Field("text", min_length=1)
    """Column with the text."""
    pair_column: str | None = None
    """Column with a second text, for tasks on pairs of texts."""
    label_column: str = Field("label", min_length=1)
    """Column with the label: a name or an integer; for `problem: multi_label` several of them; for `regression` a number."""
    label_separator: str = Field(";", min_length=1)
    """What stands between the labels of a row where they are in one text, as in CSV files; for `problem: multi_label`."""


class TextClassificationConfig(ExperimentConfig):
    """A text-classification experiment: fine-tune a model on labelled texts and score it before and after."""

    name: str = Field("text-classifier", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the model that this experiment makes, for runs and reports; the store keeps its champion under it."""
    problem: Literal["single_label", "multi_label", "regression"] = "single_label"
    """What a row's label is: one of several classes, any number of labels, or a number."""
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
    """See the module's docstring, and `Kind` for its methods; what varies with the setting `problem` is in `tasks.problems`."""

    config: TextClassificationConfig
    labels: tuple[str, ...] = ()
    name: ClassVar[str] = "text-classification"
    config_class: ClassVar[type[ExperimentConfig]] = TextClassificationConfig
    pipeline_tag: ClassVar[str] = "text-classification"
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        ("load-dataset", "tokenize", "evaluate", "fine-tune", "compare", "baseline"), ("problem",)
    )
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"log_loss", "calibration_error", "hamming_loss", "mae", "rmse", "mse"})
    unbounded: ClassVar[frozenset[str]] = frozenset({"log_loss", "mae", "rmse", "mse"})

    @property
    def simplest(self) -> str:
        """See `Kind`."""
        return self.problem.simplest

    @property
    def problem(self) -> Problem:
        """What varies with the setting of that name."""
        return _PROBLEMS[self.config.problem]

    @property
    def smoothable(self) -> bool:
        """See `Kind`."""
        return self.config.problem == "single_label"

    @property
    def primary_metric(self) -> str:
        """See `Kind`."""
        return self.problem.primary_metric

    @property
    def loss_metric(self) -> str | None:
        """See `Kind`."""
        return self.problem.loss_metric

    @property
    def right_or_wrong(self) -> bool:
        """See `Kind`."""
        return self.problem.right_or_wrong

    @property
    def usage(self) -> str:
        """See `Kind`."""
        return self.problem.usage

    @property
    def metric_names(self) -> frozenset[str]:
        """See `Kind`."""
        return self.problem.metric_names

    def columns(self) -> tuple[Column, ...]:
        """See `Kind`."""
        data = self.config.data
        texts = [Column("text", data.text_column, "text", "data.text_column")]
        if data.pair_column:
            texts.append(Column("pair", data.pair_column, "text", "data.pair_column"))
        return (*texts, Column("label", data.label_column, self.problem.form, "data.label_column"))

    def quickstart(self) -> Part:
        """See `Kind`."""
        return self.problem.quickstart()

    def adapt(self, part: Part) -> Part:
        """See `Kind`."""
        return self.problem.adapt(part, self.config.data.label_column, self.config.data.label_separator)

    def load_model(self, folder: Path, *, trained: bool, allow_pickle: bool, remote_code: bool) -> "tuple[PreTrainedModel, str]":
        """Load the model; its own head is kept only if it was made for this problem and these labels in this order."""
        config = load_config(folder, kind=self.name, remote_code=remote_code)
        fits = self.problem.head_fits(config, self.labels)
        self.problem.set_up(config, self.labels)
        model = load_pretrained(
            "AutoModelForSequenceClassification",
            folder,
            config,
            kind=self.name,
            trained=trained,
            allow_pickle=allow_pickle,
            remote_code=remote_code,
        )
        fresh = fresh_weights(model)
        if not fresh and not fits:
            _renew_head(model)
        head = "trained" if trained else "pretrained" if fits and not fresh else "fresh"
        return model, head

    def encode(self, tokenizer: "PreTrainedTokenizerBase", rows: Rows, *, train: bool) -> Encoded:
        """Tokenize texts, or pairs of which the longer is cut first. See `Kind`."""
        max_length = self.config.training.max_length
        encoded = tokenizer(rows["text"], _parted(tokenizer, rows.get("pair")), truncation=True, max_length=max_length)
        inputs = {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}
        labels = self.problem.targets(rows["label"], self.labels)
        return Encoded({**inputs, "labels": labels}, truncated_rows(encoded, max_length))

    def collator(
        self, tokenizer: "PreTrainedTokenizerBase", *, train: bool, pad_to_multiple_of: int = 8
    ) -> Callable[[list[dict[str, Any]]], Any]:
        """See `padded`, and `Kind`."""

        def collate(rows: list[dict[str, Any]]) -> Any:
            import torch

            batch = padded(rows, tokenizer, pad_to_multiple_of, left=tokenizer.padding_side == "left")
            return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}

        return collate

    def start(self, model: "PreTrainedModel", head: str, features: "datasets.Dataset") -> "datasets.Dataset":
        """See `Kind`."""
        return self.problem.start(model, features, fresh=head == "fresh")

    def predict(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch: Mapping[str, Any]) -> Array:
        """See `Kind`."""
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        return self.problem.reduce(logits, model.config)

    def gather(self, outputs: Array, features: "datasets.Dataset", rows: "datasets.Dataset") -> Predictions:
        """See `Kind`."""
        return {self.problem.output: outputs}

    def guess(
        self,
        train: "datasets.Dataset",
        rows: "datasets.Dataset",
        features: "datasets.Dataset | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> Predictions:
        """Return of each row what `Problem.prior` says of all. See `Kind`."""
        prior = self.problem.prior(train["label"][:], self.labels)
        return {self.problem.output: np.repeat(prior[None], len(rows), axis=0)}

    def adopt(self, predictions: Predictions, labels: Sequence[str]) -> Predictions:
        """Sort probabilities by the classes' names; a class that the model does not know has the probability 0. See `Kind`."""
        if tuple(labels) == self.labels or self.config.problem == "regression":
            return predictions
        places = {label: place for place, label in enumerate(labels)}
        known = [(number, places[label]) for number, label in enumerate(self.labels) if label in places]
        found = np.zeros((len(predictions[self.problem.output]), len(self.labels)), np.float32)
        if known:
            own, theirs = zip(*known, strict=True)
            found[:, own] = predictions[self.problem.output][:, theirs]
        return {self.problem.output: found}

    def statistics(self, predictions: Predictions, rows: Rows) -> Array:
        """See `Kind`."""
        return self.problem.statistics(predictions[self.problem.output], rows["label"])

    def metrics(self, sums: Array) -> Metrics:
        """Return the metrics of the module's docstring. See `Kind`."""
        return self.problem.metrics(sums, self.labels)

    def row_scores(self, predictions: Predictions, rows: Rows) -> Array:
        """See `Kind`."""
        return self.problem.row_scores(predictions[self.problem.output], rows["label"])

    def table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """See `Kind`."""
        return self.problem.table(predictions[self.problem.output], rows["label"], self.labels)

    def prediction_table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """See `Kind`."""
        return self.problem.prediction_table(predictions[self.problem.output], self.labels)

    def shown_row(self, row: Mapping[str, Any]) -> tuple[list[str], str]:
        """See `Kind`."""
        return [row[name] for name in ("text", "pair") if name in row], self.problem.shown_label(row["label"], self.labels)

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """See `Kind`."""
        return self.problem.shown_prediction(entry)

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
        """See `Kind`."""
        return self.problem.analysis(before, after, self.labels)


def _parted(tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[str] | None) -> Sequence[str] | None:
    """Return second texts so that each can be told from the first: after the end token, where the tokenizer puts none of its own.

    That of most decoders puts nothing between the two, and a pair would be the same wherever it is parted.
    """
    own = tokenizer.num_special_tokens_to_add(pair=True) - tokenizer.num_special_tokens_to_add(pair=False)
    end = tokenizer.eos_token or tokenizer.sep_token
    return pairs if pairs is None or own or end is None else [f"{end}{text}" for text in pairs]


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
