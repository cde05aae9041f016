"""The forms of SQuAD: articles are made flat, answers are read in each form, and wrong ones are said to be wrong in a line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.data.files import Part, open_file
from tasks.data.squad import answer_fault, first_answer, flattened, parse_answers, texts_of
from tasks.errors import DataError

NAMES = {name: name for name in ("id", "title", "context", "question", "answers")}
ARTICLES = [
    {
        "title": "Denver",
        "paragraphs": [
            {
                "context": "The Broncos won 24–10.",
                "qas": [
                    {"id": "1", "question": "Who won?", "answers": [{"text": "Broncos", "answer_start": 4}]},
                    {
                        **{"id": "2", "question": "Who lost?", "answers": [], "is_impossible": True},
                        "plausible_answers": [{"text": "Broncos", "answer_start": 4}],
                    },
                ],
            },
            {"context": "It rained.", "qas": []},
        ],
    },
    {
        "title": "Rain",
        "paragraphs": [
            {
                "context": "Rain 🌧 falls.",
                "qas": [{"id": "3", "question": "What?", "answers": [{"text": "falls", "answer_start": 7}]}],
            }
        ],
    },
]


def write(path: Path, content: Any) -> Part:
    path.write_text(json.dumps(content), encoding="utf-8")
    return open_file(path)


def rows(part: Part) -> list[dict[str, Any]]:
    batches = part.read(list(part.columns))
    return [dict(zip(batch, values, strict=True)) for batch in batches for values in zip(*batch.values(), strict=True)]


def test_articles_are_made_flat(tmp_path: Path) -> None:
    part = flattened(write(tmp_path / "squad.json", {"version": "v2.0", "data": ARTICLES}), NAMES)
    found = rows(part)
    assert [(row["id"], row["title"], row["question"]) for row in found] == [
        ("1", "Denver", "Who won?"),
        ("2", "Denver", "Who lost?"),
        ("3", "Rain", "What?"),
    ]
    assert [row["context"] for row in found] == ["The Broncos won 24–10."] * 2 + ["Rain 🌧 falls."]
    # What an annotator found plausible is no answer.
    assert [texts_of(json.dumps(row["answers"])) for row in found] == [["Broncos"], [], ["falls"]]


def test_columns_go_by_the_names_of_the_settings(tmp_path: Path) -> None:
    names = {**NAMES, "question": "ask", "context": "passage"}
    part = flattened(write(tmp_path / "squad.json", ARTICLES), names)
    assert part.columns == ("id", "title", "passage", "ask", "answers")
    (batch,) = part.read(["ask", "passage"])
    assert batch == {"ask": ["Who won?", "Who lost?", "What?"], "passage": [row["passage"] for row in rows(part)]}


def test_flat_files_stay_as_they_are(tmp_path: Path) -> None:
    part = write(
        tmp_path / "flat.json", [{"question": "Who?", "context": "He.", "answers": {"text": ["He"], "answer_start": [0]}}]
    )
    assert flattened(part, NAMES) is part


@pytest.mark.parametrize(
    ("article", "message"),
    [
        ({"title": "x", "paragraphs": "none"}, r"article 3: its 'paragraphs' is 'none', not a list of objects"),
        ({"title": "x", "paragraphs": [{"context": "He."}]}, r"article 3: its 'qas' is None, not a list of objects"),
        ({"title": "x", "paragraphs": [{"context": "He.", "qas": ["Who?"]}]}, r"article 3: its 'qas' is \['Who\?'\], not a list"),
    ],
)
def test_a_damaged_article_is_named(tmp_path: Path, article: dict[str, Any], message: str) -> None:
    part = flattened(write(tmp_path / "squad.json", [*ARTICLES, article]), NAMES)
    with pytest.raises(DataError, match=message):
        rows(part)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": ["a", "b"], "answer_start": [1, 2]}, [("a", 1), ("b", 2)]),
        ({"text": [], "answer_start": []}, []),
        ({"text": "a", "answer_start": 1}, [("a", 1)]),
        ([{"text": "a", "answer_start": 1, "answer_id": 7}, {"text": "b", "answer_start": 2}], [("a", 1), ("b", 2)]),
        ([], []),
        ('{"text": ["a"], "answer_start": [1]}', [("a", 1)]),  # a field of a CSV file
    ],
)
def test_answers_are_read_in_each_form(value: Any, expected: list[tuple[str, int]]) -> None:
    assert parse_answers(json.dumps(value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        *("Broncos", 7, {}, {"text": ["a"]}, ["a"], {"text": ["a"], "answer_start": ["1"]}),
        *({"text": [1], "answer_start": [1]}, {"text": ["a"], "answer_start": [True]}, {"text": None, "answer_start": []}),
    ],
)
def test_answers_of_no_known_form_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        parse_answers(json.dumps(value))


def test_texts_and_starts_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="2 texts but 1 starts"):
        parse_answers('{"text": ["a", "b"], "answer_start": [1]}')


CONTEXT = "Rain 🌧 falls. Rain falls."


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (("falls", 7), None),
        (("🌧", 5), None),
        # Counted in UTF-16, as Java and JavaScript do, places after an emoji are one too far.
        (("falls", 8), "but its context has 'alls.' at character 8, and 'falls' at 7"),
        (("falls", 17), "but its context has 'n fal' at character 17, and 'falls' at 19"),
        (("Rain", -1), "but its context has '' at character -1, and 'Rain' at 0"),
        (("falls", 999), "but its context has '' at character 999, and 'falls' at 19"),
        (("snow", 0), "but 'snow' is not in its context"),
        (("rain", 0), "but 'rain' is not in its context"),
        (("", 0), "where the text '' is empty"),
        ((" ", 4), "where the text ' ' is empty"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(answer: tuple[str, int], fault: str | None) -> None:
    assert answer_fault(answer, CONTEXT) == fault


def test_the_first_answer_is_learnt_without_spaces_around_it() -> None:
    answers = {"text": [" falls ", "Rain"], "answer_start": [6, 0]}
    start, end = first_answer(json.dumps(answers)) or (0, 0)
    assert CONTEXT[start:end] == "falls"
    assert first_answer('{"text": [], "answer_start": []}') is None
