"""Causal language modelling: a decoder that predicts the next token of the texts of a domain.

Data: plain text files, a text column, a column of messages (chat), or columns of prompts and completions.
Metrics: bits per byte, perplexity weighted by tokens, and loss (nats per token). Training packs documents into full blocks;
scoring reads each document for itself, and counts each token of it once. Models: any decoder that `AutoModelForCausalLM` takes,
and encoders of which transformers can make one.
Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners; Rothe et al. 2020 for decoders out of encoders
(arXiv 1907.12461).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tasks.config import DataSettings, ExperimentConfig, Settings, TrainingSettings
from tasks.continuations import continuations
from tasks.data.arrays import as_array
from tasks.data.columns import Column
from tasks.data.files import Part
from tasks.decoders import keeps_apart, load_decoder
from tasks.encoding.conversations import ASSISTANT, parse_messages, with_json
from tasks.encoding.documents import Separator, documents
from tasks.encoding.language import LossOn, each_row, marked, scored_bytes, tokenized
from tasks.encoding.packing import cut, isolation, pack, pack_whole
from tasks.encoding.padding import IGNORED, TOKEN_LABELS, padded
from tasks.guesses.unigram import Unigram
from tasks.kinds.kind import Array, Encoded, Kind, Metrics, Predictions, Rows
from tasks.scoring.logits import logits_of_next, sums_by_row
from tasks.scoring.perplexity import causal_metrics, known_ratio, surprise

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_USAGE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
first = tokenizer.bos_token or tokenizer.cls_token or tokenizer.eos_token
last = tokenizer.eos_token_id or tokenizer.sep_token_id
inputs = tokenizer(first + "How a text begins", add_special_tokens=False, return_tensors="pt")
ids = model.generate(inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=50, eos_token_id=last)
print(tokenizer.decode(ids[0]))"""


class CausalLMData(DataSettings):
    """Where the texts come from and how they are split."""

    text_column: str = Field("text", min_length=1)
    """Column with the text; of plain text files it is `text`."""
    documents: Separator = "blank-lines"
    """What separates documents in a plain text file: blank lines, each line's end, or nothing but the file's end."""
    prompt_column: str | None = None
    """Column with prompts, in place of texts; goes with `completion_column`."""
    completion_column: str | None = None
    """Column with what follows on the prompts, as it is: a space between the two has to be part of one of them."""
    messages_column: str | None = None
    """Column with conversations, in place of texts: lists of messages, each with a `role` and a `content`."""


class CausalLMTraining(TrainingSettings):
    """How the model is fine-tuned."""

    epochs: int = Field(1, ge=1, le=1000)
    """Passes over the train split; the best one on validation is kept."""
    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW, reached after the warm-up; a decoder that writes already wants less,
    such as 5e-5."""
    batch_size: int = Field(8, ge=1, le=65536)
    """Rows per optimizer step."""


class LanguageSettings(Settings):
    """How texts are learnt and scored."""

    packing: Literal["isolated", "joined", "none"] = "isolated"
    """How training fills its blocks of `training.max_length` tokens: with documents that do not see each other, with documents
    that see those before them in the block, or with one document or piece of it each."""
    loss_on: LossOn = "completions"
    """What is learnt and scored of a row with a prompt or a conversation: the completion or the assistant's messages, or all."""
    context: float = Field(0.5, ge=0, le=0.9)
    """Fraction of `training.max_length` that scoring repeats of what comes before, in the later windows of a long text."""
    samples: int = Field(4, ge=0, le=50)
    """Test rows that the report shows continuations of."""
    sample_tokens: int = Field(40, ge=1, le=1000)
    """Most tokens of a continuation."""


