"""The HTML page: everything that a colleague needs to judge the run, in one file that loads nothing from outside."""

import base64
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from tasks.reporting.charts import title
from tasks.reporting.story import change, interval
from tasks.text import duration


def render(story: Mapping[str, Any], charts: Mapping[str, bytes]) -> str:
    """Render the report.

    Args:
        story: What `story.tell` returns.
        charts: Chart name to PNG: `scores`, `training`, and `confusion` for a classifier.
    """
    images = {name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in charts.items()}
    return _template().render(**story, charts=images)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "title": title,
        "change": change,
        "interval": interval,
        "score": lambda value: f"{value:.4f}",
        "points": lambda value: f"{100 * value:+.1f}",
        "percent": lambda value: "–" if value is None else f"{100 * value:+.1f} %",
        "duration": duration,
        "count": lambda value: f"{value:,}",
    }
    environment.globals["tone"] = _tone
    return environment.get_template("template.html")


def _tone(difference: float, better: str = "higher") -> str:
    """Return the class that colours a difference: none where nothing changed, or where neither more nor less is better."""
    if difference == 0 or better == "neither":
        return ""
    return "good" if (difference > 0) == (better == "higher") else "bad"
