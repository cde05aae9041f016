"""Masked language modelling: an encoder that guesses hidden tokens of the texts of a domain, to adapt it to them.

Data: plain text files, or a text column.
Metrics: loss (nats per hidden token), its exponential (pseudo-perplexity), and accuracy on the hidden tokens. Training hides
other tokens in each epoch; scoring hides the same ones whenever it is done, so before and after too. Models: any encoder that
`AutoModelForMaskedLM` takes.
Source: Devlin et al. 2019, BERT, section 3.1 (arXiv 1810.04805); Liu et al. 2019, RoBERTa, section 4.1, for dynamic masking
(arXiv 1907.11692); Gururangan et al. 2020 for adaptation to a domain (arXiv 2004.10964).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from tasks.config import DataSettings, ExperimentConfig, TrainingSettings
from tasks.data.arrays import as_array
from tasks.data.columns import Column
from tasks.data.files import Part
from tasks.data.rows import hash64
from tasks.encoding.documents import Separator, documents
from tasks.encoding.masking import DynamicMasking, Hiding
from tasks.encoding.padding import IGNORED, TOKEN_LABELS, padded
from tasks.errors import ModelError
from tasks.guesses.unigram import Unigram
from tasks.kinds.kind import Array, Encoded, Kind, Metrics, Predictions, Rows
from tasks.pretrained import fresh_weights, load_config, load_pretrained
from tasks.scoring.logits import logits_of_labels, sums_by_row
from tasks.scoring.perplexity import known_ratio, masked_metrics, surprise

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class MaskedLMData(DataSettings):
    """Where the texts come from and how they are split."""

    text_column: str = Field("text", min_length=1)
    """Column with the text; of plain text files it is `text`."""
    documents: Separator = "blank-lines"
    """What separates documents in a plain text file: blank lines, each line's end, or nothing but the file's end."""


class MaskedLMTraining(TrainingSettings):
    """How the model is fine-tuned."""

    epochs: int = Field(1, ge=1, le=1000)
    """Passes over the train split; the best one on validation is kept."""
    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW, reached after the warm-up; a model with a head of its own wants
    less, such as 5e-5."""
    batch_size: int = Field(8, ge=1, le=65536)
    """Rows per optimizer step."""


