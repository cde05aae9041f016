"""Summarization: a short text for a long one, or any other text out of a text.

Data: a text column and a column with the summary, or whatever the text is to become.
Metrics: ROUGE-1, -2, -L and -Lsum; the length ratio to the references; the share of novel bigrams.
Models: encoder-decoders such as T5, BART and Pegasus; decoders, with a prompt's template; encoders such as BERT, of which an
encoder-decoder is made.
Source: Lin 2004, ROUGE (aclanthology.org/W04-1013); Rothe et al. 2020 for encoders (arXiv 1907.12461).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from tasks.config import DataSettings, ExperimentConfig, Settings, TrainingSettings
from tasks.data.columns import Column
from tasks.data.files import Part
from tasks.encoding.padding import IGNORED, TOKEN_LABELS, padded
from tasks.encoding.texts import encode_pairs, encode_prompts
from tasks.generators import DOCUMENT, GenerationSettings, check_lengths, check_written, configure_generation, load_generator
from tasks.guesses.lead import lead, median_words
from tasks.kinds.kind import Array, Encoded, Kind, Metrics, Predictions, Rows
from tasks.scoring.rouge import NAMES, ROUGE_L_F1, lost_letters, rouge_metrics, rouge_statistics, text_analysis

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SummarizationData(DataSettings):
    """Where the rows come from and how they are split."""

    text_column: str = Field("text", min_length=1)
    """Column with the text."""
    summary_column: str = Field("summary", min_length=1)
    """Column with what is to be made of the text."""


class SummarizationTraining(TrainingSettings):
    """How the model is fine-tuned."""

    # In the class, not in an instance: a flag for one setting would give all others the defaults of the class.
    epochs: int = Field(3, ge=1, le=1000)
    """Passes over the train split; the best one on validation is kept."""
    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate of AdamW, reached after the warm-up; a model that writes already wants less, such as 5e-5."""


class RougeSettings(Settings):
    """How ROUGE counts."""

    words: Literal["ascii", "unicode"] = "ascii"
    """`ascii` finds words of a-z and 0-9 only, as the package `rouge_score` does, whose numbers are in papers; `unicode` finds
    those of all scripts: set it where texts are not English."""


