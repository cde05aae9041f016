"""Tests of question answering: its rows, its windows from end to end, its threshold, its models and what it shows."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerFast, ViTConfig

from tasks.data.files import open_file
from tasks.data.rows import read_split
from tasks.errors import DataError, ModelError
from tasks.kinds.question_answering import KIND, QuestionAnswering, QuestionAnsweringConfig
from tests.helpers import TOPICS, make_decoder, make_encoder

LOADING = {"trained": False, "allow_pickle": False, "remote_code": False}


def kind(**settings: Any) -> QuestionAnswering:
    return KIND(QuestionAnsweringConfig.model_validate(settings))


def answers(context: str, *texts: str) -> str:
    return json.dumps({"text": list(texts), "answer_start": [context.index(text) for text in texts]})


def dataset(*rows: tuple[str, str, list[str]]) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            {"id": str(number), "question": question, "context": context, "answers": answers(context, *texts)}
            for number, (question, context, texts) in enumerate(rows)
        ]
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(make_encoder(tmp_path_factory.mktemp("tokenizer")))


def pointer(tokenizer: Any, word: str, null: float = 0.0) -> Any:
    """A model that takes each `word` for an answer, and thinks so much of there being none."""
    number = tokenizer.convert_tokens_to_ids(word)

    def model(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        logits = (input_ids == number).float() * 5 + (input_ids == tokenizer.cls_token_id).float() * null
        return SimpleNamespace(start_logits=logits, end_logits=logits)

    return model


def predictions(kind: QuestionAnswering, tokenizer: Any, rows: datasets.Dataset, model: Any) -> dict[str, np.ndarray]:
    """Take rows through the kind's functions as the compute process does, in batches of two."""
    encoded = kind.encode(tokenizer, rows[:], train=False)
    features = datasets.Dataset.from_dict({**encoded.features, "row": encoded.rows})
    collate = kind.collator(tokenizer, train=False)
    listed = features.remove_columns("row").to_list()
    outputs = [kind.predict(model, tokenizer, collate(listed[start : start + 2])) for start in range(0, len(listed), 2)]
    return dict(kind.gather(np.concatenate(outputs), features, rows))


# The dataset


def test_articles_stay_on_one_side_and_contexts_where_there_is_no_title() -> None:
    columns = {column.role: column for column in kind().columns()}
    assert [role for role, column in columns.items() if column.groups] == ["title", "context"]
    assert [role for role, column in columns.items() if column.is_input] == ["question", "context"]
    assert columns["title"].optional


def test_columns_must_differ() -> None:
    with pytest.raises(ValidationError, match="must be different columns"):
        QuestionAnsweringConfig.model_validate({"data": {"question_column": "context"}})


@pytest.mark.parametrize(
    ("context", "given", "message"),
    [
        (
            "rain falls",
            {"text": ["snow"], "answer_start": [0]},
            r"row 2: column 'answers' is .*, but 'snow' is not in",
        ),
        ("rain falls", {"text": ["falls"], "answer_start": [4]}, r"row 2: .* has ' fall' at character 4, and 'falls' at 5"),
        ("rain falls", "falls", r"row 2: column 'answers' is .*, which is not of the form .*set data\.answers_column"),
        (" ", {"text": [], "answer_start": []}, r"row 2: column 'context' is ' ', so there is nothing to answer from"),
    ],
)
def test_a_wrong_row_is_refused_in_one_line(tmp_path: Path, context: str, given: Any, message: str) -> None:
    good = {"question": "What?", "context": "It rains.", "answers": {"text": ["rains"], "answer_start": [3]}}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([good, {"question": "Why?", "context": context, "answers": given}]), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_split([open_file(path)], kind().columns(), None, {}, check=kind().fault)
    assert "\n" not in str(caught.value)


