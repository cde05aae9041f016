"""Question answering: the part of a context that answers a question, or that none does.

Data: a question, a context, and answers with the place in the context where each begins; none where the context has no answer.
SQuAD's nested JSON and the flat columns of the Hub are both read. Long contexts are read through overlapping windows.
Metrics: F1 over words and exact match, the best over a question's answers, and both of questions with and without an answer where
there are both; the threshold for giving none is chosen on validation. Models: any that `AutoModelForQuestionAnswering` takes and
whose tokenizer is a fast one.
Source: Rajpurkar et al. 2016 and 2018, SQuAD (arXiv 1606.05250, 1806.03822); Devlin et al. 2019, BERT, section 4.3 (arXiv
1810.04805).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from tasks.config import DataSettings, ExperimentConfig, Settings, TrainingSettings
from tasks.data.arrays import as_array
from tasks.data.columns import Column
from tasks.data.files import Part
from tasks.data.squad import answer_fault, first_answer, flattened, parse_answers, texts_of
from tasks.encoding.answers import encode_answers
from tasks.encoding.padding import padded
from tasks.encoding.spans import best_spans, margins, merge_spans, span_texts
from tasks.encoding.windows import OUTSIDE
from tasks.errors import ModelError
from tasks.guesses.lead import median_words
from tasks.guesses.overlap import overlap
from tasks.kinds.kind import Array, Encoded, Kind, Metrics, Predictions, Rows
from tasks.pretrained import fresh_weights, load_config, load_pretrained
from tasks.scoring.answers import answers_analysis, answers_given, answers_table, given_answers
from tasks.scoring.squad import best_threshold, f1_score, squad_metrics, squad_statistics

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_USAGE = """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForQuestionAnswering.from_pretrained("path/to/this/folder").eval()
question, context = "Who wrote it?", "It was written by Ada Lovelace in 1843."
# Where the tokenizer puts nothing after them (most decoders): question + tokenizer.eos_token, context + tokenizer.eos_token
inputs = tokenizer(question, context, truncation="only_second", return_offsets_mapping=True, return_tensors="pt")
characters = inputs.pop("offset_mapping")[0]
outside = torch.tensor([side != 1 for side in inputs.sequence_ids(0)])
with torch.inference_mode():
    output = model(**inputs)
start, end = (logits[0].masked_fill(outside, -torch.inf) for logits in (output.start_logits, output.end_logits))
backwards = torch.ones(len(start), len(start)).tril(-1).bool()
first, last = divmod(int((start[:, None] + end).masked_fill(backwards, -torch.inf).argmax()), len(start))
answer = context[characters[first][0] : characters[last][1]]"""
_NO_ANSWER = "(no answer)"
_EXCERPT = 200
"""Characters of the context that the report shows on either side of an answer."""
_FOR_SPANS = ("char_starts", "char_ends", "null_position")
"""Columns that are for `best_spans`, not for the model."""


class QuestionAnsweringData(DataSettings):
    """Where the rows come from and how they are split."""

    question_column: str = Field("question", min_length=1)
    """Column with the question."""
    context_column: str = Field("context", min_length=1)
    """Column with the context that the answer is a part of."""
    answers_column: str = Field("answers", min_length=1)
    """Column with the answers: `{"text": […], "answer_start": […]}`, with empty lists where there is none. Starts count Unicode
    characters from 0."""
    title_column: str = Field("title", min_length=1)
    """Column with the title of the context's article; all of an article stays on one side of a split. It may be missing."""


class QuestionAnsweringTraining(TrainingSettings):
    """How the model is fine-tuned."""

    epochs: int = Field(3, ge=1, le=1000)
    """Passes over the train split; the best one on validation is kept."""
    learning_rate: float = Field(3e-4, gt=0, le=1)
    """Peak learning rate of AdamW, reached after the warm-up; large models want less, such as 3e-5."""
    batch_size: int = Field(8, ge=1, le=65536)
    """Rows per optimizer step."""
    max_length: int = Field(384, ge=4, le=1_048_576)
    """Tokens of a window; a longer context is read through several."""


class AnswerSettings(Settings):
    """How answers are found."""

    stride: int = Field(128, ge=0, le=65_536)
    """Tokens of the context that two windows have in common, at most half of a window: an answer as long is whole in one."""
    max_tokens: int = Field(30, ge=1, le=4096)
    """Tokens of an answer at most."""
    n_best: int = Field(10, ge=1, le=100)
    """Answers that are kept of each question in `predictions_*.parquet`, the best first."""


