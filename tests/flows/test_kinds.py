"""Tests of whole runs of the other kinds, each with another model, way of training and place for its artifacts."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markupsafe import escape

from blocks.artifact_store import ArtifactStore, open_store
from flows.experiments import FLOWS
from tasks.kinds import kind_names, load_kind
from tasks.kinds.summarization import RougeSettings
from tasks.records import Report
from tasks.text import one_line
from tests.architectures import make_architecture
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from tests.tasks.kinds.cases import CASES

MARKUP = "<script>alert(1)</script>"
TRAINING: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01, "batch_size": 8, "max_length": 48}


@dataclass(frozen=True)
class Way:
    """How a kind is run here."""

    architecture: str
    marked: str
    """Column whose texts hold markup."""
    training: dict[str, Any]
    in_s3: bool = False


WAYS = {
    "summarization": Way("t5", "text", {"epochs": 16}),
    "question-answering": Way("bert", "question", {"method": "head", "epochs": 4}, in_s3=True),
    "causal-lm": Way("gpt2", "text", {"method": "lora"}),
    "masked-lm": Way("bert", "text", {"processes": 2}),
}


OTHERWISE: dict[str, dict[str, Any]] = {"summarization": {"rouge": RougeSettings(words="ascii")}}
"""Kind to settings by which answers are judged, other than those under which the champion was made."""


def scored(first: Report, again: Report) -> tuple[str, str, str]:
    """Return where a run's model is scored in that run, where as the champion of the next, and where the next one's model is."""
    return first.steps["evaluate-fine-tuned"], again.steps["evaluate-champion"], again.steps["evaluate-fine-tuned"]


def test_every_kind_is_run_whole() -> None:
    assert [name for name in kind_names() if name not in WAYS] == ["text-classification"]


def write_rows(path: Path, kind: str) -> Path:
    marked = WAYS[kind].marked
    rows = [{**row, marked: f"{MARKUP} {row[marked]}"} for row in CASES[kind].rows(120, 0)]
    if kind == "summarization":
        rows = [row if number % 3 else {**row, "summary": f"{row['summary']} é"} for number, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(kind: str, folder: Path, store: str) -> dict[str, Any]:
    """Return a config, with the rows and the model that it names made in `folder`."""
    way = WAYS[kind]
    return {
        **CASES[kind].settings_for(way.architecture),
        "name": "made",
        "store": store,
        "data": {"source": str(write_rows(folder / "rows.jsonl", kind))},
        "model": {"name": str(make_architecture(way.architecture, folder / "model"))},
        "training": TRAINING | way.training,
    }


@dataclass(frozen=True)
class Ran:
    """A finished run, and the function that starts the same again, or one with other settings."""

    kind: str
    report: Report
    store: ArtifactStore
    start: Callable[..., Report]


@pytest.fixture(scope="module", params=WAYS)
def ran(
    request: pytest.FixtureRequest,
    prefect_api: str,
    kept_compute: Any,
    s3_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    kind, root = request.param, tmp_path_factory.mktemp(request.param)
    store = f"s3://{BUCKET}/{kind}" if WAYS[kind].in_s3 else str(root / "store")
    config = load_kind(kind).config_class.model_validate(settings(kind, root, store))
    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL_S3": s3_server.endpoint,
        "FINETUNE_FLOWS_CACHE": str(root / "cache"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        report = FLOWS[kind](config)
        yield Ran(kind, report, open_store(store), lambda **values: FLOWS[kind](config.model_copy(update=values)))


def test_a_run_goes_from_rows_to_a_report(ran: Ran) -> None:
    kind, folder = load_kind(ran.kind), ran.store.fetch(ran.report.key)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["kind"], metrics["before"], metrics["after"]) == (ran.kind, ran.report.before, ran.report.after)
    before, after = (part[kind.primary_metric] for part in (ran.report.before, ran.report.after))
    if kind.primary_metric in kind.lower_is_better:
        assert after < before
    else:
        assert after > before
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert MARKUP not in page
    assert "&lt;script&gt;" in page
    for name in ("predictions_before.parquet", "predictions_after.parquet", "scores.png"):
        assert (folder / name).stat().st_size > 0


def test_the_same_again_computes_nothing(ran: Ran) -> None:
    again = ran.start()
    assert again.unchanged_since
    assert again.steps == ran.report.steps


def test_what_the_champion_says_stands_beside_what_the_two_others_do(ran: Ran) -> None:
    again = ran.start(seed=7, **OTHERWISE.get(ran.kind, {}))
    assert (ran.report.promotion.outcome, again.contest is not None) == ("first champion", True)
    page = (ran.store.fetch(again.key) / "report.html").read_text(encoding="utf-8")
    rows = json.loads((ran.store.fetch(again.steps["compare"]) / "rows.json").read_text(encoding="utf-8"))
    kind = load_kind(ran.kind)
    bound = kind(kind.config_class())
    champion = ran.store.fetch(again.steps["evaluate-champion"])
    said = {entry["id"]: entry for entry in pd.read_parquet(champion / "predictions.parquet").to_dict("records")}
    shown = [row["id"] for of_sort in rows.values() for row in of_sort]
    assert shown
    for row in shown:
        assert f"<td>{escape(one_line(bound.shown_prediction(said[row]), 600))}</td>" in page
    samples = json.loads((champion / "samples.json").read_text(encoding="utf-8"))
    for sample in samples:
        assert f'<td class="text">{escape(sample["text"])}</td>' in page
    assert len(samples) == (ran.kind == "causal-lm")
    if ran.kind == "summarization":
        lost = [sum(pd.read_parquet(ran.store.fetch(key) / "predictions.parquet")["lost"]) for key in scored(ran.report, again)]
        assert [one > 0 for one in lost] == [False, True, True], "the champion is not judged as the run judges its own models"
    assert page.count("<th>Champion</th>") == sum(map(bool, (*rows.values(), samples)))
    assert MARKUP not in page
