"""The trees of errors: each module opens with its own, as it is."""

import re
from types import ModuleType

import pytest

import blocks.errors
import tasks.errors


def tree_in_words(module: ModuleType) -> dict[str, str]:
    """Return each class's parent as the drawing in the module's docstring has it."""
    path: list[str] = ["Exception"]
    parents = {}
    for line in (module.__doc__ or "").splitlines():
        if match := re.match(r"((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+)(\s|$)", line):
            depth = len(match[1]) // 4 + 1
            path[depth:] = [match[2]]
            parents[match[2]] = path[depth - 1]
    return parents


@pytest.mark.parametrize("module", [blocks.errors, tasks.errors], ids=lambda module: module.__name__)
def test_the_drawn_tree_is_the_tree(module: ModuleType) -> None:
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    drawn = tree_in_words(module)
    drawn.pop("Errors", None)
    assert drawn == {name: value.__bases__[0].__name__ for name, value in classes.items()}
    assert all(value.__doc__ for value in classes.values())
