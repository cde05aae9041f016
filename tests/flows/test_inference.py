"""Tests of the flow `predict` in this process: every form of file in and out, shards that are used again, what the UI shows."""

import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from prefect.logging import disable_run_logger

from blocks.artifact_store import LocalStore
from blocks.errors import StoreConfigError
from blocks.s3_store import S3Store
from flows.experiments import text_classification
from flows.inference import predict
from tasks.compute import infer
from tasks.compute.channel import Channel
from tasks.errors import ComputeLost, ConfigError, DataError
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.prediction import step
from tasks.prediction.request import Columns, Predicted, Request
from tasks.prediction.step import check_input, predict_rows
from tasks.runs import open_existing
from tests.helpers import TOPICS, topic_rows, write_csv
from tests.predicting import crown, publish_model, publish_run
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY
from tests.tasks.prediction.test_rows import write

SETTINGS = {"training": {"max_length": 32}}
ROWS = [{"id": f"r{number}", "text": row["text"]} for number, row in enumerate(topic_rows(23))]
pytestmark = pytest.mark.usefixtures("prefect_api")


class InPlace:
    """Computes in this process, where torch is there already, and counts the rows."""

    rows = 0
    fails: list[BaseException]

    def __enter__(self) -> "InPlace":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def request(self, command: str, arguments: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert command == "predict"
        if InPlace.fails:
            raise InPlace.fails.pop()
        answer = infer.predict(Channel(io.StringIO()), **json.loads(json.dumps(arguments)))
        InPlace.rows += len(pd.read_parquet(arguments["output"]))
        return answer


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> type[InPlace]:
    monkeypatch.setattr(step, "ComputeProcess", InPlace)
    InPlace.rows, InPlace.fails = 0, []
    return InPlace


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def store(scratch: Path, encoder: Path) -> LocalStore:
    store = LocalStore(scratch / "store")
    key = publish_model(store, scratch, encoder, "text-classification", SETTINGS, labels=list(TOPICS))
    crown(store, "topics", key)
    other = publish_model(
        store, scratch, encoder, "text-classification", SETTINGS, labels=list(TOPICS), key="steps/fine-tune/0002", seed=1
    )
    publish_run(store, scratch, "topics", other)
    return store


@pytest.fixture
def run(store: LocalStore, tmp_path: Path, in_place: type[InPlace]) -> Callable[..., Predicted]:
    """Return the function that predicts rows: by the tasks' functions alone, or by the flow, which takes its time."""

    def run(rows: list[dict[str, Any]] | Path = ROWS, output: str = "out.csv", *, by: Any = None, **options: Any) -> Predicted:
        path = rows if isinstance(rows, Path) else write(tmp_path / "rows.csv", rows)
        in_place.rows = 0
        given = {"name": "topics", "input": str(path), "output": output if "://" in output else str(tmp_path / output)}
        given |= {"store": str(store.root), "shard_rows": 10, "precision": "fp32", **options}
        return (by or directly)(**given)

    return run


def directly(**given: Any) -> Predicted:
    """Predict without Prefect."""
    request = Request(**given)
    opened = open_existing(request.store)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as scratch, disable_run_logger():
        patch.setattr(step, "EventSink", lambda *_, **__: lambda event: None)
        return predict_rows.fn(check_input.fn(request, opened, Path(scratch)), opened, Path(scratch))


def read(path: Path) -> list[dict[str, str]]:
    """Return a file's rows, as texts."""
    match path.suffix:
        case ".csv" | ".tsv":
            with path.open(newline="") as stream:
                return list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))
        case ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
        case _:
            rows = pd.read_parquet(path).to_dict("records")
    return [{name: str(value) for name, value in row.items()} for row in rows]


