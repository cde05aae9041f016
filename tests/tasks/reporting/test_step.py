"""Tests of the report of a run whose labels, texts and names are hostile, opened in a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.experiments import text_classification
from tasks.kinds.text_classification import TextClassificationConfig
from tests.helpers import browser, topic_rows, write_csv

HOSTILE = {
    "sport": "<script>document.title='owned'</script>",
    "market": "[a](javascript:alert(1)) | b {{ 7*7 }}",
    "space": '"><img src=x onerror="document.title=\'owned\'">',
}


@pytest.fixture(scope="module")
def run_folder(prefect_api: str, tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    rows = [{"text": f"{row['text']} {HOSTILE[row['label']]}", "label": HOSTILE[row["label"]]} for row in topic_rows(240)]
    config = TextClassificationConfig.model_validate(
        {
            "name": "hostile",
            "store": str(folder / "store"),
            "data": {"source": str(write_csv(folder / "rows.csv", rows))},
            "model": {"name": str(encoder)},
            "training": {"epochs": 2, "learning_rate": 0.01, "max_length": 64},
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
    for label in HOSTILE.values():
        assert page.get_by_text(label, exact=True).count() > 0
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
