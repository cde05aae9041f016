"""From raw rows to checked rows: ids, texts, label names and the hashes that splits and leak checks need."""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tasks.data.files import Batch, Part
from tasks.errors import DataError
from tasks.text import one_line


@dataclass(frozen=True)
class Column:
    """A column that a kind of task needs."""

    role: str
    """Its name in the dataset that the steps share, e.g. `text`."""
    name: str
    """Its name in the source, from the config."""
    form: Literal["text", "label"]
    setting: str
    """The setting that names it, for messages."""


@dataclass
class Index:
    """What is kept in memory of a split's rows: a few numbers a row."""

    labels: list[int] = field(default_factory=list)
    """Position in `names` per row; -1 where the kind has no label."""
    exact: list[int] = field(default_factory=list)
    """8-byte hash of the texts as they are, per row."""
    folded: list[int] = field(default_factory=list)
    """8-byte hash of the texts after case and space folding, per row."""
    empty: list[bool] = field(default_factory=list)
    """Whether the first text is empty, per row."""
    words: list[int] = field(default_factory=list)
    """Words of all texts, per row."""
    numeric: bool = True
    """Whether every text so far is a number."""
    complete: bool = True
    """Whether the source was read to its end."""

    def arrays(self, names: dict[str, int], order: list[str]) -> "Arrays":
        """Return the index as arrays of shape (rows,), with labels numbered by `order`."""
        labels = np.array(self.labels, np.int32)
        return Arrays(
            renumbering(names, order)[labels] if names else labels,
            np.array(self.exact, np.uint64),
            np.array(self.folded, np.uint64),
            np.array(self.empty, bool),
            np.array(self.words, np.int32),
        )


@dataclass(frozen=True)
class Arrays:
    """An `Index` as arrays, each of shape (rows,)."""

    labels: np.ndarray[Any, np.dtype[np.int32]]
    exact: np.ndarray[Any, np.dtype[np.uint64]]
    folded: np.ndarray[Any, np.dtype[np.uint64]]
    empty: np.ndarray[Any, np.dtype[np.bool_]]
    words: np.ndarray[Any, np.dtype[np.int32]]


def read_split(
    parts: list[Part],
    columns: tuple[Column, ...],
    id_column: str | None,
    names: dict[str, int],
    write: Callable[[Batch], None] = lambda batch: None,
    limit: int | None = None,
) -> Index:
    """Read and check a split's rows; `names` (label name -> position) grows as new labels appear.

    Args:
        parts: The files or dataset splits that make up the split.
        columns: What the kind needs.
        id_column: Column with the rows' ids; None numbers them from 0 across the parts.
        names: Label names seen so far, shared by all splits.
        write: Called with each batch of checked rows: `id`, one list per role, `label_name`, `hash`.
        limit: Stop after so many rows and say so in `complete`.

    Raises:
        DataError: names the file, the row, the column, the value and the remedy.
    """
    index = Index()
    for part in parts:
        _check_columns(part, columns, id_column)
        wanted = list(dict.fromkeys([column.name for column in columns] + ([id_column] if id_column else [])))
        row = part.first_row
        for batch in part.read(wanted):
            checked: Batch = {column.role: _parse(part, column, batch[column.name], row) for column in columns}
            size = len(next(iter(checked.values())))
            checked["id"] = _ids(part, batch, id_column, row, len(index.empty))
            _grow(index, checked, columns, names)
            write(checked)
            row += size
            if limit is not None and len(index.empty) >= limit:
                index.complete = False
                return index
        if row == part.first_row:
            raise DataError(f"{part.where!r} has a header but no rows; check data.source.")
    _check_texts(parts[0].where, index, columns)
    return index


def fold(text: str) -> str:
    """Fold case and spaces, so that texts that differ in these alone are equal."""
    return " ".join(text.casefold().split())


