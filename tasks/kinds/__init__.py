"""The kinds of experiment, one file each, found by their files; importing this imports none of them."""

import importlib
import pkgutil
from typing import cast

from tasks.errors import ConfigError
from tasks.kinds.kind import Kind
from tasks.parsing import did_you_mean


def kind_names() -> list[str]:
    """Return the names of all kinds, sorted: a kind's name is its file's, with dashes."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if module.name != "kind")


def load_kind(name: str) -> type[Kind]:
    """Return the kind of that name, to be bound to a configuration.

    Raises:
        ConfigError: there is no such kind.
    """
    if name not in kind_names():
        raise ConfigError(f"Unknown kind {name!r}{did_you_mean(name, kind_names())}.")
    return cast(type[Kind], importlib.import_module(f"tasks.kinds.{name.replace('-', '_')}").KIND)


def summary(name: str) -> str:
    """Return the first line of a kind's docstring, without its title."""
    lines = (importlib.import_module(f"tasks.kinds.{name.replace('-', '_')}").__doc__ or "").strip().splitlines()
    return lines[0].partition(": ")[2].rstrip(".") if lines else ""
