"""From raw rows to checked rows: texts, labels, ids, hashes, and the line that names a wrong value."""

import hashlib
import tracemalloc
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from tasks.data.columns import Column
from tasks.data.files import Batch, Part
from tasks.data.rows import Index, fold, hash64, label_order, read_split, renumbering
from tasks.errors import DataError

TEXT = Column("text", "sentence", "text", "data.text_column")
PAIR = Column("pair", "other", "text", "data.pair_column")
LABEL = Column("label", "topic", "label", "data.label_column")


def part(batch_rows: int = 2, class_names: tuple[str, ...] | None = None, **columns: list[Any]) -> Part:
    def read(wanted: list[str]) -> Iterator[Batch]:
        for start in range(0, len(next(iter(columns.values()))), batch_rows):
            yield {name: columns[name][start : start + batch_rows] for name in wanted}

    return Part("a.csv", tuple(columns), read, class_names={"topic": class_names} if class_names else {})


def labels_of(labels: list[Any], class_names: tuple[str, ...] | None = None) -> list[str]:
    """Return the names under which the rows' labels are kept."""
    names: dict[str, int] = {}
    index = read_split([part(sentence=["word"] * len(labels), topic=labels, class_names=class_names)], (TEXT, LABEL), None, names)
    return [list(names)[number] for number in index.labels]


def test_rows_are_written_batch_by_batch_with_roles_ids_labels_and_hashes() -> None:
    batches: list[Batch] = []
    names = {"market": 0}
    source = part(sentence=["A  b", "c", "d"], topic=["space", "market", "space"], unused=[1, 2, 3])
    index = read_split([source], (TEXT, LABEL), None, names, batches.append)
    assert [batch["text"] for batch in batches] == [["A  b", "c"], ["d"]]
    assert [batch["label"] for batch in batches] == [[1, 0], [1]]
    assert [batch["id"] for batch in batches] == [["0", "1"], ["2"]]
    assert [batch["hash"] for batch in batches] == [[hash64("a b"), hash64("c")], [hash64("d")]]
    assert names == {"market": 0, "space": 1}
    assert list(index.exact) == [hash64("A  b"), hash64("c"), hash64("d")]
    assert list(index.folded) == [hash64("a b"), hash64("c"), hash64("d")]
    assert list(index.words) == [2, 1, 1]
    assert index.complete


def test_positions_run_on_across_the_parts_of_a_split() -> None:
    batches: list[Batch] = []
    read_split([part(sentence=["a", "b", "c"]), part(sentence=["d", "e"])], (TEXT,), None, {}, batches.append)
    assert [number for batch in batches for number in batch["id"]] == ["0", "1", "2", "3", "4"]


def test_ids_are_kept_as_text_from_their_column() -> None:
    batches: list[Batch] = []
    read_split([part(sentence=["a", "b"], key=[7, "x"])], (TEXT,), "key", {}, batches.append)
    assert batches[0]["id"] == ["7", "x"]


def test_a_pair_counts_in_hashes_and_words_but_not_in_emptiness() -> None:
    index = read_split([part(sentence=["a b", "", "a bc"], other=["cd", "c", "d"])], (TEXT, PAIR), None, {})
    assert list(index.words) == [3, 1, 3]
    assert list(index.empty) == [False, True, False]
    assert len(set(index.folded)) == len(set(index.exact)) == 3, "where one text ends and the other begins must count"


def test_null_and_blank_texts_are_empty_rows() -> None:
    found = read_split([part(sentence=[None, "", " \n\t", "a"])], (TEXT,), None, {})
    assert list(found.empty) == [True, True, True, False]


def test_without_labels_there_are_none() -> None:
    arrays = read_split([part(sentence=["a", "b", "c"])], (TEXT,), None, {}).arrays({}, [])
    assert (arrays.labels.tolist(), arrays.label_counts.tolist()) == ([], [0, 0, 0])
    assert arrays.targets.tolist() == [0, 0, 0]


SEVERAL = Column("labels", "topics", "labels", "data.label_column")
AMOUNT = Column("amount", "price", "number", "data.amount_column")
ANSWERS = Column("answers", "found", "json", "data.answers_column", target=True)


