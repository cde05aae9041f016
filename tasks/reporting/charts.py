"""The report's charts as PNG; none of them uses pyplot's global state."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BEFORE, CHAMPION, AFTER = "#9aa5b1", "#b7791f", "#2563a8"
_DPI = 160
_ABBREVIATIONS = ("mae", "mse", "rmse")
_MOST_NUMBERS = 12  # classes up to which a confusion matrix shows its counts
_MOST_NAMES = 40  # and up to which it names its classes


def scores_chart(before: Mapping[str, float], after: Mapping[str, float], champion: Mapping[str, float] | None = None) -> bytes:
    """Draw scores as bars, before and after side by side, with the champion's between them where there is one."""
    names = list(before)
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    series = [(before, BEFORE, "before", ""), (after, AFTER, "after", "")]
    if champion is not None:
        series.insert(1, (champion, CHAMPION, "champion", "//"))
    width = 0.8 / len(series)
    for number, (values, color, label, hatch) in enumerate(series):
        heights = [values[name] for name in names]
        offset = (number - (len(series) - 1) / 2) * width
        bars = axes.bar(
            places + offset, heights, 0.95 * width, color=color, label=label, hatch=hatch, edgecolor="white", linewidth=0
        )
        axes.bar_label(bars, fmt="%.3f", padding=2, fontsize=9 if champion is None else 7)
    # Wrapped as the places allow, and one metric's bars no wider than those of several.
    axes.set_xticks(places, [textwrap.fill(title(name), max(8, 72 // len(names))) for name in names])
    axes.set_xlim(-0.7 - max(0, 3 - len(names)) / 2, len(names) - 0.3 + max(0, 3 - len(names)) / 2)
    heights = [value for values, *_ in series for value in values.values()]
    axes.set_ylim(min(0.0, *heights) * 1.2, 1.12 if max(heights) <= 1 else 1.2 * max(heights))
    axes.axhline(0, color="#444", linewidth=0.8)
    axes.set_ylabel("score on the test rows")
    axes.legend(loc="upper left", ncols=3, frameon=False, fontsize=9)
    _tidy(axes)
    return _png(figure)


def forest_chart(panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Draw differences with their intervals, a panel for each model that is compared with.

    Args:
        panels: Title to metrics, each with `name`, `difference`, `low`, `high` and `better`; fractions, drawn in points.
    """
    rows = max(len(entries) for entries in panels.values())
    figure = Figure(figsize=(4.8 * max(1.5, len(panels)), 1.1 + 0.36 * rows), layout="constrained")
    for axes, (name, entries) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for place, entry in enumerate(entries):
            known = entry["low"] is not None
            clear = known and (entry["low"] > 0 or entry["high"] < 0)
            if known:
                axes.plot([100 * entry["low"], 100 * entry["high"]], [place, place], color=AFTER, linewidth=1.6)
            # Full where nothing is not among what the interval holds possible.
            axes.plot(
                100 * entry["difference"], place, "o", color=AFTER, markerfacecolor=AFTER if clear else "white", markersize=6
            )
        names = [title(entry["name"]) + ("*" if entry["better"] == "lower" else "") for entry in entries]
        axes.set_yticks(range(len(entries)), names, fontsize=9)
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.axvline(0, color="#444", linewidth=0.9)
        axes.set_title(name, fontsize=10)
        starred = any(entry["better"] == "lower" for entry in entries)
        axes.set_xlabel("difference in points, 95 % interval" + (" (* lower is better)" if starred else ""), fontsize=9)
        _tidy(axes, along="x")
    return _png(figure)


def reliability_chart(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Draw of each model, by its name, which share is right where it is how sure; on the diagonal it knows how sure it may be."""
    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#444", linestyle=":", linewidth=1)
    for (name, bins), (color, marker, line) in zip(
        curves.items(), [(BEFORE, "s", "--"), (AFTER, "o", "-"), (CHAMPION, "D", "-.")], strict=False
    ):
        places, shares = ([entry[key] for entry in bins] for key in ("confidence", "right"))
        sizes = np.array([entry["rows"] for entry in bins]) / sum(entry["rows"] for entry in bins)
        axes.plot(places, shares, color=color, linestyle=line, linewidth=1.2)
        # Bins of few rows say little.
        axes.scatter(places, shares, 8 + 160 * sizes, color=color, marker=marker, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share that is right")
    axes.legend(frameon=False, fontsize=9)
    _tidy(axes)
    return _png(figure)


def trend_chart(ticks: Sequence[Mapping[str, Any]], metric: str) -> bytes:
    """Draw the metric over the runs of a name: each run's model, the champion that it met, the untouched model.

    Args:
        ticks: Runs, oldest first; see `tasks.champions.Tick`, with `changed`.
        metric: The metric's name.
    """
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(ticks))
    values = np.array([tick["challenger"] for tick in ticks])
    noise = next((tick["noise"] for tick in reversed(ticks) if tick["noise"] is not None), None)
    if noise is not None:
        axes.fill_between(
            places, values - 2 * noise, values + 2 * noise, color=AFTER, alpha=0.15, label="±2 SD from seed to seed"
        )
    axes.plot(
        places, [tick["untouched"] for tick in ticks], color=BEFORE, linestyle=":", marker="s", label="untouched", markersize=4
    )
    met = [(place, tick["compared"]) for place, tick in enumerate(ticks) if tick["compared"] is not None]
    if met:
        axes.plot(*zip(*met, strict=True), color=CHAMPION, linestyle="--", marker="D", label="champion", markersize=4)
    axes.plot(places, values, color=AFTER, linewidth=1.2)
    promoted = ("first champion", "promoted")
    for outcomes, marker, face in ((promoted, "o", AFTER), (("held",), "o", "white"), (("rolled back",), "X", AFTER)):
        chosen = [place for place, tick in enumerate(ticks) if tick["outcome"] in outcomes]
        if chosen:
            axes.plot(places[chosen], values[chosen], marker, color=AFTER, markerfacecolor=face, label=outcomes[-1])
    for place, tick in enumerate(ticks):
        if tick["changed"]:
            axes.axvline(place - 0.5, color="#444", linestyle=":", linewidth=0.9)
    axes.set_xticks(places, [tick["at"][:10] for tick in ticks], rotation=45, ha="right", fontsize=8)
    axes.set_ylabel(title(metric))
    axes.legend(frameon=False, fontsize=8, ncols=3)
    axes.margins(y=0.25)
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


def training_chart(
    history: Sequence[Mapping[str, Any]], best_epoch: float, loss_metric: str | None, primary_metric: str
) -> bytes:
    """Draw training and validation loss by epoch and, beside it, the primary metric on validation; the kept epoch is marked.

    Args:
        history: Trainer's log: entries with `epoch` and `loss`, or `epoch` and metrics on validation, `eval_` before their names.
        best_epoch: The epoch whose weights were kept.
        loss_metric: The metric that is the loss on validation, if there is one.
        primary_metric: The metric that chooses the epoch.
    """
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    train = _series(history, "loss")
    validation = _series(history, f"eval_{loss_metric}")
    if train:
        left.plot(*zip(*train, strict=True), color=BEFORE, linewidth=1.4, label="training loss")
    if validation:
        left.plot(*zip(*validation, strict=True), color=AFTER, marker="o", label="validation loss")
    left.set_ylabel("loss")
    left.set_ylim(0, 1.1 * max([value for _, value in (*train, *validation)], default=1.0))
    scores = _series(history, f"eval_{primary_metric}")
    right.plot(*zip(*scores, strict=True), color=AFTER, marker="o")
    right.set_ylabel(f"{title(primary_metric)} on validation")
    right.margins(y=0.2)
    for axes in (left, right):
        axes.set_xlim(0, 1.05 * max([entry.get("epoch", 0.0) for entry in history], default=1.0))
        axes.axvline(best_epoch, color="#444", linestyle=":", linewidth=1, label=f"kept: epoch {best_epoch:g}")
        axes.set_xlabel("epoch")
        _tidy(axes)
    left.legend(frameon=False, fontsize=9)
    return _png(figure)


def _series(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(entry["epoch"], entry[name]) for entry in history if name in entry]


def title(name: str) -> str:
    """Return a metric's name as a person reads it: `f1_weighted` is `F1 weighted`."""
    words = name.upper() if name in _ABBREVIATIONS else name.replace("_", " ")
    return words[:1].upper() + words[1:]


def plain(text: str, limit: int = 22) -> str:
    """Return untrusted text as matplotlib shows it literally: `$` starts no formula."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return shown.replace("$", r"\$")


def _tidy(axes: Axes, along: Literal["x", "y"] = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=along, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script that the font lacks shows as boxes in the chart, and rightly in the tables.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
