"""What the names in a configuration say: whether data is in S3, and which file belongs to which split."""

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

from tasks.config import DataSettings
from tasks.data.files import TEXT_SUFFIX
from tasks.errors import ConfigError, DataError
from tasks.records import SPLITS, Split
from tasks.text import one_line

SPLIT_NAMES = {"train": r"train(ing)?", "validation": r"(valid(ation)?|val|dev)", "test": r"(test(ing)?)"}


class Named(Protocol):
    """A file wherever it is; its name may be a path."""

    @property
    def name(self) -> str:
        """The name."""


File = TypeVar("File", bound=Named)


def is_remote(data: DataSettings) -> bool:
    """Tell whether the source is in S3.

    Raises:
        ConfigError: an address has another scheme or holds credentials, or a split is in S3 while the source is not.
    """
    remote = data.source.startswith("s3://")
    for field in ("source", *SPLITS):
        scheme, sign, rest = (getattr(data, field) or "").partition("://")
        # An address may hold a secret, so what is refused is not repeated.
        if sign and scheme != "s3":
            shown = one_line(repr(scheme), 20)
            raise ConfigError(
                f"data.{field} is an address with {shown}, which is not supported; give s3://bucket/key, a file, a folder, "
                "a glob or a Hub dataset's id."
            )
        if sign and {"@", ":"} & set(rest.partition("/")[0]):
            raise ConfigError(
                f"data.{field} seems to hold credentials; leave them out: the environment, a profile, a role or the store's "
                "block has them."
            )
        if sign and not remote:
            raise ConfigError(f"data.{field} is in S3, but data.source is not; give both of them in S3, or neither.")
    return remote


def choose_files(
    data: DataSettings, expand: Callable[[str, str], list[File]], same: Callable[[File], object], *, is_file: bool
) -> dict[Split, list[File]]:
    """Return the files of each given split, in the order of `expand`.

    Args:
        data: Names the source and perhaps splits.
        expand: Name of a file, folder or glob and the setting that it is from -> its files; a split's name is relative to the
            source's folder.
        same: What two names of one file have in common.
        is_file: Whether the source is one file.

    Raises:
        DataError: what `expand` raises, or nothing is left for train.
    """
    files: dict[Split, list[File]] = {}
    for split in SPLITS:
        if name := getattr(data, split):
            files[split] = expand(name, f"data.{split}")
    if "train" not in files:
        taken = {same(file) for found in files.values() for file in found}
        rest = [file for file in expand(data.source, "data.source") if same(file) not in taken]
        if not rest:
            raise DataError(f"{data.source!r} holds no file but those of data.validation and data.test; set data.train.")
        files = {**({"train": rest} if is_file else _sort_by_split(rest, data.source)), **files}
    return {split: files[split] for split in SPLITS if split in files}


def _sort_by_split(given: list[File], source: str) -> dict[Split, list[File]]:
    """Sort files by their names; where none is called train, those that no split claims are train.

    Raises:
        DataError: all files are called validation or test.
    """
    paths = [PurePosixPath(file.name) for file in given]
    splits = {split: re.compile(pattern + r"([^a-z]|$)") for split, pattern in SPLIT_NAMES.items()}
    claims = [next((split for split, name in splits.items() if name.match(path.stem.lower())), None) for path in paths]
    files: dict[Split, list[File]] = {}
    for split in SPLITS:
        if found := [file for file, claim in zip(given, claims, strict=True) if claim == split]:
            files[split] = found
    rest = [file for file, claim in zip(given, claims, strict=True) if claim is None]
    if "train" not in files and not rest:
        raise DataError(f"{source!r} holds no file for train, only {listed(path.name for path in paths)}; set data.train.")
    return files if "train" in files else {"train": rest, **files}


def without_notes(files: Iterable[File]) -> list[File]:
    """Leave out plain text where a folder holds data files of other forms too."""
    found = list(files)
    return [file for file in found if not file.name.lower().endswith(TEXT_SUFFIX)] or found


def listed(names: Iterable[object]) -> str:
    """Return names as messages list them."""
    return ", ".join(repr(str(name)) for name in names)