def test_a_row_may_have_several_labels_or_none() -> None:
    batches: list[Batch] = []
    names: dict[str, int] = {}
    given = [["space", "sport"], [], ["sport", " sport", "market"]]
    index = read_split([part(sentence=["a", "b", "c"], topics=given)], (TEXT, SEVERAL), None, names, batches.append)
    assert [row for batch in batches for row in batch["labels"]] == [[0, 1], [], [1, 2]]
    assert list(index.label_counts) == [2, 0, 2]
    arrays = index.arrays(names, ["market", "space", "sport"])
    assert (arrays.labels.tolist(), arrays.label_counts.tolist()) == ([1, 2, 2, 0], [2, 0, 2])


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (SEVERAL, "space;sport", "'space;sport', which is str, not a list of labels"),
        (SEVERAL, ["a", None], r"\['a', None\], so its label is missing"),
        (AMOUNT, None, "None, so its number is missing"),
        (AMOUNT, "much", "'much', which is not a number"),
        (AMOUNT, "inf", "'inf', which is not a finite number"),
        (ANSWERS, None, "None, so it is missing"),
        (ANSWERS, {"text": "a\ud800"}, "which holds half a surrogate pair"),
        (ANSWERS, {"at": b"a"}, "which JSON cannot say"),
    ],
)
def test_a_wrong_value_of_another_form_is_named(column: Column, value: Any, reason: str) -> None:
    source = part(sentence=["a", "b"], **{column.name: [{"labels": [], "number": 1, "json": {}}[column.form], value]})
    with pytest.raises(DataError, match=rf"'a\.csv', row 2: column '{column.name}' is .*{reason}; mend the row or set data\."):
        read_split([source], (TEXT, column), None, {})


def test_numbers_and_json_are_kept_as_such() -> None:
    batches: list[Batch] = []
    source = part(sentence=["a", "b"], price=["1.5", 2], found=[{"text": ["é"]}, []])
    read_split([source], (TEXT, AMOUNT, ANSWERS), None, {}, batches.append)
    assert batches[0]["amount"] == [1.5, 2.0]
    assert batches[0]["answers"] == ['{"text": ["é"]}', "[]"]


def test_what_is_to_be_learnt_is_no_part_of_what_makes_rows_the_same() -> None:
    index = read_split([part(sentence=["a", "a", "a"], found=[1, 2, 1])], (TEXT, ANSWERS), None, {})
    assert len(set(index.folded)) == 1
    assert index.targets[0] == index.targets[2] != index.targets[1]


def test_an_optional_column_may_lack_or_hold_nulls() -> None:
    title = Column("title", "title", "text", "data.title_column", optional=True)
    extra = Column("extra", "extra", "json", "data.extra_column", optional=True)
    for columns in ({}, {"title": [None, None], "extra": [None, None]}):
        batches: list[Batch] = []
        read_split([part(sentence=["a", "b"], **columns)], (TEXT, title, extra), None, {}, batches.append)
        assert (batches[0]["title"], batches[0]["extra"]) == (["", ""], ["null", "null"])


def test_rows_are_grouped_by_the_first_column_that_is_not_empty() -> None:
    title = Column("title", "title", "text", "data.title_column", optional=True, groups=True)
    context = Column("context", "context", "text", "data.context_column", groups=True)
    source = part(sentence=["a", "b", "c", "d"], title=["T", "t", "", None], context=["x", "y", "z", "Z"])
    index = read_split([source], (TEXT, title, context), None, {})
    assert index.groups[0] == index.groups[1] != index.groups[2] == index.groups[3]
    alone = read_split([source], (TEXT,), None, {})
    assert np.array_equal(alone.arrays({}, []).groups, alone.folded)


def test_a_row_may_be_refused_by_more_than_its_form() -> None:
    def check(row: Mapping[str, Any]) -> tuple[str, str] | None:
        return ("label", "which is not in its text") if row["label"] not in row["text"] else None

    with pytest.raises(
        DataError, match=r"'a\.csv', row 3: column 'topic' is 'c', which is not in its text; mend the row or set data\."
    ):
        read_split([part(sentence=["a a", "b", "d"], topic=["a", "b", "c"])], (TEXT, LABEL), None, {}, check=check)