class QuestionAnsweringConfig(ExperimentConfig):
    """A question-answering experiment: fine-tune a model to find answers in contexts and score it before and after."""

    name: str = Field("question-answerer", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the model that this experiment makes, for runs and reports; the store keeps its champion under it."""
    data: QuestionAnsweringData = QuestionAnsweringData()
    """Where the rows come from and how they are split."""
    training: QuestionAnsweringTraining = QuestionAnsweringTraining()
    """How the model is fine-tuned."""
    answers: AnswerSettings = AnswerSettings()
    """How answers are found."""

    @model_validator(mode="after")
    def _columns_differ(self) -> "QuestionAnsweringConfig":
        names = [column.name for column in QuestionAnswering(self).columns()]
        if len(set(names)) < len(names):
            raise ValueError(f"question, context, answers and title must be different columns, not {names}")
        return self


@dataclass(frozen=True)
class QuestionAnswering(Kind):
    """See the module's docstring, and `Kind` for its methods."""

    config: QuestionAnsweringConfig
    labels: tuple[str, ...] = ()
    name: ClassVar[str] = "question-answering"
    config_class: ClassVar[type[ExperimentConfig]] = QuestionAnsweringConfig
    primary_metric: ClassVar[str] = "f1"
    pipeline_tag: ClassVar[str] = "question-answering"
    simplest: ClassVar[str] = "overlap"
    usage: ClassVar[str] = _USAGE
    reads: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tokenize": ("answers.stride",),
        "evaluate": ("answers.max_tokens",),
        # How many are kept matters to the tables of predictions alone: training need not be done again for it.
        **dict.fromkeys(("evaluate-baseline", "evaluate-fine-tuned"), ("answers.n_best",)),
    }
    right_or_wrong: ClassVar[bool] = False

    @property
    def metric_names(self) -> frozenset[str]:
        """See `Kind`."""
        return frozenset(f"{name}{part}" for name in ("f1", "exact_match") for part in ("", "_no_answer", "_has_answer"))

    def columns(self) -> tuple[Column, ...]:
        """See `Kind`."""
        data = self.config.data
        return (
            Column("question", data.question_column, "text", "data.question_column"),
            Column("title", data.title_column, "text", "data.title_column", target=True, optional=True, groups=True),
            Column("context", data.context_column, "text", "data.context_column", groups=True),
            Column("answers", data.answers_column, "json", "data.answers_column", target=True),
        )

    def quickstart(self) -> Part:
        """See `Kind`."""
        from tasks.data.quickstart.answers import answers_part

        return answers_part()

    def adapt(self, part: Part) -> Part:
        """Flatten SQuAD's articles. See `Kind`."""
        names = {column.role: column.name for column in self.columns()}
        return flattened(part, {"id": self.config.data.id_column or "id", **names})

    def fault(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """Refuse a row without a context, or with an answer that is not where it is said to be. See `Kind`."""
        if not row["context"].strip():
            return "context", "so there is nothing to answer from"
        try:
            answers = parse_answers(row["answers"])
        except ValueError as error:
            return "answers", str(error)
        faults = (answer_fault(answer, row["context"]) for answer in answers)
        return next((("answers", fault) for fault in faults if fault), None)

    def encode(self, tokenizer: "PreTrainedTokenizerBase", rows: Rows, *, train: bool) -> Encoded:
        """Cut rows into windows; those of an answer that is whole in none of them are not learnt from. See `Kind`."""
        texts = list(zip(rows["id"], rows["question"], rows["context"], strict=True))
        answers = [first_answer(value) for value in rows["answers"]] if train else None
        return encode_answers(
            tokenizer, texts, answers, max_length=self.config.training.max_length, overlap=self.config.answers.stride
        )

    def collator(
        self, tokenizer: "PreTrainedTokenizerBase", *, train: bool, pad_to_multiple_of: int = 8
    ) -> Callable[[list[dict[str, Any]]], Any]:
        """See `padded`, and `Kind`."""
        fills = {"char_starts": OUTSIDE, "char_ends": OUTSIDE}
        positions = ("start_positions", "end_positions", "null_position")
        left = tokenizer.padding_side == "left"
        return lambda features: padded(features, tokenizer, pad_to_multiple_of, fills=fills, positions=positions, left=left)

    def load_model(self, folder: Path, *, trained: bool, allow_pickle: bool, remote_code: bool) -> "tuple[PreTrainedModel, str]":
        """See `Kind`."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES as KNOWN

        config = load_config(folder, kind=self.name, remote_code=remote_code)
        own_code = remote_code and "AutoModelForQuestionAnswering" in (getattr(config, "auto_map", None) or {})
        if config.model_type not in KNOWN and not own_code:
            raise ModelError(
                f"Model {str(folder)!r} is of type {config.model_type!r}, for which transformers has no question answering; "
                "set model.name to one of another type, e.g. 'bert', 'roberta', 'modernbert', 't5' or 'llama'."
            )
        # A start and an end, even if the files are those of a classifier with more classes.
        config.num_labels = 2
        model = load_pretrained(
            "AutoModelForQuestionAnswering",
            folder,
            config,
            kind=self.name,
            trained=trained,
            allow_pickle=allow_pickle,
            remote_code=remote_code,
        )
        return model, "trained" if trained else "fresh" if fresh_weights(model) else "pretrained"

    def predict(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch: Mapping[str, Any]) -> Array:
        """Return the best spans of each window and its score of no answer, as `best_spans` does. See `Kind`."""
        output = model(**{name: value for name, value in batch.items() if name not in _FOR_SPANS})
        return best_spans(
            output.start_logits,
            output.end_logits,
            batch["char_starts"],
            batch["char_ends"],
            batch["null_position"],
            count=self.config.answers.n_best,
            max_tokens=self.config.answers.max_tokens,
        )

    # Predictions

    def gather(self, outputs: Array, features: "datasets.Dataset", rows: "datasets.Dataset") -> Predictions:
        """Return `spans` (rows, n-best, 3) and `nulls` (rows,), see `merge_spans`. See `Kind`."""
        spans, nulls = merge_spans(outputs, as_array(features, "row"), len(rows))
        return {"spans": spans, "nulls": nulls}

    def guess(
        self,
        train: "datasets.Dataset",
        rows: "datasets.Dataset",
        features: "datasets.Dataset | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> Predictions:
        """Return what stands beside the question's words, as many words as an answer of train has in the median. See `Kind`."""
        words = median_words([text for value in train["answers"][:] for text in texts_of(value)[:1]])
        return overlap(rows["question"][:], rows["context"][:], words)

    @property
    def calibrated(self) -> bool:
        """See `Kind`."""
        return True

    def calibrate(self, predictions: Predictions, rows: "datasets.Dataset") -> dict[str, float]:
        """Choose the `no_answer_threshold` with the best F1; none where every question has an answer. See `Kind`."""
        answers = [texts_of(value) for value in rows["answers"][:]]
        if all(answers):
            return {}
        spans = predictions["spans"]
        best = [text for (text,) in span_texts(spans[:, :1], rows["context"][:])]
        answered = np.array([f1_score(text, right) for text, right in zip(best, answers, strict=True)])
        unanswered = np.array([f1_score("", right) for right in answers])
        return {"no_answer_threshold": best_threshold(margins(spans, predictions["nulls"]), answered, unanswered)}

    def decide(self, predictions: Predictions, calibration: Mapping[str, float]) -> Predictions:
        """Add `answered`: whether the best span is given. See `Kind`."""
        threshold = calibration.get("no_answer_threshold", np.inf)
        return {**predictions, "answered": margins(predictions["spans"], predictions["nulls"]) <= threshold}

    def statistics(self, predictions: Predictions, rows: Rows) -> Array:
        """See `squad_statistics`, and `Kind`."""
        given = given_answers(predictions["spans"], predictions["answered"], rows["context"])
        return squad_statistics(given, [texts_of(value) for value in rows["answers"]])

    def metrics(self, sums: Array) -> Metrics:
        """Return the metrics of the module's docstring. See `Kind`."""
        return squad_metrics(sums)

    def row_scores(self, predictions: Predictions, rows: Rows) -> Array:
        """Return each row's F1. See `Kind`."""
        return self.statistics(predictions, rows)[:, 1]

    def table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """See `answers_table`, and `Kind`."""
        return answers_table(predictions, rows["context"], [texts_of(value) for value in rows["answers"]])

    def prediction_table(self, predictions: Predictions, rows: Rows) -> "dict[str, pa.Array]":
        """See `answers_given`, and `Kind`."""
        return answers_given(predictions, rows["context"])

    # The report

    def shown_row(self, row: Mapping[str, Any]) -> tuple[list[str], str]:
        """Return the question and the part of the context around the answer, and all answers. See `Kind`."""
        answers, context = parse_answers(row["answers"]), row["context"]
        text, start = answers[0] if answers else ("", 0)
        left, right = max(0, start - _EXCERPT), start + len(text) + _EXCERPT * (1 if answers else 2)
        excerpt = f"{'…' * (left > 0)}{context[left:right]}{'…' * (right < len(context))}"
        return [row["question"], excerpt], " / ".join(dict.fromkeys(text for text, _ in answers)) or _NO_ANSWER

    def shown_prediction(self, entry: Mapping[str, Any]) -> str:
        """Return the answer and its probability. See `Kind`."""
        return f"{entry['prediction'] or _NO_ANSWER} ({entry['probability']:.2f})"

    def analysis(self, before: "pd.DataFrame", after: "pd.DataFrame") -> dict[str, Any]:
        """See `answers_analysis`, and `Kind`."""
        return answers_analysis(before, after)


KIND = QuestionAnswering
