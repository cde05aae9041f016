"""Tests of the command `predict`: the numbers of evaluation without targets, every row in its place, the model loaded once."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tasks.compute import infer
from tasks.compute.channel import Channel
from tasks.data.step import ARROW_TYPES
from tasks.data.values import blank
from tasks.errors import ConfigError
from tasks.kinds import kind_names, load_kind
from tasks.kinds.kind import Encoded
from tasks.kinds.masked_lm import MaskedLM
from tasks.kinds.text_classification import TextClassification
from tests.architectures import make_architecture
from tests.predicting import save_model
from tests.tasks.compute.commands import LABELS, events
from tests.tasks.kinds.cases import CASES, PROBLEMS, Case
from tests.tasks.kinds.language_models import Lab

NAMES = [*kind_names(), *(f"text-classification/{problem}" for problem in PROBLEMS)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_architecture("bert", tmp_path_factory.mktemp("models") / "bert")


def case_of(name: str) -> tuple[str, Case]:
    kind, _, problem = name.partition("/")
    return kind, PROBLEMS[problem] if problem else CASES[kind]


def spool(path: Path, kind_name: str, settings: dict[str, Any], rows: list[dict[str, Any]], *, targets: bool) -> Path:
    """Write rows as the parent does; without `targets`, these are blank."""
    kind = load_kind(kind_name)
    columns = kind(kind.config_class.model_validate(settings)).columns()
    schema = pa.schema([("id", pa.string()), *((column.role, ARROW_TYPES[column.form]) for column in columns)])
    values: dict[str, list[Any]] = {"id": [row["id"] for row in rows]}
    for column in columns:
        known = column.is_input or (targets and column.role in rows[0])
        values[column.role] = [row[column.role] if known else blank(column.form) for row in rows]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([pa.array(values[one.name], one.type) for one in schema], schema=schema))
    return path


def run(
    kind: str,
    settings: dict[str, Any],
    labels: Any,
    model: Path,
    rows: Path,
    *,
    stream: io.StringIO | None = None,
    **changes: Any,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run the command; return its answer and what it wrote."""
    output = rows.with_suffix(".parquet")
    arguments = {
        **{"kind_name": kind, "settings": settings, "labels": list(labels), "model": str(model), "remote_code": False},
        **{"seed": 1, "device": "cpu", "precision": "fp32", "calibration": {}, "rows": str(rows), "output": str(output)},
    }
    answer = infer.predict(Channel(stream or io.StringIO()), **(arguments | changes))
    return answer, pd.read_parquet(output)


@pytest.fixture(params=NAMES)
def trained(request: pytest.FixtureRequest, bert: Path, tmp_path: Path) -> tuple[Lab, Case, Path]:
    """Return a kind with its rows, and a model whose predictions differ from row to row."""
    kind, case = case_of(request.param)
    settings = case.settings_for("bert")
    lab = Lab(
        tmp_path,
        kind,
        bert,
        settings,
        labels=case.labels,
        train=case.rows(32, 0),
        validation=case.rows(8, 1),
        test=case.rows(24, 2),
    )
    lab.tokenize()
    return lab, case, save_model(tmp_path / "model", bert, kind, settings, case.labels)


@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces a better way:FutureWarning")
def test_rows_without_targets_get_the_numbers_of_evaluation(trained: tuple[Lab, Case, Path], tmp_path: Path) -> None:
    lab, case, model = trained
    scored, folder = lab.evaluate(model, trained=True)
    expected = pd.read_parquet(folder / "predictions.parquet")
    rows = [{"id": f"test-{number}", **row} for number, row in enumerate(case.rows(24, 2))]
    blanked = spool(tmp_path / "rows.arrow", lab.kind, lab.settings, rows, targets=False)
    answer, found = run(lab.kind, lab.settings, lab.labels, model, blanked, calibration=scored["calibration"])
    assert (answer["unread"], answer["device"]) == (0, "cpu, fp32")
    assert found["id"].tolist() == expected["id"].tolist()
    same = set(found.columns) & set(expected.columns) - {"id"}
    assert same
    for name in same:
        if pd.api.types.is_numeric_dtype(found[name]):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            assert [str(value) for value in found[name]] == [str(value) for value in expected[name]], name
    if "probabilities" in expected:
        columns = np.stack([found[f"probability/{label}"] for label in lab.labels], 1)
        np.testing.assert_allclose(columns, np.stack(expected["probabilities"]), rtol=1e-5, atol=1e-6)
    # Targets, where they are known, change nothing.
    told = spool(tmp_path / "told.arrow", lab.kind, lab.settings, rows, targets=True)
    pd.testing.assert_frame_equal(
        run(lab.kind, lab.settings, lab.labels, model, told, calibration=scored["calibration"])[1], found
    )


