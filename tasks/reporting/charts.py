"""The report's charts as PNG; none of them uses pyplot's global state."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BEFORE, AFTER = "#9aa5b1", "#2563a8"
_DPI = 160
_MOST_NUMBERS = 12  # classes up to which a confusion matrix shows its counts
_MOST_NAMES = 40  # and up to which it names its classes


def scores_chart(before: Mapping[str, float], after: Mapping[str, float]) -> bytes:
    """Draw the scores that are fractions of 1 as bars, before and after side by side."""
    names = list(before)
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    for offset, values, color, label in ((-0.2, before, BEFORE, "before"), (0.2, after, AFTER, "after")):
        bars = axes.bar(places + offset, [values[name] for name in names], 0.38, color=color, label=label)
        axes.bar_label(bars, fmt="%.3f", padding=2, fontsize=9)
    axes.set_xticks(places, [title(name) for name in names])
    axes.set_ylim(min(0.0, *before.values(), *after.values()) * 1.2, 1.12)
    axes.axhline(0, color="#444", linewidth=0.8)
    axes.set_ylabel("score on the test rows")
    axes.legend(loc="upper left", ncols=2, frameon=False, fontsize=9)
    _tidy(axes)
    return _png(figure)


def confusion_chart(labels: Sequence[str], before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> bytes:
    """Draw the confusion matrices before and after; shades are shares of a label's rows, numbers are rows."""
    classes = len(labels)
    size = min(6.0, 2.4 + 0.28 * classes)
    figure = Figure(figsize=(2 * size, size + 0.4), layout="constrained")
    for axes, counts, name in zip(figure.subplots(1, 2), (before, after), ("before", "after"), strict=True):
        matrix = np.asarray(counts, float)
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(name)
        axes.set_xlabel("predicted")
        axes.set_ylabel("label")
        if classes <= _MOST_NAMES:
            names = [plain(label) for label in labels]
            axes.set_xticks(range(classes), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
            axes.set_yticks(range(classes), names, fontsize=8)
        if classes <= _MOST_NUMBERS:
            for row, column in np.ndindex(classes, classes):
                color = "white" if shares[row, column] > 0.55 else "#333"
                axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=color, fontsize=8)
    return _png(figure)


def loss_chart(history: Sequence[Mapping[str, Any]], best_epoch: float) -> bytes:
    """Draw the training loss by epoch, and the validation loss at each epoch's end with the kept epoch marked.

    Args:
        history: Trainer's log: entries with `epoch` and `loss`, or `epoch` and `eval_log_loss`.
        best_epoch: The epoch whose weights were kept.
    """
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    train = [(entry["epoch"], entry["loss"]) for entry in history if "loss" in entry]
    validation = [(entry["epoch"], entry["eval_log_loss"]) for entry in history if "eval_log_loss" in entry]
    if train:
        axes.plot(*zip(*train, strict=True), color=BEFORE, linewidth=1.4, label="training loss")
    if validation:
        axes.plot(*zip(*validation, strict=True), color=AFTER, marker="o", label="validation loss")
    axes.axvline(best_epoch, color="#444", linestyle=":", linewidth=1, label=f"kept: epoch {best_epoch:g}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("cross-entropy (nats)")
    axes.set_ylim(0, 1.1 * max([value for _, value in (*train, *validation)], default=1.0))
    axes.legend(frameon=False, fontsize=9)
    _tidy(axes)
    return _png(figure)


def title(name: str) -> str:
    """Return a metric's name as a person reads it: `f1_weighted` is `F1 weighted`."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def plain(text: str, limit: int = 22) -> str:
    """Return untrusted text as matplotlib shows it literally: `$` starts no formula."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return shown.replace("$", r"\$")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script that the font lacks shows as boxes in the chart, and rightly in the tables.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
