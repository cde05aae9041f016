"""Tests of the Prefect UI in a real browser: the form, a run that is started there, its artifacts, and the store's block."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.flows.deployed import Prefect
from tests.helpers import browser, topic_rows, write_csv

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

_LIMIT_MS = 60_000
SECRET = "key-that-nobody-may-see"


@pytest.fixture
def page() -> Iterator["Page"]:
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(_LIMIT_MS)
        yield page


def field(page: "Page", title: str) -> "Locator":
    """Return the part of the form with a field's title, description and control: the last with this title."""
    label = page.locator(".schema-form-property__label", has_text=re.compile(rf"^{re.escape(title)}( \(Optional\))?$"))
    return page.locator(".schema-form-property").filter(has=label).last


def control(page: "Page", title: str) -> "Locator":
    """Return the control of a field in the form of a block."""
    return page.locator(".p-label").filter(has_text=re.compile(rf"^\s*{title}")).locator("textarea, input").first


def press(page: "Page", button: str, path: str) -> None:
    """Press a button that sends to a path of the API, a regular expression, again where the server's SQLite database is busy."""
    for _ in range(10):
        with page.expect_response(
            lambda answer: re.search(f"/api{path}$", answer.url) and answer.request.method != "GET"
        ) as sent:
            page.get_by_role("button", name=button).last.click()
        if sent.value.status != HTTPStatus.SERVICE_UNAVAILABLE:
            assert sent.value.ok, sent.value.text()
            return
        page.wait_for_timeout(1000)
    pytest.fail(f"{path} was not accepted")


def open_form(page: "Page", prefect: Prefect, deployment: str) -> None:
    page.goto(f"{prefect.url}/deployments/deployment/{deployment}/run")
    page.get_by_text("Passes over the train split").wait_for()
    # Controls of other sorts than text come one by one.
    for title in ("Seed", "Epochs", "Precision"):
        field(page, title).wait_for()


