"""From raw rows to checked rows: ids, texts, label names and the hashes that splits and leak checks need."""

import hashlib
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tasks.data.columns import Column
from tasks.data.files import Batch, Part
from tasks.data.values import parser, unfit
from tasks.errors import DataError
from tasks.text import one_line

Check = Callable[[Mapping[str, Any]], tuple[str, str] | None]
"""A row by role -> the role whose value is wrong, and a clause that says why."""


@dataclass
class Index:
    """What is kept in memory of a split's rows: some 40 bytes each; lists of Python's numbers would take a few times as many."""

    labels: "array[int]" = field(default_factory=partial(array, "i"))
    """Positions in `names`, row after row."""
    label_counts: "array[int]" = field(default_factory=partial(array, "i"))
    """Labels per row: 1 for a class, any number for several, 0 where the kind has none."""
    targets: "array[int]" = field(default_factory=partial(array, "Q"))
    """8-byte hash of what is to be learnt, per row."""
    exact: "array[int]" = field(default_factory=partial(array, "Q"))
    """8-byte hash of the inputs as they are, per row."""
    folded: "array[int]" = field(default_factory=partial(array, "Q"))
    """8-byte hash of the inputs after case and space folding, per row."""
    groups: "array[int]" = field(default_factory=partial(array, "Q"))
    """8-byte hash of what rows stay together by, per row; empty if no column groups them, and so their inputs do, folded."""
    empty: "array[int]" = field(default_factory=partial(array, "b"))
    """Whether the first text is empty, per row."""
    words: "array[int]" = field(default_factory=partial(array, "i"))
    """Words of all texts, per row."""
    numeric: bool = True
    """Whether every text so far is a number."""
    complete: bool = True
    """Whether the source was read to its end."""

    def arrays(self, names: dict[str, int], order: list[str]) -> "Arrays":
        """Return the index as arrays, which share its memory; with labels numbered by `order`."""
        labels, folded = np.asarray(self.labels), np.asarray(self.folded)
        return Arrays(
            labels=renumbering(names, order)[labels] if names else labels,
            label_counts=np.asarray(self.label_counts),
            targets=np.asarray(self.targets),
            exact=np.asarray(self.exact),
            folded=folded,
            groups=np.asarray(self.groups) if self.groups else folded,
            empty=np.asarray(self.empty).view(bool),
            words=np.asarray(self.words),
        )


@dataclass(frozen=True)
class Arrays:
    """An `Index` as arrays, each of shape (rows,) but for that of the labels, row after row."""

    labels: np.ndarray[Any, np.dtype[np.int32]]
    label_counts: np.ndarray[Any, np.dtype[np.int32]]
    targets: np.ndarray[Any, np.dtype[np.uint64]]
    exact: np.ndarray[Any, np.dtype[np.uint64]]
    folded: np.ndarray[Any, np.dtype[np.uint64]]
    groups: np.ndarray[Any, np.dtype[np.uint64]]
    empty: np.ndarray[Any, np.dtype[np.bool_]]
    words: np.ndarray[Any, np.dtype[np.int32]]


def read_split(
    parts: list[Part],
    columns: tuple[Column, ...],
    id_column: str | None,
    names: dict[str, int],
    write: Callable[[Batch], None] = lambda batch: None,
    limit: int | None = None,
    check: Check | None = None,
) -> Index:
    """Read and check a split's rows; `names` (label name -> position) grows as new labels appear.

    Args:
        parts: The files or dataset splits that make up the split.
        columns: What the kind needs.
        id_column: Column with the rows' ids; None numbers them from 0 across the parts.
        names: Label names seen so far, shared by all splits.
        write: Called with each batch of checked rows: `id`, one list per role, `hash`.
        limit: Stop after so many rows and say so in `complete`.
        check: Says what else is wrong with a row.

    Raises:
        DataError: names the file, the row, the column, the value and the remedy.
    """
    index = Index()
    for part in parts:
        for checked in checked_batches(part, columns, id_column, check, first_position=len(index.empty)):
            _grow(index, checked, columns, names)
            write(checked)
            if limit is not None and len(index.empty) >= limit:
                index.complete = False
                return index
    _check_texts(parts[0].where, index, columns)
    return index


