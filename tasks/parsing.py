"""Configurations read from files and flags, and their faults told in one line."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tasks.config import ExperimentConfig
from tasks.errors import ConfigError
from tasks.text import one_line

_MOST_LISTED = 15
PRESETS = Path(__file__).parent.parent / "flows" / "presets"
Config = TypeVar("Config", bound=ExperimentConfig)


def parse_config(config_class: type[Config], values: Mapping[str, Any], origin: str) -> Config:
    """Validate `values`, which came from `origin` (a file's name or `the command line`).

    Raises:
        ConfigError: names the field, the value, the origin and the remedy of the first fault.
    """
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(config_class, error, origin)) from None


def read_config_file(name: str) -> dict[str, Any]:
    """Read a YAML file or a preset of that name.

    Raises:
        ConfigError: there is no such file or preset, or it is not a YAML mapping.
    """
    import yaml

    path = PRESETS / f"{name}.yaml" if name in preset_names() else Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, FileNotFoundError):
            hint = did_you_mean(name, preset_names())
            raise ConfigError(f"Config {name!r} is neither a file nor a preset{hint}.") from None
        raise ConfigError(f"Config {name!r} cannot be read: {one_line(error)}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"Config {name!r} is not a mapping of fields to values; see the presets for the form.")
    return values


def preset_names() -> list[str]:
    """Return the names of the configs that ship with the project, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with `overrides` laid over them, group by group."""
    merged = dict(values)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return merged


def did_you_mean(name: str, known: list[str]) -> str:
    """Return a hint such as `; did you mean 'epochs'? Known: 'epochs', 'seed'`, to be put before a full stop."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    listed = ", ".join(repr(word) for word in known[:_MOST_LISTED])
    if len(known) > _MOST_LISTED:
        listed += f" and {len(known) - _MOST_LISTED} more"
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" Known: {listed}"


def _explain(config_class: type[BaseModel], error: ValidationError, origin: str) -> str:
    """Turn pydantic's first fault into one line."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        model: type[BaseModel] = config_class
        for part in fault["loc"][:-1]:
            annotation = model.model_fields[str(part)].annotation
            assert isinstance(annotation, type)
            assert issubclass(annotation, BaseModel)
            model = annotation
        return f"Unknown field {place!r} in {origin}{did_you_mean(str(fault['loc'][-1]), list(model.model_fields))}."
    reason = fault["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    more = f" ({error.error_count() - 1} more faults)" if error.error_count() > 1 else ""
    if not place or (fault["type"] == "value_error" and isinstance(fault["input"], dict)):
        return f"The fields in {origin} do not go together: {one_line(reason)}.{more}"
    return f"Field {place!r} in {origin} is {one_line(repr(fault['input']), 80)}: {one_line(reason)}.{more}"
