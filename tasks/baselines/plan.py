"""Which baselines a run has, and how much each may do: decided before any work, by settings and counts alone.

Work is counted in forward passes of a row. A training step is one pass forward and one backward, which takes about two.
Source: Kaplan et al. 2020, Scaling Laws for Neural Language Models, section 2.1 (arXiv 2001.08361), for the factor of 3.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.data.values import Form
from tasks.errors import FlowsError
from tasks.kinds.kind import Array, Kind
from tasks.models import model_folder
from tasks.records import DatasetRef
from tasks.steps import Run, read_json
from tasks.text import one_line

_MOST_ROWS = 20_000
# Rows times outputs: fits take seconds.
_MOST_WORK = 4_000_000
_FEWEST_ROWS, _FEWEST_PER_OUTPUT = 200, 10
_PASSES_OF_TRAINING = 3
_NUMBERED = re.compile(r"(label|class|category|klass|c)?[\s_-]*[\d.]+", re.IGNORECASE)
# What transformers calls a whole model that predicts the next token; its base alone has no weights for that.
_CAUSAL = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Plan:
    """What to do."""

    wanted: tuple[str, ...] = ()
    """Names of the baselines, the simplest by what it is called."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Name of one that is set but cannot be to the reason, a clause."""
    probe_rows: int = 0
    """Train rows that `probe` learns from."""


def plan(run: Run, dataset: DatasetRef) -> Plan:
    """Return the plan of a run; a baseline that makes no sense for its kind, or is not set, is not mentioned."""
    settings, kind = run.config.baselines, run.kind
    wanted = [kind.simplest] if settings.simplest else []
    form = label_form(kind)
    if form is None:
        return Plan(tuple(wanted))
    labels = read_json(run.store.fetch(dataset.key) / "info.json")["labels"]
    outputs, skipped = max(1, len(labels)), {}
    fewest = min(dataset.train, max(_FEWEST_ROWS, _FEWEST_PER_OUTPUT * outputs))
    most = most_rows(dataset, outputs)
    passes = int(settings.time_share * _PASSES_OF_TRAINING * run.config.training.epochs * dataset.train)
    if settings.linear and most >= fewest:
        wanted.append("linear")
    elif settings.linear:
        skipped["linear"] = f"{outputs:,} classes leave {most:,} train rows to learn from, and it takes {fewest:,}"
    if settings.zero_shot and form == "label":
        cost = outputs * dataset.test
        if reason := _no_zero_shot(run, labels) or _too_dear(run, cost, passes):
            skipped["zero_shot"] = reason
        else:
            wanted.append("zero_shot")
            passes -= cost
    probe_rows = max(0, min(most, passes - dataset.test))
    if settings.probe and probe_rows >= fewest:
        wanted.append("probe")
    elif settings.probe:
        share = f"baselines.time_share, {settings.time_share:g},"
        skipped["probe"] = f"{share} leaves {probe_rows:,} train rows to learn from, and it takes {fewest:,}"
    return Plan(tuple(wanted), skipped, probe_rows)


def most_rows(dataset: DatasetRef, outputs: int) -> int:
    """Return how many train rows a linear model of so many outputs learns from, however fast."""
    return min(dataset.train, _MOST_ROWS, _MOST_WORK // outputs)


def label_form(kind: Kind) -> Form | None:
    """Return the form of the kind's labels, None where it has none that a linear model could predict."""
    forms: list[Form] = [column.form for column in kind.columns() if column.role == "label"]
    return forms[0] if forms else None


def draw(rows: int, count: int, seed: int) -> Array:
    """Return the positions of `count` of the rows, drawn at random, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count])


def are_words(labels: Sequence[str]) -> bool:
    """Tell whether all names say something: none is a number, numbered, or without a letter."""
    return all(any(map(str.isalpha, label)) and not _NUMBERED.fullmatch(label.strip()) for label in labels)


def _no_zero_shot(run: Run, labels: Sequence[str]) -> str | None:
    if not are_words(labels):
        listed = one_line(", ".join(map(repr, labels[:3])), 80)
        return f"its classes have no names that a model could know ({listed}{', …' * (len(labels) > 3)})"
    try:
        folder = model_folder(run.config.model, run.inputs.model_identity, weights=False)
        architectures = read_json(folder / "config.json").get("architectures") or []
    except (FlowsError, OSError, ValueError) as error:
        return one_line(f"the model's configuration cannot be read: {error}", 200)
    if not any(str(name).endswith(_CAUSAL) for name in architectures):
        return "the model is no causal language model"
    return None


def _too_dear(run: Run, cost: int, passes: int) -> str | None:
    share = f"baselines.time_share, {run.config.baselines.time_share:g},"
    return f"it takes {cost:,} readings of a text, and {share} allows {passes:,}" if cost > passes else None