def checked_batches(
    part: Part,
    columns: tuple[Column, ...],
    id_column: str | None,
    check: Check | None = None,
    *,
    first_position: int = 0,
    id_setting: str = "data.id_column",
) -> Iterator[Batch]:
    """Read and check one part, batch by batch: `id` and one list per role.

    Args:
        part: A file or split.
        columns: What is read of it.
        id_column: Column with the rows' ids; None numbers them.
        check: Says what else is wrong with a row.
        first_position: The number of the first row where ids are numbers.
        id_setting: The setting that names the column of ids, for messages.

    Raises:
        DataError: names the file, the row, the column, the value and the remedy.
    """
    _check_columns(part, columns, id_column, id_setting)
    present = [column.name for column in columns if column.name in part.columns]
    wanted = list(dict.fromkeys(present + ([id_column] if id_column else [])))
    done = 0
    for batch in part.read(wanted):
        size, row = len(next(iter(batch.values()))), part.first_row + done
        nothing = [None] * size
        checked: Batch = {column.role: _parse(part, column, batch.get(column.name, nothing), row) for column in columns}
        if check is not None:
            _check_rows(part, columns, checked, row, check)
        checked["id"] = _ids(part, batch, (id_column, id_setting), row, first_position + done)
        yield checked
        done += size
    if not done:
        raise DataError(f"{part.where!r} has a header but no rows; check {part.setting}.")


def fold(text: str) -> str:
    """Fold case and spaces, so that texts that differ in these alone are equal."""
    return " ".join(text.casefold().split())


