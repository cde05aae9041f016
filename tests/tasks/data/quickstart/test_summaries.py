"""The quickstart dataset for summarization: distinct texts and their titles, the same each time."""

import pytest

from tasks.data.quickstart.summaries import ROWS, WORDS, summaries_part, title
from tasks.data.rows import fold


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, str]]:
    batches = summaries_part().read(["text", "summary", "operation"])
    return [row for batch in batches for row in zip(batch["text"], batch["summary"], batch["operation"], strict=True)]


def test_texts_are_many_distinct_and_of_the_wanted_length(rows: list[tuple[str, str, str]]) -> None:
    assert len(rows) == ROWS
    assert len({fold(text) for text, _, _ in rows}) == ROWS
    assert all(len(text.split()) in WORDS for text, _, _ in rows)


def test_titles_are_the_operations_names_in_words_and_mostly_unlike(rows: list[tuple[str, str, str]]) -> None:
    assert all(summary.replace(" ", "").lower() == operation.partition(".")[2].lower() for _, summary, operation in rows)
    assert len({summary for _, summary, _ in rows}) > 0.8 * ROWS
    assert sum(len(summary.split()) in range(2, 7) for _, summary, _ in rows) > 0.95 * ROWS


def test_rows_are_the_same_each_time(rows: list[tuple[str, str, str]]) -> None:
    assert next(iter(summaries_part().read(["operation"])))["operation"] == [operation for _, _, operation in rows[:1000]]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ListTagsForResource", "list tags for resource"),
        ("DescribeDBInstances", "describe DB instances"),
        ("GetEC2RecommendationProjectedMetrics", "get EC2 recommendation projected metrics"),
        ("ListACLs", "list ACLs"),
        ("CreateHITsV2", "create HITs V2"),
        ("DescribeVpcs", "describe vpcs"),
    ],
)
def test_titles(name: str, words: str) -> None:
    assert title(name) == words
