"""The quickstart dataset: eight families of distinct, plain English texts, the same each time."""

import html
import re
from collections import Counter

import pytest
from botocore.loaders import Loader

from tasks.data.files import BATCH_ROWS
from tasks.data.quickstart.families import FAMILIES, families_part
from tasks.data.rows import fold

Row = tuple[str, str, str]


def read() -> list[Row]:
    batches = list(families_part().read(["text", "label", "operation"]))
    assert all(len(batch["text"]) == BATCH_ROWS for batch in batches[:-1])
    return [row for batch in batches for row in zip(batch["text"], batch["label"], batch["operation"], strict=True)]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return read()


def test_each_of_eight_families_has_about_four_hundred_rows(rows: list[Row]) -> None:
    counts = Counter(label for _, label, _ in rows)
    assert set(counts) == set(FAMILIES)
    assert len(counts) == 8
    assert all(300 <= count <= 400 for count in counts.values()), "another botocore may have a few operations less"


def test_no_text_occurs_twice_even_folded(rows: list[Row]) -> None:
    assert len({fold(text) for text, _, _ in rows}) == len(rows)
    assert len({operation for _, _, operation in rows}) == len(rows)


def test_texts_are_plain_and_of_six_words_or_more(rows: list[Row]) -> None:
    assert all(len(text.split()) >= 6 for text, _, _ in rows)
    markup = re.compile(r"</?(p|a|b|i|br|ul|ol|li|dl|dt|dd|code|note|important|fullname)\b[^>]*>|&(amp|lt|gt|quot|#\d+);")
    assert [text for text, _, _ in rows if markup.search(text)] == []
    assert all(text == " ".join(text.split()) for text, _, _ in rows)


def test_texts_are_those_of_botocore_without_gluing_words_together(rows: list[Row]) -> None:
    documents = {
        f"{service}.{name}": operation.get("documentation", "")
        for service in {operation.split(".")[0] for _, _, operation in rows}
        for name, operation in Loader().load_service_model(service, "service-2")["operations"].items()
    }
    for text, _, operation in rows:
        spaced = re.sub(r"<(p|li|br|ul|dd|dt)\b[^>]*>", " ", documents[operation])
        assert text == " ".join(html.unescape(re.sub(r"<[^>]*>", "", spaced)).split())


def test_a_service_is_in_one_family_and_labels_its_operations(rows: list[Row]) -> None:
    family_of = {service: family for family, services in FAMILIES.items() for service in services.split()}
    assert len(family_of) == sum(len(services.split()) for services in FAMILIES.values())
    assert all(family_of[operation.split(".")[0]] == label for _, label, operation in rows)


def test_rows_are_the_same_each_time_and_shuffled_over_families(rows: list[Row]) -> None:
    assert read() == rows
    assert len({label for _, label, _ in rows[:100]}) == 8
