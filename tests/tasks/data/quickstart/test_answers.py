"""The quickstart dataset of question answering: answers stand where they are said to, and some questions have none."""

from collections import Counter
from typing import Any

import pytest

from tasks.data.quickstart.answers import answers_part


def read() -> list[dict[str, Any]]:
    part = answers_part()
    batches = part.read(list(part.columns))
    return [dict(zip(batch, values, strict=True)) for batch in batches for values in zip(*batch.values(), strict=True)]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return read()


def test_there_are_some_thousand_rows_of_some_hundred_contexts(rows: list[dict[str, Any]]) -> None:
    assert 1000 <= len(rows) <= 2000
    assert len({row["context"] for row in rows}) > 300
    assert len({row["id"] for row in rows}) == len(rows)


def test_answers_stand_where_they_are_said_to(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert text
            assert row["context"][start : start + len(text)] == text


def test_some_questions_ask_for_what_the_context_lacks(rows: list[dict[str, Any]]) -> None:
    counts = Counter(len(row["answers"]["text"]) for row in rows)
    assert set(counts) == {0, 1}
    assert 0.1 < counts[0] / len(rows) < 0.2
    for row in rows:
        name = row["question"].split(" stand for")[0].removeprefix("What does ")
        name = name.split(" parameter of")[0].split(" the ")[-1]
        assert (name.lower() in row["context"].lower()) == bool(row["answers"]["text"])


def test_answers_to_what_a_parameter_is_follow_its_name(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["question"].startswith("What") and row["answers"]["text"]:
            before = row["context"][: row["answers"]["answer_start"][0]]
            assert before.split()[-2] in row["question"]


def test_rows_are_the_same_each_time_and_shuffled(rows: list[dict[str, Any]]) -> None:
    assert read() == rows
    assert len({row["title"].split(".")[0] for row in rows[:60]}) > 10
