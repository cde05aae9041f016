"""What a person sees of a run: log lines or a progress bar on standard error, tables on standard output."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from tasks.progress import PROGRESS_LOGGER, describe
from tasks.text import duration, one_line

if TYPE_CHECKING:
    from tasks.records import Report

_LEVELS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


class _Handler(logging.Handler):
    """Shows records of the run as lines without tracebacks; on a terminal, progress as a bar."""

    def __init__(self, console: Console, bars: Progress | None, *, links: bool) -> None:
        super().__init__(logging.INFO if bars is None else logging.DEBUG)
        self.console, self.bars, self.links = console, bars, links
        self._bar: TaskID | None = None
        self._step = ""

    def emit(self, record: logging.LogRecord) -> None:
        event: dict[str, Any] | None = getattr(record, "progress", None)
        if event is not None and self.bars is not None:
            self._show(self.bars, event)
        elif record.name != PROGRESS_LOGGER and (record.levelno >= logging.WARNING or self._is_told(record)):
            source = getattr(record, "task_run_name", None) or getattr(record, "flow_run_name", None) or record.name
            line = f"{self.formatTime(record)} {source}: {one_line(record.getMessage(), 1000)}"
            self.console.print(line, style=_LEVELS.get(record.levelno), markup=False, highlight=False, soft_wrap=True)

    @staticmethod
    def formatTime(record: logging.LogRecord) -> str:  # noqa: N802
        return logging.Formatter(datefmt="%H:%M:%S").formatTime(record, "%H:%M:%S")

    def _is_told(self, record: logging.LogRecord) -> bool:
        of_run = record.levelno >= logging.INFO and record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))
        return of_run and (self.links or not record.getMessage().startswith("View at "))

    def _show(self, bars: Progress, event: dict[str, Any]) -> None:
        if self._step != event["step"]:
            if self._bar is not None:
                bars.remove_task(self._bar)
            self._bar, self._step = bars.add_task(event["step"], total=event["total"]), event["step"]
        assert self._bar is not None
        bars.update(self._bar, completed=event["done"], total=event["total"], description=f"{event['step']}: {describe(event)}")
        if event["done"] >= event["total"]:
            bars.remove_task(self._bar)
            self._bar, self._step = None, ""


@contextmanager
def watching(*, links: bool) -> Iterator[None]:
    """Show the run's log on standard error in place of Prefect's own console; `links` to the UI where there is one."""
    from prefect.logging import configuration
    from prefect.logging.handlers import PrefectConsoleHandler

    configuration.setup_logging()
    console = Console(stderr=True)
    bars = (
        Progress(TextColumn("{task.description}", markup=False), BarColumn(), console=console, transient=True)
        if console.is_terminal
        else None
    )
    handler = _Handler(console, bars, links=links)
    root, progress = logging.getLogger(), logging.getLogger(PROGRESS_LOGGER)
    for name in ("", "prefect"):
        logger = logging.getLogger(name)
        logger.handlers = [other for other in logger.handlers if not isinstance(other, PrefectConsoleHandler)]
    root.addHandler(handler)
    progress.addHandler(handler)
    progress.propagate = False
    progress.setLevel(logging.DEBUG)
    if bars:
        bars.start()
    try:
        yield
    finally:
        if bars:
            bars.stop()
        root.removeHandler(handler)
        progress.removeHandler(handler)


def print_scores(report: "Report") -> None:
    """Print the headline metrics as a table, plain columns where standard output is no terminal, and the verdict."""
    rows = []
    for name in (name for name in report.before if "/" not in name):
        ends = " to ".join(f"{end:+.4f}" for end in report.intervals.get(name, ()))
        numbers = f"{report.before[name]:.4f}", f"{report.after[name]:.4f}", f"{report.difference[name]:+.4f}"
        rows.append((name, *numbers, ends or "-"))
    print_table(("metric", "before", "after", "difference", "95 % interval"), rows, numbers=True)
    print_line(f"\n{report.outcome}")


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, numbers: bool = False) -> None:
    """Print a table; `numbers` aligns all columns but the first to the right."""
    console = Console()
    if console.is_terminal:
        table = Table()
        for place, name in enumerate(header):
            table.add_column(name, justify="right" if numbers and place else "left")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        return
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if numbers and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print_line("  ".join(cells).rstrip())


def say_age(seconds: float | None) -> str:
    """Return an age as a person says it: in days from one day on; `-` where there is none."""
    if seconds is None:
        return "-"
    return f"{seconds / 86_400:.0f} d" if seconds >= 86_400 else duration(seconds)


def say_size(size: int | None) -> str:
    """Return bytes as a person says them; `-` where there are none to count."""
    if size is None:
        return "-"
    power = min((len(str(size)) - 1) // 3, 4)
    return f"{size / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def print_line(text: str) -> None:
    """Print a line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