class CausalLMConfig(ExperimentConfig):
    """A language-modelling experiment: fine-tune a decoder on texts and score it before and after."""

    name: str = Field("language-model", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the model that this experiment makes, for runs and reports; the store keeps its champion under it."""
    data: CausalLMData = CausalLMData()
    """Where the texts come from and how they are split."""
    training: CausalLMTraining = CausalLMTraining()
    """How the model is fine-tuned."""
    language: LanguageSettings = LanguageSettings()
    """How texts are learnt and scored."""

    @model_validator(mode="after")
    def _columns_go_together(self) -> "CausalLMConfig":
        data = self.data
        if bool(data.prompt_column) != bool(data.completion_column):
            raise ValueError("data.prompt_column and data.completion_column go together; set both or none")
        if data.prompt_column and data.prompt_column == data.completion_column:
            raise ValueError(f"prompt and completion must be different columns, not both {data.prompt_column!r}")
        if data.prompt_column and data.messages_column:
            raise ValueError("data.messages_column and data.prompt_column exclude each other; set one of them")
        return self


@dataclass(frozen=True)
class CausalLM(Kind):
    """See the module's docstring, and `Kind` for its methods."""

    config: CausalLMConfig
    labels: tuple[str, ...] = ()
    name: ClassVar[str] = "causal-lm"
    config_class: ClassVar[type[ExperimentConfig]] = CausalLMConfig
    primary_metric: ClassVar[str] = "bits_per_byte"
    smoothable: ClassVar[bool] = True
    pipeline_tag: ClassVar[str] = "text-generation"
    simplest: ClassVar[str] = "unigram"
    guesses_tokens: ClassVar[bool] = True
    usage: ClassVar[str] = _USAGE
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "load-dataset": ("language.loss_on",),
        "tokenize": ("language.packing", "language.loss_on", "language.context"),
        "evaluate": ("language.loss_on",),
        "baseline": ("language.loss_on",),
        **dict.fromkeys(("evaluate-baseline", "evaluate-fine-tuned"), ("language.samples", "language.sample_tokens")),
        "compare": ("training.max_length",),
    }
    judged_by: ClassVar[tuple[str, ...]] = ("language.loss_on",)
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"bits_per_byte", "perplexity", "loss"})
    unbounded: ClassVar[frozenset[str]] = lower_is_better
    loss_metric: ClassVar[str | None] = "loss"
    right_or_wrong: ClassVar[bool] = False

    @property
    def metric_names(self) -> frozenset[str]:
        """See `Kind`."""
        return frozenset({"bits_per_byte", "perplexity", "loss"})

    def columns(self) -> tuple[Column, ...]:
        """See `Kind`."""
        data = self.config.data
        if data.messages_column:
            return (Column("messages", data.messages_column, "text", "data.messages_column"),)
        if data.prompt_column and data.completion_column:
            return (
                Column("prompt", data.prompt_column, "text", "data.prompt_column"),
                Column("completion", data.completion_column, "text", "data.completion_column"),
            )
        return (Column("text", data.text_column, "text", "data.text_column"),)

    def quickstart(self) -> Part:
        """See `Kind`."""
        from tasks.data.quickstart.documentation import documentation_part

        return documentation_part()

    def adapt(self, part: Part) -> Part:
        """Return lines as documents, and messages as JSON. See `Kind`."""
        column = self.config.data.messages_column
        if column is None or column not in part.columns:
            return documents(part, self.config.data.documents)
        return with_json(part, column)

    def fault(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """See `Kind`."""
        if "completion" in row and not row["completion"].strip():
            return "completion", "so its completion is missing"
        if row.get("messages"):
            try:
                messages = parse_messages(row["messages"])
            except ValueError as error:
                return "messages", str(error)
            if self.config.language.loss_on == "completions" and ASSISTANT not in [message["role"] for message in messages]:
                return "messages", f"in which no message has the role {ASSISTANT!r}, so there is nothing to learn"
        return None

    def encode(self, tokenizer: "PreTrainedTokenizerBase", rows: Rows, *, train: bool) -> Encoded:
        """Pack documents into blocks to learn from, and cut each into windows to score it. See `Kind`."""
        settings, length = self.config.language, self.config.training.max_length
        texts = [marked(tokenizer, row, settings.loss_on, train=train) for row in each_row(rows)]
        found = tokenized(tokenizer, texts, train=train)
        whole = [False] * len(texts)
        if train and (settings.packing == "joined" or (settings.packing == "isolated" and keeps_apart(tokenizer, length))):
            fill = pack if "text" in rows else pack_whole
            blocks = fill(found, length, isolated=settings.packing == "isolated")
            blocks = [block for block in blocks if set(block.labels) != {IGNORED}] or blocks[:1]
            columns = {"input_ids": [block.ids for block in blocks], "labels": [block.labels for block in blocks]}
            parts = {"parts": [block.parts for block in blocks]} if settings.packing == "isolated" else {}
            return Encoded({**columns, **parts}, whole, [block.first for block in blocks])
        repeated = 0 if train else max(1, math.floor(length * settings.context))
        pieces = [(row, piece) for row, document in enumerate(found) for piece in cut(document, length, repeated)]
        # Where nothing is to be predicted nothing is to be computed; one is kept, so that a batch has columns in any case.
        kept = [(row, piece) for row, piece in pieces if set(piece.labels) != {IGNORED}] or pieces[:1]
        features = {"input_ids": [piece.ids for _, piece in kept], "labels": [piece.labels for _, piece in kept]}
        return Encoded(features, whole, [row for row, _ in kept])

    def collator(
        self, tokenizer: "PreTrainedTokenizerBase", *, train: bool, pad_to_multiple_of: int = 8
    ) -> Callable[[list[dict[str, Any]]], Any]:
        """Pad, and keep the documents of a packed block apart. See `Kind`."""

        def collate(features: list[dict[str, Any]]) -> Any:
            import torch

            batch = padded(features, tokenizer, pad_to_multiple_of, fills=TOKEN_LABELS)
            if "parts" in features[0]:
                mask, positions = isolation([feature["parts"] for feature in features], batch["input_ids"].shape[1])
                batch |= {"attention_mask": torch.from_numpy(mask), "position_ids": torch.from_numpy(positions)}
            return batch

        return collate

    def loss_items(self, batch: Mapping[str, Any]) -> int:
        """Return the number of tokens that are to be predicted. See `Kind`."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def load_model(self, folder: Path, *, trained: bool, allow_pickle: bool, remote_code: bool) -> "tuple[PreTrainedModel, str]":
        """See `Kind`."""
        return load_decoder(folder, kind=self.name, trained=trained, allow_pickle=allow_pickle, remote_code=remote_code)

    def loss(self, model: Any, batch: Mapping[str, Any]) -> "tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]":
        """Compute logits for the tokens alone that are to be predicted, unless the model's loss has more in it. See `Kind`."""
        if _has_further_loss(getattr(model, "module", model)):
            loss, logits, labels = super().loss(model, batch)
            assert logits is not None
            assert labels is not None
            return loss, logits[:, :-1], labels[:, 1:]
        logits, labels, _ = logits_of_next(batch, model)
        return None, logits, labels

    def predict(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch: Mapping[str, Any]) -> Array:
        """Return nats and number of the predicted tokens, shape (batch, 2). See `Kind`."""
        logits, labels, places = logits_of_next(batch, model)
        return sums_by_row(places, surprise(logits, labels), 1)

    def gather(self, outputs: Array, features: "datasets.Dataset", rows: "datasets.Dataset") -> Predictions:
        """See `Kind`."""
        sums = np.zeros((len(rows), 2))
        np.add.at(sums, as_array(features, "row"), outputs)
        return {"nats": sums[:, 0], "tokens": sums[:, 1]}

    def guess(
        self,
        train: "datasets.Dataset",
        rows: "datasets.Dataset",
        features: "datasets.Dataset | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> Predictions:
        """Return what tokens cost by how frequent they are among those of train that would be scored. See `Kind`."""
        assert features is not None
        assert tokenizer is not None
        costs = Unigram(tokenizer)
        for batch in train.iter(1_000):
            texts = [marked(tokenizer, row, self.config.language.loss_on, train=False) for row in each_row(batch)]
            for document in tokenized(tokenizer, texts, train=False):
                costs.count(document.labels[1:])
        outputs = [costs.of(labels[1:])[:2] for labels in features["labels"]]
        return self.gather(np.array(outputs), features, rows)

    def statistics(self, predictions: Predictions, rows: Rows) -> Array:
        """Return nats, tokens and UTF-8 bytes of what was predicted. See `Kind`."""
        return np.stack([predictions["nats"], predictions["tokens"], self._bytes(rows)], 1)

    def metrics(self, sums: Array) -> Metrics:
        """See `Kind`."""
        return causal_metrics(*np.moveaxis(sums, -1, 0))

    def row_scores(self, predictions: Predictions, rows: Rows) -> Array:
        """Return the negative bits per byte. See `Kind`."""
        scores: Array = -predictions["nats"] / np.maximum(1, self._bytes(rows)) / math.log(2)
        return scores

    def table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """Return `nats`, `tokens` and `bytes`. See `Kind`."""
        import pyarrow as pa

        return {
            "nats": pa.array(predictions["nats"], pa.float64()),
            "tokens": pa.array(predictions["tokens"].astype(np.int64)),
            "bytes": pa.array(self._bytes(rows), pa.int64()),
        }

    def prediction_table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """Return the columns of `table`, and of each row `loss` (nats per token) and `bits_per_byte`. See `Kind`."""
        table = self.table(predictions, rows)
        nats, tokens, size = predictions["nats"], predictions["tokens"], self._bytes(rows)
        return {**table, "loss": known_ratio(nats, tokens), "bits_per_byte": known_ratio(nats / math.log(2), size)}

    def samples(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: "datasets.Dataset"
    ) -> list[dict[str, str]]:
        """See `Kind`."""
        settings = self.config.language
        chosen: Any = rows.select(range(min(settings.samples, len(rows))))
        return continuations(model, tokenizer, list(chosen), settings.sample_tokens)

    def shown_row(self, row: Mapping[str, Any]) -> tuple[list[str], str]:
        """See `Kind`."""
        if "messages" in row:
            return [f"{message['role']}: {message['content']}" for message in parse_messages(row["messages"])], ""
        return ([row["prompt"]], row["completion"]) if "completion" in row else ([row["text"]], "")

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """See `Kind`."""
        return f"{-entry['score']:.3f} bits per byte"

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
        """See `Kind`."""
        length = self.config.training.max_length
        short = int((before["tokens"] < length).sum())
        return {"sources": [f"{short:,} of {len(before):,} test rows are shorter than a block of {length} tokens."]}

    def _bytes(self, rows: Rows) -> Array:
        return np.array([scored_bytes(row, self.config.language.loss_on) for row in each_row(rows)], np.int64)


def _has_further_loss(model: Any) -> bool:
    """Return whether a model learns from more than what it predicts, or may, where its code came with it."""
    if type(model).__module__.startswith("transformers_modules."):
        return True
    return bool(getattr(model.config, "output_router_logits", False) or getattr(model.config, "z_loss_coefficient", 0))


KIND = CausalLM