class MaskedLMConfig(ExperimentConfig):
    """A language-modelling experiment: adapt an encoder to texts and score it before and after."""

    name: str = Field("domain-encoder", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the model that this experiment makes, for runs and reports; the store keeps its champion under it."""
    data: MaskedLMData = MaskedLMData()
    """Where the texts come from and how they are split."""
    training: MaskedLMTraining = MaskedLMTraining()
    """How the model is fine-tuned."""


@dataclass(frozen=True)
class MaskedLM(Kind):
    """See the module's docstring, and `Kind` for its methods."""

    config: MaskedLMConfig
    labels: tuple[str, ...] = ()
    name: ClassVar[str] = "masked-lm"
    config_class: ClassVar[type[ExperimentConfig]] = MaskedLMConfig
    primary_metric: ClassVar[str] = "loss"
    smoothable: ClassVar[bool] = True
    pipeline_tag: ClassVar[str] = "fill-mask"
    simplest: ClassVar[str] = "unigram"
    guesses_tokens: ClassVar[bool] = True
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {"tokenize": ("seed",), "fine-tune": ("seed",)}
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "pseudo_perplexity"})
    unbounded: ClassVar[frozenset[str]] = lower_is_better
    loss_metric: ClassVar[str | None] = "loss"
    right_or_wrong: ClassVar[bool] = False

    @property
    def metric_names(self) -> frozenset[str]:
        """See `Kind`."""
        return frozenset({"loss", "pseudo_perplexity", "accuracy"})

    def columns(self) -> tuple[Column, ...]:
        """See `Kind`."""
        return (Column("text", self.config.data.text_column, "text", "data.text_column"),)

    def quickstart(self) -> Part:
        """See `Kind`."""
        from tasks.data.quickstart.documentation import documentation_part

        return documentation_part()

    def adapt(self, part: Part) -> Part:
        """Return lines as documents. See `Kind`."""
        return documents(part, self.config.data.documents)

    def encode(self, tokenizer: "PreTrainedTokenizerBase", rows: Rows, *, train: bool) -> Encoded:
        """Cut each text into windows, all of its tokens; hide some at once where they are to be scored. See `Kind`."""
        hiding = Hiding.of(tokenizer)
        windows, places = _windows(tokenizer, rows["text"], self.config.training.max_length)
        # Of 63 bits: Arrow keeps signed integers.
        draws = [hash64(f"{rows['id'][row]}\x1f{number}") >> 1 for row, number in places]
        whole, owners = [False] * len(rows["text"]), [row for row, _ in places]
        if train:
            return Encoded({"input_ids": windows, "draw": draws}, whole, owners)
        hidden = [hiding(ids, (self.config.seed, draw)) for ids, draw in zip(windows, draws, strict=True)]
        return Encoded({"input_ids": [ids for ids, _ in hidden], "labels": [labels for _, labels in hidden]}, whole, owners)

    def collator(
        self, tokenizer: "PreTrainedTokenizerBase", *, train: bool, pad_to_multiple_of: int = 8
    ) -> Callable[[list[dict[str, Any]]], Any]:
        """See `Kind`."""
        if train:
            return DynamicMasking(tokenizer, self.config.seed, pad_to_multiple_of)
        return lambda features: padded(features, tokenizer, pad_to_multiple_of, fills=TOKEN_LABELS)

    def loss_items(self, batch: Mapping[str, Any]) -> int:
        """Return the number of hidden tokens. See `Kind`."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: Any, batch: Mapping[str, Any]) -> "tuple[None, torch.Tensor, torch.Tensor]":
        """Compute logits for the hidden tokens alone. See `Kind`."""
        logits, labels, _ = _of_hidden(model, batch)
        return None, logits, labels

    def load_model(self, folder: Path, *, trained: bool, allow_pickle: bool, remote_code: bool) -> "tuple[PreTrainedModel, str]":
        """See `Kind`."""
        config = load_config(folder, kind=self.name, remote_code=remote_code)
        _refuse(folder, config)
        model = load_pretrained(
            "AutoModelForMaskedLM",
            folder,
            config,
            kind=self.name,
            trained=trained,
            allow_pickle=allow_pickle,
            remote_code=remote_code,
        )
        return model, "trained" if trained else "fresh" if fresh_weights(model) else "pretrained"

    def predict(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch: Mapping[str, Any]) -> Array:
        """Return nats, number and right guesses of the hidden tokens, shape (batch, 3). See `Kind`."""
        logits, labels, hidden = _of_hidden(model, batch)
        right = (logits.argmax(-1) == labels).cpu().numpy()
        return sums_by_row(hidden, surprise(logits, labels), 1, right)

    def gather(self, outputs: Array, features: "datasets.Dataset", rows: "datasets.Dataset") -> Predictions:
        """See `Kind`."""
        sums = np.zeros((len(rows), 3))
        np.add.at(sums, as_array(features, "row"), outputs)
        return {"nats": sums[:, 0], "tokens": sums[:, 1], "right": sums[:, 2]}

    def guess(
        self,
        train: "datasets.Dataset",
        rows: "datasets.Dataset",
        features: "datasets.Dataset | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> Predictions:
        """Return what hidden tokens cost by how frequent they are among those of train that may be hidden. See `Kind`."""
        assert features is not None
        assert tokenizer is not None
        costs, special = Unigram(tokenizer), Hiding.of(tokenizer).special
        for batch in train.iter(1_000):
            encoded = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False, verbose=False)
            for ids in encoded["input_ids"]:
                costs.count([token for token in ids if token not in special])
        return self.gather(np.array([costs.of(labels) for labels in features["labels"]]), features, rows)

    def statistics(self, predictions: Predictions, rows: Rows) -> Array:
        """Return nats, number and right guesses of the hidden tokens. See `Kind`."""
        return np.stack([predictions[name] for name in ("nats", "tokens", "right")], 1)

    def metrics(self, sums: Array) -> Metrics:
        """See `Kind`."""
        return masked_metrics(*np.moveaxis(sums, -1, 0))

    def row_scores(self, predictions: Predictions, rows: Rows) -> Array:
        """Return the negative nats per hidden token. See `Kind`."""
        scores: Array = -predictions["nats"] / np.maximum(1, predictions["tokens"])
        return scores

    def table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """Return `nats`, and the numbers of hidden tokens, `tokens`, and of right guesses, `right`. See `Kind`."""
        import pyarrow as pa

        return {
            "nats": pa.array(predictions["nats"], pa.float64()),
            **{name: pa.array(predictions[name].astype(np.int64)) for name in ("tokens", "right")},
        }

    def prediction_table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """Return the columns of `table`, and of each row `loss` (nats per hidden token). See `Kind`."""
        return {**self.table(predictions, rows), "loss": known_ratio(predictions["nats"], predictions["tokens"])}

    def shown_row(self, row: Mapping[str, Any]) -> tuple[list[str], str]:
        """See `Kind`."""
        return [row["text"]], ""

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """See `Kind`."""
        return f"{entry['right']} of {entry['tokens']} hidden tokens right, {-entry['score']:.2f} nats each"


def _of_hidden(model: Any, batch: Mapping[str, Any]) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Return the logits of the hidden tokens, shape (hidden, vocabulary), what they are, and where, shape (batch, tokens)."""
    return logits_of_labels(batch["labels"], model, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def _windows(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], length: int
) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Return the windows of texts, between the tokens that the model expects there, and of each its text and number in it."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    begins, ends = ([] if token is None else [token] for token in (first, last))
    size = max(1, length - len(begins) - len(ends))
    windows, places = [], []
    for row, ids in enumerate(encoded["input_ids"]):
        for number, start in enumerate(range(0, max(1, len(ids)), size)):
            windows.append([*begins, *ids[start : start + size], *ends])
            places.append((row, number))
    return windows, places


def _refuse(folder: Path, config: "PretrainedConfig") -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    own = "AutoModelForMaskedLM" in (getattr(config, "auto_map", None) or {})
    known = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder
    if getattr(config, "is_decoder", False) or not (own or known):
        raise ModelError(
            f"Model {str(folder)!r} is of type {config.model_type!r}, and no encoder that guesses hidden tokens; choose one such "
            "as 'bert-base-uncased', or the kind causal-lm."
        )


KIND = MaskedLM
