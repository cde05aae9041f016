"""What is to be predicted, with which model, and where that goes."""

import os
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from tasks.config import Settings
from tasks.errors import ConfigError
from tasks.prediction.formats import FORMS
from tasks.records import Record

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
SHARD_ROWS = 10_000
"""Rows of a shard, if not said otherwise."""


class Columns(Settings):
    """Columns of the input; one that is left empty is called as it was where the model was trained."""

    id_column: str | None = None
    """Column with an id of each row; where there is none, the row's position from 0 on."""
    text_column: str | None = None
    """Column with the text."""
    pair_column: str | None = None
    """Column with the second text, of models of pairs."""
    question_column: str | None = None
    """Column with the question."""
    context_column: str | None = None
    """Column with the context that the answer is a part of."""
    prompt_column: str | None = None
    """Column with the prompt, of a language model of prompts and completions."""
    completion_column: str | None = None
    """Column with the completion that is scored."""
    messages_column: str | None = None
    """Column with conversations that are scored."""

    def given(self) -> dict[str, str]:
        """Return the settings that are not left empty."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Request(Settings):
    """What is to be predicted."""

    name: str = Field(min_length=1)
    """Name of the model: its champion predicts."""
    input: str = Field(min_length=1)
    """A file of rows."""
    output: str = Field(min_length=1)
    """The file that is to be written."""
    store: str = Field("artifacts", min_length=1)
    """The artifact store."""
    run: str = ""
    """Name or key of the run whose model predicts instead of the champion."""
    columns: Columns = Columns()
    shard_rows: int = Field(SHARD_ROWS, ge=1, le=10_000_000)
    """Rows of a shard."""
    device: Device = "auto"
    precision: Precision = "auto"


class Predicted(Record):
    """What was predicted; `key` is the artifact of the model's training."""

    kind: str
    name: str
    run: str
    """Name of the run that made the model."""
    model: str
    """Digest of its weights."""
    input: str
    output: str
    rows: int
    unread: int
    """Rows without a text that the model could read, which have no prediction."""
    truncated: int
    """Rows of which tokens were cut off."""
    shards: int
    reused: int
    """Shards that were there already."""
    devices: list[str]
    """Device and precision of the shards, e.g. `cpu, bf16`."""
    seconds: float
    """Time that the shards took that were not there already, and the whole file."""
    rows_per_s: float
    """Rows per second of these shards; 0 if there were none."""


def check_places(request: Request) -> None:
    """Check the names of the files.

    Raises:
        ConfigError: the output is of an unknown form, is the input, or cannot be written.
    """
    for field in ("input", "output"):
        _check_address(field, getattr(request, field))
    if PurePosixPath(request.output).suffix.lower() not in FORMS:
        raise ConfigError(f"Output {request.output!r} is of an unknown form; let it end in one of {', '.join(FORMS)}.")
    if request.input == request.output or _same_file(request.input, request.output):
        raise ConfigError(f"Output {request.output!r} is the input; name another file.")
    if not is_remote(request.output):
        _check_writable(request.output)


def _check_address(field: str, address: str) -> None:
    scheme, sign, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    # An address may hold a secret, so what is refused is not repeated.
    if {"@", ":"} & set(bucket):
        raise ConfigError(
            f"{field} seems to hold credentials; leave them out: the environment, a profile, a role or the store's block has "
            "them."
        )
    if "\0" in address or (sign and (scheme != "s3" or not bucket or not key)):
        raise ConfigError(f"{field} is neither a file nor an address s3://bucket/key; mend it.")


def is_remote(address: str) -> bool:
    """Tell whether a file is in S3."""
    return address.startswith("s3://")


def _same_file(first: str, second: str) -> bool:
    paths = [os.path.realpath(os.path.expanduser(one)) for one in (first, second) if not is_remote(one)]
    return len(paths) == 2 and paths[0] == paths[1]


def _check_writable(output: str) -> None:
    path = Path(os.path.expanduser(output)).absolute()
    if path.is_dir():
        raise ConfigError(f"Output {output!r} is a folder; name a file in it.")
    folder = next(folder for folder in path.parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"Output {output!r} cannot be written: {str(folder)!r} is no folder that may be written in.")


def refuse_relative(request: Request) -> None:
    """Refuse paths that a worker would look for in a temporary folder.

    Raises:
        ConfigError: one is relative.
    """
    for field in ("input", "output", "store"):
        value = getattr(request, field)
        is_path = "://" not in value and not value.startswith("block:")
        if is_path and not os.path.isabs(os.path.expanduser(value)):
            raise ConfigError(
                f"{field} {value!r} is a relative path, which a worker would look for in a temporary folder; "
                f"set {field} to an absolute path or to an address in S3."
            )
