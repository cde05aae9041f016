"""The columns that a kind of task needs, and those that name slices of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.data.values import Form


@dataclass(frozen=True)
class Column:
    """A column that a kind of task needs."""

    role: str
    """Its name in the dataset that the steps share, e.g. `text`."""
    name: str
    """Its name in the source, from the config."""
    form: Form
    setting: str
    """The setting that names it, for messages."""
    target: bool = False
    """Whether it is what is learnt, and so no part of what makes two rows the same; labels and numbers are in any case."""
    optional: bool = False
    """Whether the source may lack it, or have nulls there."""
    groups: bool = False
    """Whether rows with the same value stay on one side where a split is cut; of several such columns the first that is not
    empty decides."""

    @property
    def is_aside(self) -> bool:
        """Whether it is neither read nor learnt, but names slices of the rows."""
        return self.form == "shown"

    @property
    def is_input(self) -> bool:
        """Whether it is part of what makes two rows the same."""
        return not self.target and self.form in ("text", "json")


SLICE = "slice: "
"""What the roles of columns that name slices begin with."""


def slice_columns(names: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns of `data.slice_columns`; they may be any of the source's, one that the kind reads too."""
    return tuple(Column(f"{SLICE}{name}", name, "shown", "data.slice_columns") for name in names)
