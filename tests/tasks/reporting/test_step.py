"""Tests of the report of a run whose labels, texts and names are hostile, opened in a real browser."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from flows.__main__ import main
from flows.experiments import text_classification
from tasks.kinds.text_classification import TextClassificationConfig
from tests.helpers import browser, topic_rows, write_csv

HOSTILE = {
    "sport": "<script>document.title='owned'</script>",
    "market": "[a](javascript:alert(1)) | b {{ 7*7 }}",
    "space": '"><img src=x onerror="document.title=\'owned\'">',
}
ESCAPES = "\x1b[31mred\x1b[2J\x07"
FORMULA = '=HYPERLINK("http://127.0.0.1:9/"&A1,"x")'
COLUMN = "<b onmouseover=alert(1)>|`site`\x1b[31m=1+1"


def write_yaml(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_folder(prefect_api: str, kept_compute: Any, tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    rows = [
        {
            "row": f"{FORMULA}{number}",
            "text": f"{row['text']} {HOSTILE[row['label']]} {ESCAPES}",
            "label": f"{HOSTILE[row['label']]}{ESCAPES}" if row["label"] == "sport" else HOSTILE[row["label"]],
            COLUMN: FORMULA if number % 2 else HOSTILE["space"],
        }
        for number, row in enumerate(topic_rows(360))
    ]
    config = TextClassificationConfig.model_validate(
        {
            "name": "hostile",
            "store": str(folder / "store"),
            "data": {
                "source": str(write_csv(folder / "rows.csv", rows)),
                "id_column": "row",
                "slice_columns": [COLUMN],
            },
            "model": {"name": str(encoder)},
            "training": {"epochs": 4, "learning_rate": 0.003, "max_length": 64},
        }
    )
    return folder / "store" / text_classification(config).key


@pytest.fixture(scope="module")
def page(run_folder: Path) -> Iterator["object"]:
    with browser() as chromium:
        yield chromium.new_page()


def test_no_text_of_the_data_is_run_or_becomes_markup(run_folder: Path, page) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"file://{run_folder}/report.html")
    assert page.title() == "hostile: before and after fine-tuning"
    assert page.locator("script").count() == 0
    assert page.locator("img:not([src^='data:image/png'])").count() == 0
    assert page.locator("a").count() == 0
    for label in (HOSTILE["market"], HOSTILE["space"]):
        assert page.get_by_text(label, exact=True).count() > 0
    slices = page.locator("section", has=page.get_by_role("heading", name="Slices")).inner_text()
    assert "<b onmouseover=alert(1)>|`site`" in slices
    assert FORMULA in slices
    outside = [url for url in requests if not url.startswith(("data:", f"file://{run_folder}/report.html"))]
    assert outside == []


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_a_phone_and_a_screen(width: int, run_folder: Path, page) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"file://{run_folder}/report.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def test_the_page_has_every_part(run_folder: Path, page) -> None:
    page.goto(f"file://{run_folder}/report.html")
    headings = page.locator("h2").all_inner_texts()
    assert headings == [
        "Improvement analysis",
        "Baselines",
        "Calibration",
        "Confusion matrices",
        "Training",
        "Cost",
        "Data checks",
        "Rows that were fixed",
        "Rows that broke",
        "How it was made",
    ]
    text = page.locator("body").inner_text()
    assert "improved" not in text
    run = json.loads((run_folder / "run.json").read_text())
    for word in (
        *run["steps"].values(),
        *run["versions"].values(),
        run["inputs"]["data_identity"],
        "training.learning_rate",
        "42",
    ):
        assert word in text
    for name, value in run["after"].items():
        if "/" not in name:
            assert f"{value:.4f}" in text


def test_at_most_twenty_rows_of_each_sort_are_shown(run_folder: Path, page) -> None:
    page.goto(f"file://{run_folder}/report.html")
    for heading in ("Rows that were fixed", "Rows that broke"):
        section = page.locator("section", has=page.get_by_role("heading", name=heading))
        assert section.locator("tbody tr").count() <= 20


def test_the_page_prints_without_cutting_tables(run_folder: Path, page, tmp_path: Path) -> None:
    page.goto(f"file://{run_folder}/report.html")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 1000})
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(box => getComputedStyle(box).overflowX === 'visible')")
    assert page.pdf(path=tmp_path / "report.pdf").startswith(b"%PDF")


def test_the_terminal_gets_no_escape_of_the_data(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = json.loads((run_folder / "run.json").read_text())
    config = write_yaml(run_folder.parent.parent.parent / "again.yaml", run["config"])
    for arguments in (
        ["run", "text-classification", "--config", str(config)],
        ["champion", "history", "hostile", "--store", run["config"]["store"]],
        ["champion", "show", "hostile", "--store", run["config"]["store"]],
    ):
        assert main(arguments) == 0
        told = "".join(capfd.readouterr())
        assert told
        assert [char for char in told if ord(char) < 32 and char != "\n"] == []


def test_predictions_as_csv_hold_no_formula_and_those_in_parquet_every_text(run_folder: Path, tmp_path: Path) -> None:
    run = json.loads((run_folder / "run.json").read_text())
    source = run["config"]["data"]["source"]
    for suffix in ("csv", "parquet"):
        output = tmp_path / f"out.{suffix}"
        assert main(["predict", "hostile", source, str(output), "--store", run["config"]["store"]]) == 0
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 360
    assert [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
    kept = pd.read_parquet(tmp_path / "out.parquet")
    assert kept["id"].tolist() == [f"{FORMULA}{number}" for number in range(360)]
    assert set(kept["prediction"]) <= {HOSTILE["market"], HOSTILE["space"], f"{HOSTILE['sport']}{ESCAPES}"}