@pytest.fixture(scope="module")
def deployment(prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the id of a deployment whose parameters are small."""
    config = prefect.config | {"name": "from-ui", "store": str(tmp_path_factory.mktemp("from-ui"))}
    prefect.copy_deployment("small", "cpu", parameters={"config": config})
    return prefect.deployment("small")


def newest_run(prefect: Prefect, deployment: str) -> dict[str, Any]:
    body = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    return next(iter(prefect.api("flow_runs/filter", body)), {})


def artifacts_of(prefect: Prefect, run: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = prefect.api("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    return found


def test_a_run_is_started_by_the_form_and_shows_its_artifacts(prefect: Prefect, deployment: str, page: "Page") -> None:
    open_form(page, prefect, deployment)
    text = page.locator("body").inner_text()
    # Titles and descriptions are there, in the order of the config; no field is a choice between two forms.
    titles = ["Name", "Seed", "Store", "GPU deployment", "Notify", "Data", "Source", "Model", "Training", "Epochs", "Precision"]
    shown = [line.removesuffix(" (Optional)") for line in text.splitlines()]
    assert [title for title in titles if title not in shown] == []
    assert [shown.index(title) for title in titles] == sorted(shown.index(title) for title in titles)
    assert "Peak learning rate of AdamW, reached after the warm-up" in text
    assert 'Property is type "None"' not in text
    # What the deployment sets and what is default stands in the fields.
    assert field(page, "Epochs").locator("input").input_value() == "1"
    assert field(page, "Batch size").locator("input").input_value() == "16"

    field(page, "Epochs").locator("input").fill("2")
    choices = field(page, "Precision").locator(".p-select-button__icon")
    choices.scroll_into_view_if_needed()
    choices.click(force=True)
    page.get_by_text("fp32", exact=True).last.click()
    press(page, "Submit", "/deployments/[^/]+/create_flow_run")
    page.wait_for_url(re.compile(rf"/deployments/deployment/{deployment}(\?.*)?$"))

    run = newest_run(prefect, deployment)
    config = run["parameters"]["config"]
    assert (config["training"]["epochs"], config["training"]["precision"], config["name"]) == (2, "fp32", "from-ui")
    prefect.complete(run["id"])
    page.goto(f"{prefect.url}/runs/flow-run/{run['id']}")
    page.get_by_text("fine-tune").first.wait_for()
    artifacts = {entry["key"]: entry["id"] for entry in artifacts_of(prefect, run["id"])}
    assert set(artifacts) == {"from-ui-summary", "from-ui-scores", "from-ui-metrics", "fine-tune-progress"}
    page.goto(f"{prefect.url}/artifacts/artifact/{artifacts['from-ui-summary']}")
    page.get_by_text("after fine-tuning and").first.wait_for()
    chart = page.locator("img[src^='data:image/png']").first
    chart.wait_for()
    assert chart.evaluate("picture => picture.naturalWidth") > 300
    assert "report.html" in page.locator("body").inner_text()
    page.goto(f"{prefect.url}/artifacts/artifact/{artifacts['from-ui-metrics']}")
    page.get_by_text("Matthews correlation").first.wait_for()
    page.goto(f"{prefect.url}/artifacts/artifact/{artifacts['fine-tune-progress']}")
    page.get_by_text("100").first.wait_for()


def test_artifacts_of_a_hostile_dataset_run_nothing(prefect: Prefect, page: "Page", tmp_path: Path) -> None:
    label = "<img src=x onerror=\"document.title='owned'\">[a](javascript:alert(1))\x1b[31m"
    column = "<b onmouseover=alert(1)>|`site`"
    rows = [
        {"text": row["text"], "label": label if row["label"] == "sport" else row["label"], column: f"{label}{number % 2}"}
        for number, row in enumerate(topic_rows(240))
    ]
    data = {**prefect.config["data"], "source": str(write_csv(tmp_path / "rows.csv", rows)), "slice_columns": [column]}
    # Held for what it says of the hostile class, so that the reasons hold its name.
    gate = {"must_improve": [f"recall/{label}", f"accuracy@{column}={label}0"]}
    run = prefect.start(name="hostile", store=str(tmp_path / "store"), data=data, gate=gate)
    prefect.complete(run)
    artifacts = {entry["key"]: entry for entry in artifacts_of(prefect, run)}
    for key, shown in (("hostile-summary", "The gate"), ("hostile-metrics", "Matthews correlation")):
        page.goto(f"{prefect.url}/artifacts/artifact/{artifacts[key]['id']}")
        page.get_by_text(shown).first.wait_for()
        assert page.title() != "owned"
        assert page.locator("a[href^='javascript']").count() == 0
        assert page.locator("img[src='x'], b[onmouseover]").count() == 0
    assert "onerror" in artifacts["hostile-summary"]["data"]
    assert "\x1b" not in artifacts["hostile-summary"]["data"]
    page.goto(f"{prefect.url}/runs/flow-run/{run}")
    page.get_by_text("Held.").first.wait_for()
    assert page.title() != "owned"


def test_a_wrong_value_is_refused_by_the_form_in_a_clear_line(prefect: Prefect, deployment: str, page: "Page") -> None:
    before = newest_run(prefect, deployment)
    open_form(page, prefect, deployment)
    field(page, "Epochs").locator("input").fill("0")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("'config.training.epochs'. Failure reason: 0 is less than the minimum of 1").first.wait_for()
    assert newest_run(prefect, deployment) == before


def test_a_value_that_only_the_run_can_judge_is_refused_by_it(prefect: Prefect, deployment: str, page: "Page") -> None:
    open_form(page, prefect, deployment)
    field(page, "Source").locator("textarea").fill("/no/such/rows.csv")
    press(page, "Submit", "/deployments/[^/]+/create_flow_run")
    page.wait_for_url(re.compile(rf"/deployments/deployment/{deployment}(\?.*)?$"))
    run = newest_run(prefect, deployment)
    ended = prefect.wait(run["id"])
    assert ended["state_type"] == "FAILED"
    page.goto(f"{prefect.url}/runs/flow-run/{run['id']}")
    page.get_by_text("'/no/such/rows.csv'").first.wait_for()


def test_the_store_is_made_and_edited_in_the_ui_and_shows_no_secret(prefect: Prefect, page: "Page", tmp_path: Path) -> None:
    page.goto(f"{prefect.url}/blocks/catalog/s3-store/create")
    page.get_by_text("Name of a bucket that exists.").wait_for()
    page.locator("input[type=text]").first.fill("from-ui")
    for title, value in (("Bucket", "models"), ("Prefix", "one"), ("Access key id", SECRET), ("Secret access key", SECRET)):
        control(page, title).fill(value)
    press(page, "Create", "/block_documents/")
    page.wait_for_url("**/blocks/block/*")
    page.get_by_text("models").first.wait_for()
    assert SECRET not in page.content()

    page.goto(f"{page.url}/edit")
    prefix = control(page, "Prefix")
    prefix.wait_for()
    assert SECRET not in page.content()
    prefix.fill("two")
    press(page, "Save", "/block_documents/[0-9a-f-]{36}")
    page.wait_for_url(re.compile(r"/blocks/block/[0-9a-f-]+$"))
    filtered = {"block_documents": {"name": {"any_": ["from-ui"]}}, "include_secrets": True}
    data = prefect.api("block_documents/filter", filtered)[0]["data"]
    assert (data["bucket"], data["prefix"]) == ("models", "two")
    # Editing another field has kept them.
    assert (data["aws_access_key_id"], data["aws_secret_access_key"]) == (SECRET, SECRET)
