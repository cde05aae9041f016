"""What the tests of all kinds need of each: rows, settings, and what is said of architectures that make no sense.

A new kind joins by its rows and settings in `CASES`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.architectures import DECODERS, ENCODER_DECODERS
from tests.helpers import TOPICS, topic_rows
from tests.tasks.kinds.language_models import texts

LABELS = list(TOPICS)
TRAINING: dict[str, Any] = {"epochs": 1, "learning_rate": 0.01, "batch_size": 8, "max_length": 32}


@dataclass(frozen=True)
class Case:
    """What a kind is tried on."""

    rows: Callable[[int, int], list[dict[str, Any]]]
    """From a number and a seed to rows, as `load-dataset` leaves them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the kind; others than its defaults, so that a step that is not given one is found out."""
    decoder_settings: Mapping[str, Any] = field(default_factory=dict)
    """Further ones for decoders."""
    labels: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Architectures that make no sense here, and what is said of them."""

    def settings_for(self, architecture: str) -> dict[str, Any]:
        """Return all settings for a model of an architecture."""
        return {**self.settings, **(self.decoder_settings if architecture in DECODERS else {}), "training": TRAINING}


def labelled(count: int, seed: int) -> list[dict[str, Any]]:
    return [{"text": row["text"], "label": LABELS.index(row["label"])} for row in topic_rows(count, seed=seed)]


def several(count: int, seed: int) -> list[dict[str, Any]]:
    return [{**row, "label": [row["label"]] * (number % 4 > 0)} for number, row in enumerate(labelled(count, seed))]


def measured(count: int, seed: int) -> list[dict[str, Any]]:
    return [{**row, "label": float(len(row["text"].split()))} for row in topic_rows(count, seed=seed)]


def summarized(count: int, seed: int) -> list[dict[str, Any]]:
    return [{"text": row["text"], "summary": " ".join(row["text"].split()[:2])} for row in topic_rows(count, seed=seed)]


def answered(count: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    for number, row in enumerate(topic_rows(count, seed=seed)):
        answer = row["text"].split()[1]
        found = {"text": [answer], "answer_start": [row["text"].index(f" {answer}") + 1]}
        # Every fourth question has no answer.
        answers = json.dumps(found if number % 4 else {"text": [], "answer_start": []})
        rows.append({"question": f"which {row['label']}", "context": row["text"], "answers": answers})
    return rows


NO_DECODER = "of which transformers makes no decoder; choose"
NO_MASK = "has no mask token, .*; choose an encoder"
NO_ENCODER = "and no encoder that guesses hidden tokens; choose"
CASES = {
    "text-classification": Case(labelled, labels=tuple(LABELS)),
    "summarization": Case(
        summarized,
        {"generation": {"max_target_length": 8, "max_new_tokens": 4, "prefix": "new"}, "rouge": {"words": "unicode"}},
        {"generation": {"max_target_length": 8, "max_new_tokens": 4, "template": "{document} it was"}},
        refused=dict.fromkeys(("distilbert", "deberta-v2", "modernbert"), "transformers cannot make a decoder of; choose"),
    ),
    "question-answering": Case(answered, {"answers": {"stride": 2, "max_tokens": 4, "n_best": 3}}),
    "causal-lm": Case(
        texts,
        {"language": {"samples": 1, "sample_tokens": 4, "context": 0.25}},
        refused=dict.fromkeys(("distilbert", "deberta-v2", "modernbert"), NO_DECODER)
        | dict.fromkeys(ENCODER_DECODERS, "an encoder-decoder, which does not go on with a text; choose"),
    ),
    "masked-lm": Case(texts, {"seed": 5}, refused=dict.fromkeys((*DECODERS, "t5"), NO_MASK) | {"bart": NO_ENCODER}),
}
"""Kind to what it is tried on."""
PROBLEMS = {
    "multi_label": Case(several, {"problem": "multi_label"}, labels=tuple(LABELS)),
    "regression": Case(measured, {"problem": "regression"}),
}
"""The other problems of text classification to what they are tried on."""
