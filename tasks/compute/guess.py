"""The command `guess`: score the simplest guess of a kind that is about tokens, beside the tokenizer."""

from pathlib import Path
from typing import Any

from tasks.baselines.scores import score_guess
from tasks.compute.channel import Channel
from tasks.compute.models import bind, load_tokenizer


def guess(
    channel: Channel,
    *,
    kind_name: str,
    settings: dict[str, Any],
    labels: list[str],
    dataset: str,
    tokens: str,
    model: str,
    output: str,
    remote_code: bool,
) -> dict[str, Any]:
    """Score the guess on the test split; write what `score` does, and return `Scores` as a dict."""
    tokenizer = load_tokenizer(Path(model), remote_code=remote_code)
    kind = bind(kind_name, settings, labels)
    return score_guess(Path(output), kind, Path(dataset), Path(tokens), tokenizer).model_dump()
