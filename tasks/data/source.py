"""From `data.source` to the parts of each given split, and the digest of their bytes."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.config import DataSettings
from tasks.data.columns import Column
from tasks.data.files import BATCH_ROWS, SUFFIXES, Batch, Part, open_file
from tasks.data.names import SPLIT_NAMES, choose_files, is_remote, listed, without_notes
from tasks.errors import DataError
from tasks.records import SPLITS, Split
from tasks.text import one_line

if TYPE_CHECKING:
    import datasets

    from tasks.kinds.kind import Kind

Source = dict[Split, list[Part]]

SAVED_BY = ("dataset_dict.json", "state.json")
"""Files of which a folder that `save_to_disk` wrote has one."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_hub_id(data: DataSettings) -> bool:
    """Tell whether `data.source` names a dataset on the Hub: no address, no such path here, and not of a path's form.

    Raises:
        ConfigError: it is an address of an unknown form.
        DataError: it has the form of a path, but nothing is there.
    """
    name = data.source
    if name == "quickstart" or is_remote(data) or "\0" in name:
        return False
    if _path(name, "data.source").exists() or any(sign in name for sign in "*?["):
        return False
    if _HUB_ID.fullmatch(name) and not name.lower().endswith(SUFFIXES):
        return True
    raise DataError(f"File or folder {name!r} is not there; check data.source.")


def adapted(kind: "Kind", source: Source) -> Source:
    """Return the source in the flat form that the kind's columns describe."""
    return {split: [kind.adapt(part) for part in parts] for split, parts in source.items()}


def open_local(data: DataSettings) -> Source:
    """Open the splits that a file, folder or glob on this machine gives.

    Raises:
        DataError: a file is missing, empty, damaged or of an unknown form.
    """
    if is_saved_dataset(data):
        return open_saved(data, Path(data.source).expanduser())
    return {split: [open_file(path) for path in paths] for split, paths in find_files(data).items()}


def find_files(data: DataSettings) -> dict[Split, list[Path]]:
    """Return the data files of each given split, sorted by name; a file that the config names is in no other split.

    Raises:
        DataError: a named file, folder or glob matches nothing, or leaves nothing for train.
    """
    root = _path(data.source, "data.source")
    base = root if root.is_dir() else root.parent

    def expand(name: str, field: str) -> list[Path]:
        here = _path(name, field)
        return _expand(name if field == "data.source" or here.is_absolute() else str(base / here), field)

    return choose_files(data, expand, Path.resolve, is_file=root.is_file())


def _path(name: str, field: str) -> Path:
    """Return the path, once it is sure that it can be looked up: a name can be too long, or begin with an unknown `~user`."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"Path {one_line(repr(name), 80)} cannot be used ({reason}); check {field}.") from None
    return path


def _expand(name: str, field: str) -> list[Path]:
    """Return the data files that a file's, folder's or glob's name stands for."""
    path = _path(name, field)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = without_notes(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    else:
        pattern = path.relative_to(path.anchor) if path.is_absolute() else path
        try:
            found = list(Path(path.anchor or ".").glob(str(pattern)))
        except ValueError as error:
            raise DataError(f"Glob {name!r} is wrong ({one_line(error, 120)}); check {field}.") from None
    files = sorted(file for file in found if file.is_file() and not file.name.startswith("."))
    if not files:
        what = f"holds no file that ends in {', '.join(SUFFIXES)}" if path.is_dir() else "is not there"
        raise DataError(f"{'Folder' if path.is_dir() else 'File'} {name!r} {what}; check {field}.")
    return files


def is_saved_dataset(data: DataSettings) -> bool:
    """Tell whether the source is a folder that `datasets` wrote with `save_to_disk`."""
    folder = _path(data.source, "data.source")
    return any((folder / name).is_file() for name in SAVED_BY)


def open_saved(data: DataSettings, folder: Path) -> Source:
    """Open the splits of a folder that `datasets` wrote with `save_to_disk`.

    Raises:
        DataError: it is damaged, or lacks a split that the config names.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:
        reason = one_line(str(error).replace(str(folder), data.source), 200)
        raise DataError(
            f"Folder {data.source!r} cannot be read by datasets.load_from_disk: {reason}; check data.source."
        ) from error
    splits = saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict(train=saved)
    return parts_of(splits, data)


def parts_of(splits: "datasets.DatasetDict", data: DataSettings) -> Source:
    """Choose the train, validation and test splits of a `DatasetDict` by the config or by their names.

    A split that the config names is found by its name for no other: with `data.test: validation`, validation is cut from train.

    Raises:
        DataError: a split that the config names is not there.
    """
    chosen: Source = {}
    named = {split: getattr(data, split) or None for split in SPLITS}
    for split in SPLITS:
        name = named[split]
        if name is not None and name not in splits:
            raise DataError(f"Split {name!r} is not in {data.source!r}; it has {listed(splits)}. Set data.{split}.")
        if name is None:
            free = [known for known in splits if known not in named.values()]
            name = next((known for known in free if re.fullmatch(SPLIT_NAMES[split], known.lower())), None)
        if name is None and split == "train":
            if len(splits) != 1:
                raise DataError(f"{data.source!r} has no split 'train'; it has {listed(splits)}. Set data.train.")
            name = next(iter(splits))
        if name is not None:
            chosen[split] = [_dataset_part(splits[name], f"{data.source} (split {name})")]
    return chosen


def _dataset_part(dataset: "datasets.Dataset", where: str) -> Part:
    plain = dataset.with_format(None)  # a saved dataset keeps its format, and arrays are no Python values
    names = {column: _class_names(feature) for column, feature in dataset.features.items()}

    def read(columns: list[str]) -> Iterator[Batch]:
        yield from plain.select_columns(columns).iter(BATCH_ROWS)

    return Part(where, tuple(dataset.column_names), read, class_names={name: found for name, found in names.items() if found})


def _class_names(feature: object) -> tuple[str, ...]:
    """Return the names that a column's feature, a `ClassLabel` or a list of those, gives to integers."""
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def declared_labels(source: Source, columns: Iterable[Column]) -> tuple[str, ...]:
    """Return the label names that a source declares with its numbers, as a `ClassLabel` does; none for plain files."""
    named = [part.class_names.get(column.name, ()) for parts in source.values() for part in parts for column in columns]
    return next((names for names in named if names), ())


def local_identity(data: DataSettings) -> str:
    """Return a digest of the bytes behind a local source: it changes when a file's name or content does."""
    if data.source == "quickstart":
        import botocore

        return f"botocore-{botocore.__version__}"
    if is_saved_dataset(data):
        root = Path(data.source).expanduser()
        files = [(path.relative_to(root).as_posix(), path) for path in sorted(root.rglob("*")) if path.is_file()]
    else:
        files = [(f"{split}/{path.name}", path) for split, paths in find_files(data).items() for path in paths]
    return digest_files(files)


def digest_files(files: list[tuple[str, Path]]) -> str:
    """Return one sha256 over the names and contents of `files`, in their order."""
    whole = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()