def test_nested_files_and_flat_ones_give_the_same_rows(tmp_path: Path) -> None:
    answer = {"text": "rains", "answer_start": 3}
    paragraph = {"context": "It rains.", "qas": [{"id": "q1", "question": "What?", "answers": [answer]}]}
    flat = {"id": "q1", "title": "Rain", "context": "It rains.", "question": "What?", "answers": [answer]}
    found = []
    for name, content in (
        ("nested", {"version": "1.1", "data": [{"title": "Rain", "paragraphs": [paragraph]}]}),
        ("flat", [flat]),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        read_split([kind().adapt(open_file(path))], kind().columns(), "id", {}, found.append, check=kind().fault)
    assert found[0] == found[1]
    assert found[0]["id"] == ["q1"]


# From rows to answers

LONG = " ".join(["said"] * 50 + ["goal"] + ["said"] * 50)


def test_an_answer_is_found_in_whichever_window_it_is(tokenizer: Any) -> None:
    rows = dataset(
        ("team of the match", "the goal", ["goal"]), ("after the match", LONG, ["goal"]), ("in", "the coach", ["coach"])
    )
    model = kind(training={"max_length": 32}, answers={"stride": 8})
    found = model.decide(predictions(model, tokenizer, rows, pointer(tokenizer, "goal")), {})
    table = model.table(found, rows[:])
    assert table["prediction"].to_pylist()[:2] == ["goal", "goal"]
    assert table["start"].to_pylist()[1] == LONG.index("goal")
    for prediction, context in zip(table["prediction"].to_pylist(), rows["context"][:], strict=True):
        assert prediction
        assert prediction in context
    assert model.row_scores(found, rows[:]).tolist()[:2] == [1, 1]


def test_training_windows_have_the_answers_tokens(tokenizer: Any) -> None:
    model = kind(training={"max_length": 32}, answers={"stride": 8})
    rows = dataset(("after the match", LONG, ["goal"]), ("in the team", "said the coach", []))
    encoded = model.encode(tokenizer, rows[:], train=True)
    places = list(
        zip(encoded.features["input_ids"], encoded.features["start_positions"], encoded.features["end_positions"], strict=True)
    )
    texts = [tokenizer.decode(ids[start : end + 1]) for ids, start, end in places]
    assert set(texts) == {"goal", "[CLS]"}
    assert [("goal" in tokenizer.decode(ids)) for ids, *_ in places] == [text == "goal" for text in texts]
    assert encoded.rows is not None
    assert encoded.rows.count(1) == 1
    assert encoded.truncated == [False, False]


def test_a_row_whose_answer_no_window_holds_is_not_learnt_from(tokenizer: Any) -> None:
    model = kind(training={"max_length": 32})
    encoded = model.encode(tokenizer, dataset(("in", LONG, [LONG]), ("in", "the goal", ["goal"]))[:], train=True)
    assert encoded.truncated == [True, False]
    assert encoded.rows == [1]


def test_a_question_as_long_as_a_window_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"Row '0': its question, .* raise training\.max_length or shorten the question"):
        kind(training={"max_length": 32}).encode(tokenizer, dataset((LONG, "the goal", ["goal"]))[:], train=False)


def test_no_more_tokens_than_set_are_an_answer(tokenizer: Any) -> None:
    rows = dataset(("in the match", "goal said goal", ["goal"]))
    found = predictions(kind(answers={"max_tokens": 2}), tokenizer, rows, pointer(tokenizer, "goal"))
    assert {int(end - start) for start, end, _ in found["spans"][0] if start >= 0} == {len("goal"), len("said"), len("goal said")}


# No answer


def test_the_threshold_is_chosen_by_f1_and_applied(tokenizer: Any) -> None:
    # A good answer scores 10 and a bad one 0; there being none scores 2.
    rows = dataset(
        ("in", "the goal", ["goal"]), ("in", "the team", []), ("in", "goal with team", ["goal"]), ("in", "the coach", [])
    )
    model = kind()
    found = predictions(model, tokenizer, rows, pointer(tokenizer, "goal", null=1))
    calibration = model.calibrate(found, rows)
    assert -8 < calibration["no_answer_threshold"] < 2
    decided = model.decide(found, calibration)
    assert model.table(decided, rows[:])["prediction"].to_pylist() == ["goal", "", "goal", ""]
    metrics = model.metrics(model.statistics(decided, rows[:]).sum(0))
    assert metrics == {name: 1.0 for sort in ("", "_has_answer", "_no_answer") for name in (f"f1{sort}", f"exact_match{sort}")}


