"""What became of the runs of a name, over time: as a table with a line of marks, and as a picture."""

from collections.abc import Sequence
from pathlib import Path

from flows.console import print_line, print_table
from tasks.champions import Registry, Tick
from tasks.errors import ConfigError
from tasks.text import one_line

_WIDTH = 32
_MARKS = {"held": "o", "rolled back": "x"}


def print_history(registry: Registry) -> None:
    """Print a row per tick, with the metric as a mark on a line."""
    print_table(
        ("date", "run", "outcome", registry.primary_metric, "champion", "difference", _scale(registry.ticks)),
        [_row(tick, registry.ticks) for tick in registry.ticks],
    )
    if (noise := _noise(registry.ticks)) is not None:
        print_line(f"\n'-' marks two standard deviations ({2 * noise:.4f}) around it, as far as seeds alone move it.")


def draw(registry: Registry, name: str, file: str) -> None:
    """Draw the metric over the ticks into a PNG file.

    Raises:
        ConfigError: there is nothing to draw, or the file cannot be written.
    """
    from tasks.reporting.charts import trend_chart
    from tasks.reporting.standing import trend_table

    if not registry.ticks:
        raise ConfigError(f"{name!r} has no history to draw yet.")
    try:
        Path(file).write_bytes(trend_chart(trend_table(registry.ticks), registry.primary_metric))
    except OSError as error:
        raise ConfigError(f"--plot {file!r} cannot be written: {error.strerror}.") from None


def _row(tick: Tick, ticks: Sequence[Tick]) -> tuple[str, ...]:
    return (
        tick.at[:10],
        one_line(tick.run, 60),
        tick.outcome,
        f"{tick.challenger:.4f}",
        "-" if tick.compared is None else f"{tick.compared:.4f}",
        "-" if tick.difference is None else f"{tick.difference:+.4f}",
        _drawn(tick, ticks),
    )


def _noise(ticks: Sequence[Tick]) -> float | None:
    return next((tick.noise for tick in reversed(ticks) if tick.noise is not None), None)


def _span(ticks: Sequence[Tick]) -> tuple[float, float]:
    values = [tick.challenger for tick in ticks]
    return min(values), max(values)


def _scale(ticks: Sequence[Tick]) -> str:
    if not ticks:
        return ""
    low, high = (f"{end:.3f}" for end in _span(ticks))
    return f"{low}{high.rjust(_WIDTH - len(low))}"


def _drawn(tick: Tick, ticks: Sequence[Tick]) -> str:
    """Draw the metric as a mark on a line, full if the model became the champion, with the noise of seeds around it."""
    low, high = _span(ticks)
    noise = _noise(ticks) or 0.0

    def place(value: float) -> int:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(min(1.0, max(0.0, share)) * (_WIDTH - 1))

    line = [" "] * _WIDTH
    if noise:
        for at in range(place(tick.challenger - 2 * noise), place(tick.challenger + 2 * noise) + 1):
            line[at] = "-"
    line[place(tick.challenger)] = _MARKS.get(tick.outcome, "*")
    return "".join(line).rstrip()