class SummarizationConfig(ExperimentConfig):
    """A summarization experiment: fine-tune a model on texts and their summaries, and score it before and after."""

    name: str = Field("summarizer", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the model that this experiment makes, for runs and reports; the store keeps its champion under it."""
    data: SummarizationData = SummarizationData()
    """Where the rows come from and how they are split."""
    training: SummarizationTraining = SummarizationTraining()
    """How the model is fine-tuned."""
    generation: GenerationSettings = GenerationSettings()
    """How the model is asked, and how it writes."""
    rouge: RougeSettings = RougeSettings()
    """How ROUGE counts."""

    @model_validator(mode="after")
    def _columns_differ(self) -> "SummarizationConfig":
        if self.data.text_column == self.data.summary_column:
            raise ValueError(f"text and summary must be different columns, not both {self.data.text_column!r}")
        return self


@dataclass(frozen=True)
class Summarization(Kind):
    """See the module's docstring, and `Kind` for its methods."""

    config: SummarizationConfig
    labels: tuple[str, ...] = ()
    name: ClassVar[str] = "summarization"
    config_class: ClassVar[type[ExperimentConfig]] = SummarizationConfig
    primary_metric: ClassVar[str] = "rougeL"
    smoothable: ClassVar[bool] = True
    pipeline_tag: ClassVar[str] = "summarization"
    simplest: ClassVar[str] = "lead"
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tokenize": tuple(f"generation.{name}" for name in ("prefix", "template", "max_target_length", "max_new_tokens")),
        "evaluate": ("generation", "rouge"),
        "baseline": ("rouge",),
    }
    judged_by: ClassVar[tuple[str, ...]] = ("rouge",)
    neutral: ClassVar[frozenset[str]] = frozenset({"length_ratio", "novel_bigrams"})
    unbounded: ClassVar[frozenset[str]] = frozenset({"length_ratio"})
    right_or_wrong: ClassVar[bool] = False

    @property
    def usage(self) -> str:
        """See `Kind`."""
        generation = self.config.generation
        text = f"{generation.lead!r} + text" if generation.lead else "text"
        auto_class, start = "AutoModelForSeq2SeqLM", ""
        if generation.template is not None:
            text = f'{generation.template!r}.replace("{DOCUMENT}", text)'
            auto_class, start = "AutoModelForCausalLM", '[inputs["input_ids"].shape[1] :]'
        return (
            f"from transformers import AutoTokenizer, {auto_class}\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
            f'model = {auto_class}.from_pretrained("path/to/this/folder")\n'
            f'inputs = tokenizer({text}, return_tensors="pt", return_token_type_ids=False)\n'
            f"print(tokenizer.decode(model.generate(**inputs)[0]{start}, skip_special_tokens=True))"
        )

    @property
    def metric_names(self) -> frozenset[str]:
        """See `Kind`."""
        return frozenset({*NAMES, *self.neutral})

    @property
    def writes(self) -> int:
        """See `Kind`."""
        return self.config.generation.beams

    def columns(self) -> tuple[Column, ...]:
        """See `Kind`."""
        data = self.config.data
        return (
            Column("text", data.text_column, "text", "data.text_column"),
            Column("summary", data.summary_column, "text", "data.summary_column", target=True),
        )

    def quickstart(self) -> Part:
        """See `Kind`."""
        from tasks.data.quickstart.summaries import summaries_part

        return summaries_part()

    def fault(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """Refuse a summary without a word. See `Kind`."""
        return None if row["summary"].strip() else ("summary", "so its summary is missing")

    def encode(self, tokenizer: "PreTrainedTokenizerBase", rows: Rows, *, train: bool) -> Encoded:
        """Tokenize texts or prompts and, to learn from, summaries. See `Kind`."""
        generation = self.config.generation
        lengths = {"max_length": self.config.training.max_length, "max_target_length": generation.max_target_length}
        check_lengths(generation, self.config.training.max_length, tokenizer.model_max_length)
        targets = rows["summary"] if train else None
        if generation.template is not None:
            features, truncated = encode_prompts(tokenizer, generation.template, rows["text"], targets, **lengths)
        else:
            texts = [f"{generation.lead}{text}" for text in rows["text"]]
            features, truncated = encode_pairs(tokenizer, texts, targets, **lengths)
        return Encoded(features, truncated)

    def collator(
        self, tokenizer: "PreTrainedTokenizerBase", *, train: bool, pad_to_multiple_of: int = 8
    ) -> Callable[[list[dict[str, Any]]], Any]:
        """Pad on the right, but where a decoder is to go on. See `Kind`."""
        pad_left = self.config.generation.template is not None and not train
        room = self.config.generation.max_new_tokens if pad_left else 0
        return lambda features: padded(features, tokenizer, pad_to_multiple_of, fills=TOKEN_LABELS, left=pad_left, room=room)

    def loss_items(self, batch: Mapping[str, Any]) -> int:
        """Return the tokens that the loss is a mean over. See `Kind`."""
        return int((batch["labels"] != IGNORED).sum())

    def load_model(self, folder: Path, *, trained: bool, allow_pickle: bool, remote_code: bool) -> "tuple[PreTrainedModel, str]":
        """Load the model and have it write as set. See `Kind`."""
        generation = self.config.generation
        model, head = load_generator(
            folder,
            prompted=generation.template is not None,
            kind=self.name,
            trained=trained,
            allow_pickle=allow_pickle,
            remote_code=remote_code,
        )
        if generation.template is None:
            check_written(generation, model.config)
        configure_generation(model, generation)
        return model, head

    def predict(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch: Mapping[str, Any]) -> Array:
        """Return the texts that the model writes, shape (batch,), dtype object. See `Kind`."""
        writer: Any = model
        ids = writer.generate(**{name: value for name, value in batch.items() if name != "labels"})
        start = batch["input_ids"].shape[1] if self.config.generation.template is not None else 0
        texts = tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)
        return np.array([text.strip() for text in texts], dtype=object)

    def gather(self, outputs: Array, features: "datasets.Dataset", rows: "datasets.Dataset") -> Predictions:
        """See `Kind`."""
        return {"texts": outputs}

    def guess(
        self,
        train: "datasets.Dataset",
        rows: "datasets.Dataset",
        features: "datasets.Dataset | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> Predictions:
        """Return the beginning of each text, as many words as a summary of train has in the median. See `Kind`."""
        words = median_words(train["summary"][:])
        return {"texts": np.array([lead(text, words) for text in rows["text"][:]], dtype=object)}

    def statistics(self, predictions: Predictions, rows: Rows) -> Array:
        """Return ROUGE per row and counts of words and bigrams. See `Kind`."""
        return rouge_statistics(list(predictions["texts"]), rows["summary"], rows["text"], self.config.rouge.words)

    def metrics(self, sums: Array) -> Metrics:
        """Return the metrics of the module's docstring, and precision and recall. See `Kind`."""
        return rouge_metrics(sums)

    def row_scores(self, predictions: Predictions, rows: Rows) -> Array:
        """Return the F1 of ROUGE-L. See `Kind`."""
        scores: Array = self.statistics(predictions, rows)[:, ROUGE_L_F1]
        return scores

    def table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """Return `reference`, `prediction`, and `lost`: the share of the reference's letters that no word holds. See `Kind`."""
        import pyarrow as pa

        return {
            "reference": pa.array(rows["summary"], pa.string()),
            "prediction": pa.array(list(predictions["texts"]), pa.string()),
            "lost": pa.array([lost_letters(text, self.config.rouge.words) for text in rows["summary"]], pa.float64()),
        }

    def prediction_table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """Return `prediction`, a text. See `Kind`."""
        import pyarrow as pa

        return {"prediction": pa.array(list(predictions["texts"]), pa.string())}

    def shown_row(self, row: Mapping[str, Any]) -> tuple[list[str], str]:
        """See `Kind`."""
        return [row["text"]], row["summary"]

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """See `Kind`."""
        return str(entry["prediction"]) or "(nothing)"

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
        """See `Kind`."""
        return {"sources": text_analysis(before, after)}


KIND = Summarization