def test_reading_stops_at_the_limit_and_says_so() -> None:
    index = read_split([part(sentence=["a", "b", "c", "d", 5])], (TEXT,), None, {}, limit=3)
    assert (len(index.folded), index.complete) == (4, False)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["sport", " space "], ["sport", "space"]),
        ([1, "1", 1.0, -3], ["1", "1", "1", "-3"]),
        (["1.5", "01"], ["1.5", "01"]),
        ([True, False], ["True", "False"]),
    ],
)
def test_labels_are_names_or_whole_numbers(labels: list[Any], expected: list[str]) -> None:
    assert labels_of(labels) == expected


def test_numbers_of_known_classes_become_their_names() -> None:
    assert labels_of([1, 0, 1], ("negative", "positive")) == ["positive", "negative", "positive"]


@pytest.mark.parametrize(
    ("label", "names", "reason"),
    [
        (None, None, "None, so its label is missing"),
        ("  ", None, "' ', so its label is missing"),
        (float("nan"), None, "nan, so its label is missing"),
        (-1, ("no", "yes"), "-1, so its label is missing"),
        (2, ("no", "yes"), "2, but classes are numbered 0 to 1"),
        (0.5, None, "0.5, which is float, not a class's name or number"),
        (float("inf"), None, "inf, which is float"),
        (["a"], None, r"\['a'\], which is list"),
        ("a\0", None, r"'a\\x00', which holds a NUL byte"),
        ("\udc00", None, r"'\\udc00', which holds half a surrogate pair"),
    ],
)
def test_a_wrong_label_is_named_with_row_column_value_and_remedy(label: Any, names: tuple[str, ...] | None, reason: str) -> None:
    with pytest.raises(
        DataError, match=rf"'a\.csv', row 3: column 'topic' is ({reason}).*; mend the row or set data.label_column"
    ):
        labels_of([0, 1, label], names)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (5, "5, which is int, not text"),
        (["a"], r"\['a'\], which is list, not text"),
        (b"a", "b'a', which is bytes, not text"),
        ("a\0b", "which holds a NUL byte"),
        ("a\ud800", "which holds half a surrogate pair"),
    ],
)
def test_a_wrong_text_is_named_with_row_column_value_and_remedy(text: Any, reason: str) -> None:
    with pytest.raises(
        DataError, match=rf"'a\.csv', row 4: column 'sentence' is .*{reason}; mend the row or set data.text_column"
    ):
        read_split([part(sentence=["a", "b", "c", text])], (TEXT,), None, {})


@pytest.mark.parametrize("key", [None, " ", ["a"], "\ud800"])
def test_a_wrong_id_is_named_with_its_row(key: Any) -> None:
    with pytest.raises(DataError, match=r"'a\.csv', row 3: column 'key' is .*; mend the row or set data\.id_column"):
        read_split([part(sentence=["a", "b", "c"], key=["x", "y", key])], (TEXT,), "key", {})


def test_a_long_wrong_value_is_shortened_to_one_line() -> None:
    with pytest.raises(DataError) as caught:
        read_split([part(sentence=[["a\nb" * 1000]])], (TEXT,), None, {})
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "id_column", "message"),
    [
        (
            {"txt": ["a"], "topic": ["b"]},
            None,
            "Column 'sentence' is not in 'a.csv'; it has 'txt', 'topic'. Set data.text_column.",
        ),
        (
            {"sentence": ["a"], " topic": ["b"]},
            None,
            "Column 'topic' is not in 'a.csv'; it has 'sentence', ' topic'. Set data.label_column to ' topic', with the space.",
        ),
        (
            {"sentence": ["a"], "topic": ["b"], "key": [1]},
            "key ",
            "Column 'key ' is not in 'a.csv'; it has 'sentence', 'topic', 'key'. Set data.id_column to 'key', without space.",
        ),
        ({"sentence": ["a"]}, None, "Column 'topic' is not in 'a.csv'; it has 'sentence'. Set data.label_column."),
        (
            {"sentence": ["a"], "topic": ["b"]},
            "key",
            "Column 'key' is not in 'a.csv'; it has 'sentence', 'topic'. Set data.id_column.",
        ),
        ({"sentence": [], "topic": []}, None, "'a.csv' has a header but no rows; check data.source."),
        (
            {"sentence": ["", " "], "topic": ["b", "c"]},
            None,
            "All texts of 'a.csv' are empty in column 'sentence'. Set data.text_column.",
        ),
        (
            {"sentence": ["1", "2.5e3", "", " "], "topic": ["b"] * 4},
            None,
            "Column 'sentence' of 'a.csv' holds numbers only, not text. Set data.text_column.",
        ),
    ],
)
def test_an_unfit_source_is_refused_in_one_line(columns: dict[str, list[Any]], id_column: str | None, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_split([part(**columns)], (TEXT, LABEL), id_column, {})
    assert str(caught.value) == message


def test_a_source_without_columns_is_refused() -> None:
    with pytest.raises(DataError, match=r"'a\.json' has neither columns nor rows; check data\.source"):
        read_split([Part("a.json", (), lambda wanted: iter([]))], (TEXT,), None, {})


def test_a_part_without_rows_is_refused_beside_one_that_has_some() -> None:
    with pytest.raises(DataError, match="has a header but no rows"):
        read_split([part(sentence=["a"]), part(sentence=[])], (TEXT,), None, {})


def test_one_text_that_is_no_number_makes_the_column_text() -> None:
    assert len(read_split([part(sentence=["1", "2", "three"])], (TEXT,), None, {}).folded) == 3


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("A  b", "a b"),
        ("\ta\u00a0B\r\n", "a b"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
        (" ", ""),
    ],
)
def test_folding_makes_case_and_spaces_equal(text: str, folded: str) -> None:
    assert fold(text) == folded