SETTINGS = {"training": {"max_length": 8}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    return save_model(tmp_path_factory.mktemp("trained") / "model", encoder, "text-classification", SETTINGS, LABELS)


def classifier(folder: Path, tmp_path: Path, texts: list[str], **changes: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    rows = [{"id": f"r{number}", "text": text} for number, text in enumerate(texts)]
    path = spool(tmp_path / "rows.arrow", "text-classification", SETTINGS, rows, targets=False)
    return run("text-classification", SETTINGS, LABELS, folder, path, **changes)


TEXTS = ["match goal", "", "a team of the coach with a new league player season", " \n", "orbit"]


def test_rows_without_a_text_have_no_prediction_and_the_others_keep_their_places(model: Path, tmp_path: Path) -> None:
    answer, found = classifier(model, tmp_path, TEXTS)
    assert (answer["unread"], answer["truncated"]) == (2, 1)
    assert found["id"].tolist() == ["r0", "r1", "r2", "r3", "r4"]
    assert found["prediction"].isna().tolist() == [False, True, False, True, False]
    assert found["probability"].isna().tolist() == found["prediction"].isna().tolist()
    alone = [classifier(model, tmp_path, [TEXTS[place]])[1] for place in (0, 2, 4)]
    for name in ("probability/sport", "probability/market", "probability/space"):
        np.testing.assert_allclose(found[name].dropna(), [one[name][0] for one in alone], atol=1e-6)


def test_rows_without_a_token_have_no_prediction(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As tokenizers that put nothing around a text have it of some control characters.
    texts, mute, plain = ["match goal", "\u200b", "orbit"], "\u200b", TextClassification.encode

    def encode(self: Any, tokenizer: Any, rows: Any, *, train: bool) -> Any:
        encoded = plain(self, tokenizer, rows, train=train)
        ids = [[] if text == mute else ids for text, ids in zip(rows["text"], encoded.features["input_ids"], strict=True)]
        return Encoded({**encoded.features, "input_ids": ids}, encoded.truncated)

    monkeypatch.setattr(TextClassification, "encode", encode)
    answer, found = classifier(model, tmp_path, texts)
    assert answer["unread"] == 1
    assert found["prediction"].isna().tolist() == [False, True, False]
    kept = classifier(model, tmp_path, [texts[0], texts[2]])[1]
    np.testing.assert_allclose(found["probability"].dropna(), kept["probability"], atol=1e-6)
    nothing, empty = classifier(model, tmp_path, [mute])
    assert (nothing["unread"], list(empty.columns)) == (1, ["id"])


def test_features_stay_with_their_rows_where_one_has_no_token(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a kind that makes several features of a row."""
    settings = {"training": {"max_length": 12}}
    model = save_model(tmp_path / "model", bert, "masked-lm", settings, ())
    texts = ["match goal team " * 6, "mute", "orbit rocket " * 9, "bank"]
    rows = [{"id": f"r{number}", "text": text} for number, text in enumerate(texts)]
    plain = MaskedLM.encode

    def encode(self: Any, tokenizer: Any, rows: Any, *, train: bool) -> Encoded:
        encoded = plain(self, tokenizer, rows, train=train)
        assert encoded.rows is not None
        owners = [rows["text"][row] for row in encoded.rows]
        ids = [[] if text == "mute" else ids for text, ids in zip(owners, encoded.features["input_ids"], strict=True)]
        return Encoded({**encoded.features, "input_ids": ids}, encoded.truncated, encoded.rows)

    monkeypatch.setattr(MaskedLM, "encode", encode)
    _, found = run("masked-lm", settings, (), model, spool(tmp_path / "a.arrow", "masked-lm", settings, rows, targets=False))
    others = [rows[place] for place in (0, 2, 3)]
    _, alone = run("masked-lm", settings, (), model, spool(tmp_path / "b.arrow", "masked-lm", settings, others, targets=False))
    assert found["nats"].isna().tolist() == [False, True, False, False]
    assert alone["tokens"].nunique() > 1
    np.testing.assert_allclose(found["nats"].dropna(), alone["nats"], rtol=1e-5)


def test_where_no_row_has_a_text_there_are_ids_alone(model: Path, tmp_path: Path) -> None:
    answer, found = classifier(model, tmp_path, ["", " "])
    assert answer["unread"] == 2
    assert found.to_dict("list") == {"id": ["r0", "r1"]}


def test_the_model_is_loaded_once_for_many_files(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []
    load = infer.load_model

    def counting(kind: Any, folder: Path, *arguments: Any, **options: Any) -> Any:
        loaded.append(folder)
        return load(kind, folder, *arguments, **options)

    monkeypatch.setattr(infer, "load_model", counting)
    monkeypatch.setattr(infer, "_loaded", {})
    for texts in (["match"], ["orbit"], TEXTS):
        classifier(model, tmp_path, texts)
    assert len(loaded) == 1
    classifier(model, tmp_path, ["match"], seed=2)
    classifier(model, tmp_path, ["match"])
    # Another one takes the place of the first, which is not kept beside it.
    assert len(loaded) == 3


def test_shards_are_predicted_as_the_whole_is(model: Path, tmp_path: Path) -> None:
    texts = [" ".join(["match", "goal", "orbit", "bank", "of", "the"][: 1 + number % 6]) for number in range(40)]
    whole = classifier(model, tmp_path, texts)[1]
    parts = pd.concat([classifier(model, tmp_path, texts[start : start + 7])[1] for start in range(0, 40, 7)])
    assert parts["prediction"].tolist() == whole["prediction"].tolist()
    np.testing.assert_allclose(parts["probability"], whole["probability"], atol=1e-6)
    # The same rows in the same shard give the same bytes.
    pd.testing.assert_frame_equal(classifier(model, tmp_path, texts)[1], whole)


def test_progress_is_told_and_wrong_hardware_refused(model: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    classifier(model, tmp_path, TEXTS, stream=stream)
    assert {event["event"] for event in events(stream)} == {"progress"}
    with pytest.raises(ConfigError, match=r"^precision is 'fp16', which CPUs"):
        classifier(model, tmp_path, TEXTS, precision="fp16")
