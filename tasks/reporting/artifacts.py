"""The outcome as artifacts of the Prefect UI; what came from outside is escaped."""

import base64

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from tasks.records import Report
from tasks.reporting import charts, story
from tasks.reporting.pages import Pages
from tasks.text import escape_markdown, slug


def show(record: Report, pages: Pages) -> None:
    """Create a table of the metrics, a summary and the chart."""
    told = pages.told
    name = slug(record.name).lower().replace(".", "-").replace("_", "-")
    create_table_artifact(
        key=f"{name}-metrics",
        description=escape_markdown(record.outcome),
        table=[
            {
                "Metric": charts.title(entry["name"]),
                "Before": f"{entry['from_untouched']['before']:.4f}",
                **({"Champion": f"{entry['champion']:.4f}"} if record.contest else {}),
                "After": f"{entry['from_untouched']['after']:.4f}",
                "Difference": f"{entry['from_untouched']['difference']:+.4f}",
                "95 % interval": story.interval(entry["from_untouched"]),
                **({"From champion, 95 % interval": story.interval(entry["from_champion"])} if record.contest else {}),
            }
            for entry in told["metrics"]
        ],
    )
    picture = f"data:image/png;base64,{base64.b64encode(pages.charts['scores']).decode()}"
    lines = [
        f"# {escape_markdown(record.name)}: before and after fine-tuning",
        escape_markdown(" ".join(filter(None, [record.outcome, told["caution"]]))),
        f"![Scores before and after]({picture})",
        escape_markdown(told["head_note"]),
        "## The gate",
        "\n".join(f"- {escape_markdown(reason)}" for reason in record.promotion.reasons),
        "## Where it comes from",
        "\n".join(f"- {escape_markdown(item)}" for item in told["sources"]),
        "## Where it is",
        f"- Report: {escape_markdown(record.report)}\n- Model: {escape_markdown(record.model)}",
    ]
    create_markdown_artifact(key=f"{name}-summary", description="The run's outcome", markdown="\n\n".join(lines))
    create_image_artifact(
        key=f"{name}-scores",
        description="Scores before and after",
        image_url=picture,
    )