@pytest.mark.parametrize("text", ["", "abc", "é😀", "\ud800"])
def test_a_hash_is_the_first_eight_bytes_of_sha256(text: str) -> None:
    assert f"{hash64(text):016x}" == hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "-1", "0"], ["-1", "0", "9", "10"]),
        (["b", "a", "C"], ["C", "a", "b"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["3", "²"], ["3", "²"]),
        (["--1", "5"], ["--1", "5"]),
        (["9" * 5000, "1"], ["1", "9" * 5000]),
        ([], []),
    ],
)
def test_labels_are_ordered_by_value_if_all_are_numbers_else_by_name(names: list[str], order: list[str]) -> None:
    assert label_order({name: number for number, name in enumerate(names)}) == order


def test_what_is_kept_of_a_row_is_a_few_numbers() -> None:
    def read(wanted: list[str]) -> Iterator[Batch]:
        for start in range(0, 50_000, 100):
            texts = [f"a text of its own, {number}" for number in range(start, start + 100)]
            yield {"sentence": texts, "topic": ["sport", "space"] * 50}

    tracemalloc.start()
    index = read_split([Part("a.csv", ("sentence", "topic"), read)], (TEXT, LABEL), None, names := {})
    arrays = index.arrays(names, ["space", "sport"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(arrays.folded) == 50_000
    assert peak < 60 * 50_000, "lists of Python's numbers would take three times that"


def test_labels_are_renumbered_from_first_seen_to_final_order() -> None:
    names = {"sport": 0, "market": 1, "space": 2}
    assert renumbering(names, ["market", "space", "sport"]).tolist() == [2, 0, 1]
    index = Index(
        labels=array("i", [0, 2, 1, 0]),
        label_counts=array("i", [1, 1, 1, 1]),
        targets=array("Q", [8, 8, 9, 9]),
        exact=array("Q", [1, 2, 3, 4]),
        folded=array("Q", [5, 6, 7, 2**64 - 1]),
        groups=array("Q", [5, 5, 6, 6]),
        empty=array("b", [False, True, False, False]),
        words=array("i", [3, 0, 2, 1]),
    )
    arrays = index.arrays(names, ["market", "space", "sport"])
    assert arrays.labels.tolist() == [2, 1, 0, 2]
    assert arrays.folded.tolist() == [5, 6, 7, 2**64 - 1]
    assert arrays.folded.dtype == np.uint64
    assert arrays.groups.tolist() == [5, 5, 6, 6]
    assert arrays.empty.dtype == bool
    assert arrays.empty.tolist() == [False, True, False, False]
    assert (arrays.exact.tolist(), arrays.words.tolist()) == ([1, 2, 3, 4], [3, 0, 2, 1])


def test_labels_that_the_source_declares_keep_its_order() -> None:
    assert label_order({"Business": 0, "World": 1, "new": 2}, ("World", "Sports", "Business")) == ["World", "Business", "new"]