@pytest.fixture(scope="module")
def expected(store: LocalStore, scratch: Path) -> dict[str, list[str]]:
    """Return what the model says of each text by itself, without any code of the project."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = store.fetch("steps/fine-tune/0001") / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = [model(**tokenizer(row["text"], return_tensors="pt")).logits[0] for row in ROWS]
    found = [one.softmax(-1) for one in logits]
    return {
        "prediction": [list(TOPICS)[int(one.argmax())] for one in found],
        "probability": [str(float(one.max())) for one in found],
    }


@pytest.mark.parametrize("given", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("wanted", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_form_goes_into_every_form(
    given: str, wanted: str, run: Callable[..., Predicted], expected: dict[str, list[str]], tmp_path: Path
) -> None:
    told = run(write(tmp_path / f"rows{given}", ROWS), f"out{wanted}", columns=Columns(id_column="id"))
    rows = read(tmp_path / f"out{wanted}")
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert [row["prediction"] for row in rows] == expected["prediction"]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], list(map(float, expected["probability"])), atol=1e-5)
    assert {row["model"] for row in rows} == {told.model}
    probabilities = [f"probability/{label}" for label in TOPICS]
    assert list(rows[0]) == ["id", "prediction", "probability", *probabilities, "model"]
    assert (told.rows, told.shards, told.reused, told.unread) == (23, 3, 0, 0)
    assert sorted(path.name for path in tmp_path.glob("out*")) == [f"out{wanted}"]


def test_the_model_of_a_run_predicts_in_place_of_the_champion(run: Callable[..., Predicted], tmp_path: Path) -> None:
    champion = run(output="champion.csv")
    other = run(output="other.csv", run="a-run")
    assert (champion.run, other.run) == ("crowned", "a-run")
    assert champion.model != other.model
    one, two = (read(tmp_path / name) for name in ("champion.csv", "other.csv"))
    assert [row["probability"] for row in one] != [row["probability"] for row in two]


def test_a_row_without_a_text_stays_in_its_place(run: Callable[..., Predicted], tmp_path: Path) -> None:
    rows = [dict(row) for row in ROWS]
    for number in (4, *range(10, 20)):
        rows[number]["text"] = " "
    for form in (".jsonl", ".parquet"):
        assert run(rows, f"out{form}").unread == 11
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [number for number, row in enumerate(lines) if row["prediction"] is None] == [4, *range(10, 20)]
    assert pd.read_parquet(tmp_path / "out.parquet")["probability"].isna().sum() == 11


# Shards


@pytest.fixture
def interrupted(run: Callable[..., Predicted], in_place: type[InPlace], tmp_path: Path) -> Path:
    """Leave two of three shards of `out.csv`, and an undisturbed `whole.csv`; return the folder of the shards."""
    run(output="whole.csv")
    plain = InPlace.request

    def request(self: InPlace, command: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
        if in_place.rows == 20:
            raise KeyboardInterrupt
        return plain(self, command, arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InPlace, "request", request)
        with pytest.raises(KeyboardInterrupt):
            run()
    (folder,) = (tmp_path / "out.csv.parts").iterdir()
    assert len(list(folder.iterdir())) == 2
    assert not (tmp_path / "out.csv").exists()
    return folder


def test_only_missing_shards_are_computed_and_the_file_is_the_same(
    interrupted: Path, run: Callable[..., Predicted], in_place: type[InPlace], tmp_path: Path
) -> None:
    again = run()
    assert (again.reused, in_place.rows) == (2, 3)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / "out.csv.parts").exists()


def test_a_damaged_shard_is_made_again(
    interrupted: Path, run: Callable[..., Predicted], in_place: type[InPlace], tmp_path: Path
) -> None:
    first = min(interrupted.iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    run(by=predict)
    # The missing one, and in a second pass the damaged one.
    assert in_place.rows == 13
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("change", ["model", "calibration", "input", "columns", "shard_rows", "precision", "ids"])
def test_shards_of_anything_else_are_not_used(
    change: str, interrupted: Path, run: Callable[..., Predicted], in_place: type[InPlace], store: LocalStore, tmp_path: Path
) -> None:
    rows = [dict(row) for row in ROWS]
    options: dict[str, Any] = {}
    match change:
        case "model":
            options["run"] = "a-run"
        case "calibration":
            crown(store, "topics", "steps/fine-tune/0001", calibration={"other": 1.0})
        case "input":
            rows[-1]["text"] += "s"
        case "columns":
            options["columns"] = Columns(text_column="id")
        case "shard_rows":
            options["shard_rows"] = 9
        case "precision":
            options["precision"] = "bf16"
        case _:
            options["columns"] = Columns(id_column="id")
    try:
        again = run(rows, **options)
    finally:
        crown(store, "topics", "steps/fine-tune/0001")
    assert (again.reused, in_place.rows) == (0, 23)
    # Shards that nobody needs any more are gone too.
    assert not (tmp_path / "out.csv.parts").exists()


def test_the_form_of_the_output_and_the_name_of_the_input_matter_to_no_shard(
    interrupted: Path, run: Callable[..., Predicted], in_place: type[InPlace], tmp_path: Path
) -> None:
    moved = (tmp_path / "rows.csv").rename(tmp_path / "moved.csv")
    assert run(moved).reused == 2


def test_an_input_that_changes_meanwhile_is_told(
    run: Callable[..., Predicted], in_place: type[InPlace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = InPlace.request

    def request(self: InPlace, command: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
        with (tmp_path / "rows.csv").open("a") as stream:
            stream.write("r99,one more\n")
        return plain(self, command, arguments, **options)

    monkeypatch.setattr(InPlace, "request", request)
    with pytest.raises(DataError, match="changed while it was read; run again"):
        run()
    assert not (tmp_path / "out.csv").exists()


def test_a_lost_compute_process_is_followed_by_another_try(
    run: Callable[..., Predicted], in_place: type[InPlace], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place.fails = [ComputeLost("gone")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step.predict_rows, "retry_delay_seconds", [0.1])
        assert run(by=predict).rows == 23
    in_place.fails = [DataError("wrong")]
    with pytest.raises(DataError, match="wrong"):
        run(by=predict)
    assert in_place.fails == []


# What is refused, marked and shown


@pytest.mark.usefixtures("in_place")
def test_relative_paths_are_refused_in_a_deployments_run(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "rows.csv", ROWS)
    assert predict("topics", "rows.csv", "out.csv", str(store.root)).rows == 23
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "11111111-1111-1111-1111-111111111111")
    for given, field in ((("rows.csv", str(tmp_path / "o.csv")), "input"), ((str(tmp_path / "rows.csv"), "o.csv"), "output")):
        with pytest.raises(ConfigError, match=f"^{field} '.*' is a relative path, .*; set {field} to an absolute path"):
            predict("topics", *given, str(store.root))


def test_the_model_is_marked_as_in_use_meanwhile(
    run: Callable[..., Predicted], store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks: list[Any] = []
    plain = InPlace.request

    def request(self: InPlace, command: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
        marks.extend(mark.content["keys"] for mark in store.marks().values())
        return plain(self, command, arguments, **options)

    monkeypatch.setattr(InPlace, "request", request)
    run(by=predict, run="a-run")
    assert marks == [["steps/fine-tune/0002"]] * 3
    assert store.marks() == {}


def test_a_store_that_may_only_be_read_serves_too(
    run: Callable[..., Predicted], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StoreConfigError("denied")

    monkeypatch.setattr(LocalStore, "mark", refuse)
    assert run(by=predict).rows == 23
    assert "cannot be marked as in use" in caplog.text


def test_the_ui_shows_progress_and_an_outcome_without_markup(
    run: Callable[..., Predicted], prefect_api: str, tmp_path: Path
) -> None:
    run(write(tmp_path / "a_[x](y)_.csv", ROWS), by=predict)
    found = httpx.post(f"{prefect_api}/artifacts/filter", json={"sort": "CREATED_DESC"}).json()
    table = next(entry for entry in found if entry["key"] == "topics-predictions")
    cells = {row["What"]: row["Value"] for row in json.loads(table["data"])}
    assert cells["Rows"] == "23"
    assert r"a\_\[x\]\(y\)\_\.csv" in cells["Input"] or r"a\_\[x\]\(y\)\_.csv" in cells["Input"]
    assert "predict-progress" in {entry["key"] for entry in found}


def test_the_form_asks_for_three_things_and_describes_the_rest() -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(predict.fn).model_dump()
    assert schema["required"] == ["name", "input", "output"]
    fields = schema["properties"]
    assert list(fields) == ["name", "input", "output", "store", "run", "columns", "shard_rows", "device", "precision"]
    assert all(field.get("description") for name, field in fields.items() if name != "columns")
    assert not any("anyOf" in field for field in fields.values())
    columns = schema["definitions"]["Columns"]["properties"]
    assert [columns[name]["position"] for name in Columns.model_fields] == list(range(len(columns)))
    assert all(field["description"] and "anyOf" not in field for field in columns.values())


def test_a_run_can_be_started_with_plain_parameters() -> None:
    given = {"name": "topics", "input": "a.csv", "output": "b.csv", "columns": {"id_column": "id", "text_column": ""}}
    assert predict.validate_parameters(given)["columns"] == Columns(id_column="id")


# S3


@pytest.fixture
def keys(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3_store.endpoint_url))
    return s3_store


@pytest.mark.parametrize("form", [".csv", ".parquet"])
def test_files_in_s3_are_read_and_written(
    form: str, keys: S3Store, run: Callable[..., Predicted], store: LocalStore, tmp_path: Path
) -> None:
    folder = f"s3://{BUCKET}/{keys.prefix}"
    keys.objects.put("in/rows.jsonl", write(tmp_path / "rows.jsonl", ROWS).read_bytes())
    told = predict(
        "topics", f"{folder}/in/rows.jsonl", f"{folder}/out/a file{form}", str(store.root), shard_rows=10, precision="fp32"
    )
    assert (told.rows, told.shards) == (23, 3)
    run(write(tmp_path / "rows.jsonl", ROWS), f"local{form}")
    found = keys.objects.get(f"out/a file{form}")
    assert found is not None
    assert found[0] == (tmp_path / f"local{form}").read_bytes()
    assert list(keys.objects.scan("out/")) == [f"out/a file{form}"]


def test_shards_in_s3_outlive_the_machine(
    keys: S3Store, run: Callable[..., Predicted], in_place: type[InPlace], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"s3://{BUCKET}/{keys.prefix}/out.csv"
    plain = InPlace.request

    def request(self: InPlace, command: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
        if in_place.rows == 20:
            raise KeyboardInterrupt
        return plain(self, command, arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InPlace, "request", request)
        with pytest.raises(KeyboardInterrupt):
            run(output=output)
    assert len(keys.objects.scan("out.csv.parts/")) == 2
    assert keys.objects.get("out.csv") is None
    again = run(output=output)
    assert (again.reused, in_place.rows) == (2, 3)
    assert list(keys.objects.scan("out.csv")) == ["out.csv"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.csv", "is not there: S3 has no file of that name; check input"), ("empty.csv", "is empty; check input")],
)
def test_a_wrong_input_in_s3_is_named(
    name: str, words: str, keys: S3Store, run: Callable[..., Predicted], tmp_path: Path
) -> None:
    keys.objects.put("empty.csv", b"")
    with pytest.raises(DataError, match=words):
        run(input=f"s3://{BUCKET}/{keys.prefix}/{name}")


# The whole story


@pytest.mark.usefixtures("kept_compute")
def test_a_run_predicts_its_own_test_rows_as_it_scored_them(tmp_path: Path, topics_csv: Path, encoder: Path) -> None:
    """With the real compute process, from a run's fine-tuned model."""
    config = TextClassificationConfig.model_validate(
        {
            **{"name": "topics", "store": str(tmp_path / "store"), "data": {"source": str(topics_csv)}},
            **{"model": {"name": str(encoder)}, "training": {"epochs": 1, "learning_rate": 0.01, "max_length": 32}},
        }
    )
    report = text_classification(config)
    kept = pd.read_parquet(tmp_path / "store" / report.key / "predictions_after.parquet")
    told = predict("topics", str(topics_csv), str(tmp_path / "out.parquet"), config.store, run=report.key, shard_rows=100)
    assert told.rows == 240
    found = pd.read_parquet(tmp_path / "out.parquet").set_index("id").loc[kept["id"]]
    assert found["prediction"].tolist() == kept["prediction"].astype(str).tolist()
    columns = np.stack([found[f"probability/{label}"] for label in sorted(TOPICS)], 1)
    # On some processors in bf16, where padding shows in the third digit.
    np.testing.assert_allclose(columns, np.stack(kept["probabilities"]), atol=0.02)