def test_where_every_question_has_an_answer_one_is_always_given(tokenizer: Any) -> None:
    rows = dataset(("in", "the goal", ["goal"]))
    model = kind()
    found = predictions(model, tokenizer, rows, pointer(tokenizer, "goal", null=1000))
    assert model.calibrate(found, rows) == {}
    decided = model.decide(found, {})
    assert model.metrics(model.statistics(decided, rows[:]).sum(0)) == {"f1": 1, "exact_match": 1}


# Models


def test_a_body_gets_a_fresh_head_and_a_trained_model_keeps_its_own(tmp_path: Path) -> None:
    body = make_encoder(tmp_path / "body")
    model, head = kind().load_model(body, **LOADING)
    assert head == "fresh"
    model.save_pretrained(tmp_path / "trained")
    again, head = kind().load_model(tmp_path / "trained", **LOADING)
    assert head == "pretrained"
    assert all(torch.equal(old, new) for old, new in zip(model.parameters(), again.parameters(), strict=True))
    assert kind().load_model(tmp_path / "trained", **{**LOADING, "trained": True})[1] == "trained"
    with pytest.raises(ModelError, match="lacks trained weights"):
        kind().load_model(body, **{**LOADING, "trained": True})


def test_a_classifiers_body_can_be_used_however_many_classes_it_has(tmp_path: Path) -> None:
    model, head = kind().load_model(make_encoder(tmp_path, labels=list(TOPICS)), **LOADING)
    assert head == "fresh"
    assert model.config.num_labels == 2


def test_a_decoder_answers_too(tmp_path: Path) -> None:
    decoder = make_decoder(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(decoder)
    tokenizer.pad_token = tokenizer.eos_token
    model, head = kind().load_model(decoder, **LOADING)
    assert head == "fresh"
    rows = dataset(("in the match", "the goal of the team", ["goal"]), ("after", "the coach", []))
    with torch.inference_mode():
        found = kind().decide(predictions(kind(training={"max_length": 32}), tokenizer, rows, model.eval()), {})
    given = kind().table(found, rows[:])["prediction"].to_pylist()
    assert all(given)
    assert all(text in context for text, context in zip(given, rows["context"][:], strict=True))


def test_a_type_of_model_without_question_answering_is_refused_in_one_line(tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is of type 'vit', for which transformers has no question answering; set model\.name"):
        kind().load_model(tmp_path, **LOADING)


def test_the_model_cards_lines_find_an_answer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForQuestionAnswering.from_pretrained(make_encoder(tmp_path)).save_pretrained(tmp_path)
    names: dict[str, Any] = {}
    exec(kind().usage.replace("path/to/this/folder", str(tmp_path)), names)
    assert names["answer"]
    assert names["answer"] in names["context"]


# The report


def test_the_question_and_the_context_around_the_answer_are_shown() -> None:
    context = "x" * 500 + " goal " + "y" * 500
    texts, expected = kind().shown_row({"question": "What?", "context": context, "answers": answers(context, "goal", "goal")})
    assert texts[0] == "What?"
    assert texts[1] == "…" + context[301:705] + "…"
    assert expected == "goal"


def test_no_answer_is_shown_as_such() -> None:
    texts, expected = kind().shown_row({"question": "What?", "context": "rain falls", "answers": answers("", *[])})
    assert (texts, expected) == (["What?", "rain falls"], "(no answer)")
    assert kind().shown_prediction({"prediction": "", "probability": 0.25}) == "(no answer) (0.25)"
    assert kind().shown_prediction({"prediction": "rain", "probability": 0.5}) == "rain (0.50)"