def hash64(text: str) -> int:
    """Return the first 8 bytes of the sha256 of `text`, as an unsigned integer."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _check_columns(part: Part, columns: tuple[Column, ...], id_column: str | None, id_setting: str) -> None:
    if not part.columns:
        raise DataError(f"{part.where!r} has neither columns nor rows; check {part.setting}.")
    needed = [(column.name, column.setting) for column in columns if not column.optional]
    needed += [(id_column, id_setting)] if id_column else []
    for name, setting in needed:
        if name not in part.columns:
            has = ", ".join(repr(column) for column in part.columns[:20]) or "none"
            spaced = next((column for column in part.columns if column.strip() == name.strip()), None)
            remedy = setting
            if spaced:
                remedy += f" to {spaced!r}, {'without' if spaced == spaced.strip() else 'with the'} space"
            raise DataError(f"Column {name!r} is not in {part.where!r}; it has {one_line(has)}. Set {remedy}.")


def _parse(part: Part, column: Column, values: list[Any], first_row: int) -> list[Any]:
    parse, names = parser(column.form, optional=column.optional), part.class_names.get(column.name, ())
    parsed = []
    for offset, value in enumerate(values):
        try:
            parsed.append(parse(value, names))
        except ValueError as error:
            raise _fault(part, column, first_row + offset, value, str(error)) from None
    return parsed


def _fault(part: Part, column: Column, row: int, value: Any, clause: str) -> DataError:
    return DataError(
        f"{part.where!r}, row {row}: column {column.name!r} is {one_line(repr(value), 80)}, {clause}; "
        f"mend the row or set {column.setting}."
    )


def _check_rows(part: Part, columns: tuple[Column, ...], batch: Batch, first_row: int, check: Check) -> None:
    for offset, values in enumerate(zip(*batch.values(), strict=True)):
        if found := check(dict(zip(batch, values, strict=True))):
            role, clause = found
            column = next(column for column in columns if column.role == role)
            raise _fault(part, column, first_row + offset, batch[role][offset], clause)


def _ids(part: Part, batch: Batch, column: tuple[str | None, str], row: int, position: int) -> list[str]:
    id_column, setting = column
    if id_column is None:
        return [str(position + offset) for offset in range(len(next(iter(batch.values()))))]
    for offset, value in enumerate(batch[id_column]):
        missing = value is None or isinstance(value, (list, dict)) or str(value).strip() == ""
        if fault := "so its id is missing" if missing else unfit(str(value)):
            raise DataError(
                f"{part.where!r}, row {row + offset}: column {id_column!r} is {one_line(repr(value), 80)}, {fault}; "
                f"mend the row or set {setting}."
            )
    return [str(value) for value in batch[id_column]]


def _grow(index: Index, batch: Batch, columns: tuple[Column, ...], names: dict[str, int]) -> None:
    """Add a batch to the index, and its label numbers and hashes to the batch."""
    inputs = [column.role for column in columns if column.is_input]
    texts = [column.role for column in columns if column.is_input and column.form == "text"]
    hashes = []
    for values in zip(*(batch[role] for role in inputs), strict=True):
        hashes.append(hash64("\x1f".join(fold(value) for value in values)))
        index.exact.append(hash64("\x1f".join(values)))
    for values in zip(*(batch[role] for role in texts), strict=True):
        index.empty.append(not values[0].strip())
        index.words.append(sum(len(text.split()) for text in values))
    index.folded.extend(hashes)
    if roles := [column.role for column in columns if column.groups]:
        index.groups.extend(_groups([batch[role] for role in roles], hashes))
    index.targets.extend(_targets(batch, columns))
    index.numeric = index.numeric and all(is_number(value) for value in batch[texts[0]] if value.strip())
    counts = [0] * len(hashes)
    for column in columns:
        if column.form in ("label", "labels"):
            given = [[value] if column.form == "label" else value for value in batch[column.role]]
            numbers = [[names.setdefault(name, len(names)) for name in row] for row in given]
            index.labels.extend(number for row in numbers for number in row)
            counts = [len(row) for row in numbers]
            batch[column.role] = [row[0] for row in numbers] if column.form == "label" else numbers
    index.label_counts.extend(counts)
    batch["hash"] = hashes


def _groups(columns: list[list[str]], hashes: list[int]) -> list[int]:
    """Return what rows stay together by: the hash of the first grouping column that is not empty, else of their inputs."""
    found = zip(hashes, *columns, strict=True)
    return [next((hash64(fold(value)) for value in values if value.strip()), own) for own, *values in found]


def _targets(batch: Batch, columns: tuple[Column, ...]) -> list[int]:
    roles = [column.role for column in columns if not column.is_input and not column.is_aside]
    if not roles:
        return [0] * len(batch["id"])
    return [hash64(repr(values)) for values in zip(*(batch[role] for role in roles), strict=True)]


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_texts(where: str, index: Index, columns: tuple[Column, ...]) -> None:
    text = next(column for column in columns if column.form == "text" and column.is_input)
    if all(index.empty):
        raise DataError(f"All texts of {where!r} are empty in column {text.name!r}. Set {text.setting}.")
    if index.numeric:
        raise DataError(f"Column {text.name!r} of {where!r} holds numbers only, not text. Set {text.setting}.")


def label_order(names: dict[str, int], declared: Sequence[str] = ()) -> list[str]:
    """Return the label names in the order of their class numbers.

    Names that the source declares keep its order, in which a model's own head may know them; of the others, numbers go by value
    and names by alphabet.
    """
    known = [name for name in declared if name in names]
    others = set(names).difference(known)
    integers = all(re.fullmatch(r"-?\d{1,18}", name) for name in others)
    return known + (sorted(others, key=int) if integers else sorted(others))


def renumbering(names: dict[str, int], order: list[str]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return the array that maps a number in `names` to the position of the same name in `order`."""
    positions = {name: position for position, name in enumerate(order)}
    return np.array([positions[name] for name in names], np.int32)