def hash64(text: str) -> int:
    """Return the first 8 bytes of the sha256 of `text`, as an unsigned integer."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _check_columns(part: Part, columns: tuple[Column, ...], id_column: str | None) -> None:
    if not part.columns:
        raise DataError(f"{part.where!r} has neither columns nor rows; check data.source.")
    needed = [(column.name, column.setting) for column in columns] + ([(id_column, "data.id_column")] if id_column else [])
    for name, setting in needed:
        if name not in part.columns:
            has = ", ".join(repr(column) for column in part.columns[:20]) or "none"
            raise DataError(f"Column {name!r} is not in {part.where!r}; it has {one_line(has)}. Set {setting}.")


def _parse(part: Part, column: Column, values: list[Any], first_row: int) -> list[str]:
    parse = _text if column.form == "text" else _label
    parsed = []
    for offset, value in enumerate(values):
        try:
            parsed.append(parse(value, part.label_names))
        except ValueError as error:
            shown = one_line(repr(value), 80)
            raise DataError(
                f"{part.where!r}, row {first_row + offset}: column {column.name!r} is {shown}, {error}; "
                f"mend the row or set {column.setting}."
            ) from None
    return parsed


def _text(value: Any, names: tuple[str, ...] | None) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"which is {type(value).__name__}, not text")
    if fault := _unfit(value):
        raise ValueError(fault)
    return value


def _unfit(text: str) -> str | None:
    """Say why a string that JSON can spell cannot be kept, or return None."""
    if "\0" in text:
        return "which holds a NUL byte"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "which holds half a surrogate pair"
    return None


def _label(value: Any, names: tuple[str, ...] | None) -> str:
    """Return a label's name: classes are named or numbered, and a name of digits counts as a number."""
    if isinstance(value, str):
        value = value.strip()
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    if missing or (names and value == -1):
        raise ValueError("so its label is missing")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        return _text(value, names)
    if not isinstance(value, int):
        raise ValueError(f"which is {type(value).__name__}, not a class's name or number")
    if names:
        if not 0 <= value < len(names):
            raise ValueError(f"but classes are numbered 0 to {len(names) - 1}")
        return names[value]
    return str(value)


def _ids(part: Part, batch: Batch, id_column: str | None, row: int, position: int) -> list[str]:
    if id_column is None:
        return [str(position + offset) for offset in range(len(next(iter(batch.values()))))]
    for offset, value in enumerate(batch[id_column]):
        missing = value is None or isinstance(value, (list, dict)) or str(value).strip() == ""
        if fault := "so its id is missing" if missing else _unfit(str(value)):
            raise DataError(
                f"{part.where!r}, row {row + offset}: column {id_column!r} is {one_line(repr(value), 80)}, {fault}; "
                "mend the row or set data.id_column."
            )
    return [str(value) for value in batch[id_column]]


def _grow(index: Index, batch: Batch, columns: tuple[Column, ...], names: dict[str, int]) -> None:
    """Add a batch to the index, and its label numbers and hashes to the batch."""
    texts = [column.role for column in columns if column.form == "text"]
    labels = [column.role for column in columns if column.form == "label"]
    hashes = []
    for values in zip(*(batch[role] for role in texts), strict=True):
        folded = [fold(value) for value in values]
        hashes.append(hash64("\x1f".join(folded)))
        index.exact.append(hash64("\x1f".join(values)))
        index.empty.append(not folded[0])
        index.words.append(sum(len(text.split()) for text in folded))
    index.folded.extend(hashes)
    index.numeric = index.numeric and all(_is_number(value) for value in batch[texts[0]] if value.strip())
    for role in labels:
        batch[role] = [names.setdefault(name, len(names)) for name in batch[role]]
        index.labels.extend(batch[role])
    if not labels:
        index.labels.extend([-1] * len(hashes))
    batch["hash"] = hashes


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_texts(where: str, index: Index, columns: tuple[Column, ...]) -> None:
    text = next(column for column in columns if column.form == "text")
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
