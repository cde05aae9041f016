"""Small pure functions that make text safe or readable."""

import re

# Thai, Lao, Myanmar, Khmer, kana and Chinese characters are written without spaces between words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+"
"""Pattern of a word: letters, digits and underscores; where a script has no spaces, each character."""


def one_line(text: object, limit: int = 500) -> str:
    """Return `text` as one printable line of at most `limit` characters: untrusted values cannot break or forge lines."""
    line = "".join(char if char.isprintable() else " " for char in str(text))
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def escape_markdown(text: object) -> str:
    """Return `text` as one line in which nothing is markup; by backslashes, since the Prefect UI shows entities as they are."""
    escaped = re.sub(r"([\\`*_{}\[\]<>()|&~:$@#])", r"\\\1", one_line(text))
    # At the start of a line these open a list or draw a rule.
    return re.sub(r"^(\d*)([-+=.])", r"\1\\\2", escaped)


def slug(text: str) -> str:
    """Return `text` as a name that is safe in paths, keys and URLs: ASCII letters, digits, `.`, `_` and `-`, 100 at most."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:100].strip("-.") or "run"


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
