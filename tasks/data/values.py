"""From a value of a source to a value of the dataset, by the form of its column; a `ValueError` says what is wrong with it."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from tasks.text import one_line

Form = Literal["text", "label", "labels", "number", "json", "shown"]
"""Text; a class's name or number; a list of those; a finite number; anything JSON can say, kept as JSON; anything, as text."""
Names = Sequence[str]
SHOWN_LIMIT = 100


def parser(form: Form, *, optional: bool) -> Callable[[Any, Names], Any]:
    """Return the function of a value, and of the names that its source gives to class numbers, that checks and converts it."""
    match form:
        case "text":
            return _text
        case "label":
            return _label
        case "labels":
            return _labels
        case "number":
            return _number
        case "json":
            return _json if optional else _json_required
        case "shown":
            return _shown


def blank(form: Form) -> Any:
    """Return a value of the dataset that says nothing, for a target that is not known."""
    values: dict[Form, Any] = {"label": 0, "labels": [], "number": 0.0, "json": "[]"}
    return values.get(form, "")


def unfit(text: str) -> str | None:
    """Say why a string that JSON can spell cannot be kept, or return None."""
    if "\0" in text:
        return "which holds a NUL byte"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "which holds half a surrogate pair"
    return None


def _text(value: Any, names: Names) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"which is {type(value).__name__}, not text")
    if fault := unfit(value):
        raise ValueError(fault)
    return value


def _label(value: Any, names: Names) -> str:
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


def _labels(value: Any, names: Names) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"which is {type(value).__name__}, not a list of labels")
    return list(dict.fromkeys(_label(one, names) for one in value))


def _number(value: Any, names: Names) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("so its number is missing")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("which is not a number") from None
    if not math.isfinite(number):
        raise ValueError("which is not a finite number")
    return number


def _json(value: Any, names: Names) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("which JSON cannot say") from None
    if fault := unfit(text):
        raise ValueError(fault)
    return text


def _shown(value: Any, names: Names) -> str:
    """Return any value as one short line; a class's number by its name."""
    if names and isinstance(value, int) and 0 <= value < len(names):
        value = names[value]
    # What JSON spells with half a surrogate pair cannot be kept.
    return "" if value is None else one_line(value, SHOWN_LIMIT).encode(errors="replace").decode()


def _json_required(value: Any, names: Names) -> str:
    if value is None:
        raise ValueError("so it is missing")
    return _json(value, names)
