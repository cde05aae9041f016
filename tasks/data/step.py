"""The step `load-dataset`: rows from the source, checked, split and kept as Arrow."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tasks.config import DataSettings
from tasks.data.columns import SLICE, Column, slice_columns
from tasks.data.files import BATCH_ROWS, Batch
from tasks.data.hub import hub_identity, open_hub
from tasks.data.names import is_remote
from tasks.data.remote import find_remote, open_remote
from tasks.data.rows import Index, hash64, label_order, read_split, renumbering
from tasks.data.source import Source, adapted, declared_labels, is_hub_id, local_identity, open_local
from tasks.data.splits import Plan, plan_splits
from tasks.data.values import Form
from tasks.errors import DataError
from tasks.kinds.kind import Kind
from tasks.records import SPLITS, DatasetRef, Split
from tasks.steps import Run, log_warning, step, write_json

if TYPE_CHECKING:
    import datasets

ARROW_TYPES: dict[Form, Any] = {
    "text": pa.string(),
    "label": pa.int32(),
    "labels": pa.list_(pa.int32()),
    "number": pa.float64(),
    "json": pa.string(),
    "shown": pa.string(),
}


def data_identity(data: DataSettings, store: str) -> str:
    """Return what pins the bytes behind the source: a digest of its files, or a Hub commit.

    Args:
        data: Names the source.
        store: Address of the run's store, which may have the credentials for a source in S3.
    """
    if is_remote(data):
        return find_remote(data, store).identity
    return hub_identity(data) if is_hub_id(data) else local_identity(data)


@step("load-dataset", reads=("data", "seed", "kind", "inputs.data_identity"))
def load_dataset(run: Run, folder: Path) -> DatasetRef:
    """Load, check and split the dataset.

    The artifact has one `datasets` folder per split with `id`, the kind's columns and `hash` (8 bytes of the folded text), and
    `info.json` with the label names and the findings of the data checks.
    """
    data, kind = run.config.data, load_dataset.kind(run)
    columns = kind.columns() + slice_columns(data.slice_columns)
    names: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
        source = adapted(kind, _open(run, kind, Path(scratch) / "source"))
        indexes = {split: _spool(split, source, kind, columns, data, names, Path(scratch)) for split in source}
        labels = label_order(names, declared_labels(source, columns))
        plan = plan_splits(
            {split: index.arrays(names, labels) for split, index in indexes.items()},
            labels,
            duplicates=data.duplicates,
            max_train_rows=data.max_train_rows,
            max_test_rows=data.max_test_rows,
            seed=run.config.seed,
        )
        del indexes  # some of the memory that a large dataset takes; saving needs the plan alone
        for split in SPLITS:
            _save(split, plan, Path(scratch), folder, columns, names, labels, data)
    write_json(folder / "info.json", {"labels": labels, "checks": plan.checks})
    _warn(plan)
    counts = {split: plan.checks["rows"][split] for split in SPLITS}
    return DatasetRef(**counts, test_digest=rows_digest(folder / "test", labels))


def rows_digest(folder: Path, labels: Sequence[str]) -> str:
    """Return a digest of a split's rows: their ids and all that a model reads of them or is asked for, whatever else there is.

    Labels count by name, so that a class more in train changes nothing.
    """
    import datasets

    rows, digest = datasets.Dataset.load_from_disk(str(folder)), hashlib.sha256()
    names = [name for name in sorted(rows.column_names) if not name.startswith(SLICE)]
    features = {name: getattr(rows.features[name], "feature", rows.features[name]) for name in names}
    labelled = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    for batch in rows.select_columns(names).iter(1_000):
        for name in labelled:
            batch[name] = [[labels[one] for one in value] if isinstance(value, list) else labels[value] for value in batch[name]]
        digest.update(json.dumps([batch[name] for name in names]).encode())
    return digest.hexdigest()


def _open(run: Run, kind: Kind, folder: Path) -> Source:
    """Open the source; `folder` is for files that have to be fetched, and must stay for as long as rows are read."""
    data, identity = run.config.data, run.inputs.data_identity
    if data.source == "quickstart":
        return {"train": [kind.quickstart()]}
    if is_remote(data):
        return open_remote(data, run.config.store, identity, folder)
    return open_hub(data, identity) if is_hub_id(data) else open_local(data)


def _spool(
    split: Split,
    source: Source,
    kind: Kind,
    columns: tuple[Column, ...],
    data: DataSettings,
    names: dict[str, int],
    scratch: Path,
) -> Index:
    """Write the checked rows of a given split to an Arrow file, batch by batch, and return their index."""
    schema = pa.schema(
        [("id", pa.string()), ("hash", pa.uint64()), *((column.role, ARROW_TYPES[column.form]) for column in columns)]
    )
    with pa.OSFile(str(scratch / f"{split}.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:

        def write(batch: Batch) -> None:
            arrays = [pa.array(batch[field.name], field.type) for field in schema]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))

        return read_split(source[split], columns, data.id_column, names, write, check=kind.fault)


def _save(
    split: Split,
    plan: Plan,
    scratch: Path,
    folder: Path,
    columns: tuple[Column, ...],
    names: dict[str, int],
    labels: list[str],
    data: DataSettings,
) -> None:
    """Save the chosen rows of a split as a `datasets` folder, with labels in their final numbers."""
    import datasets

    origin, rows = plan.rows[split]
    datasets.disable_progress_bars()
    chosen = datasets.Dataset.from_file(str(scratch / f"{origin}.arrow")).select(rows)
    if labelled := {column.role: column.form for column in columns if column.form in ("label", "labels")}:
        numbers, feature = renumbering(names, labels), datasets.ClassLabel(names=labels)
        new = {role: feature if form == "label" else datasets.List(feature) for role, form in labelled.items()}
        chosen = chosen.map(
            lambda batch: {role: _renumber(batch[role], numbers) for role in labelled},
            batched=True,
            features=datasets.Features({**chosen.features, **new}),
            new_fingerprint=f"{split}-{len(rows)}",
            cache_file_name=str(scratch / f"{split}-numbered.arrow"),
        )
    if data.id_column:
        _check_ids(split, chosen.select_columns("id"), data.id_column)
    chosen.save_to_disk(str(folder / split))


def _renumber(values: list[Any], numbers: "np.ndarray[Any, Any]") -> list[Any]:
    return [numbers[value].tolist() if isinstance(value, int) or value else [] for value in values]


def _check_ids(split: Split, rows: "datasets.Dataset", id_column: str) -> None:
    hashes = np.fromiter((hash64(one) for batch in rows.iter(BATCH_ROWS) for one in batch["id"]), np.uint64, len(rows))
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(again):
        return
    values, counts = np.unique(again, return_counts=True)
    alike = np.flatnonzero(hashes == values[counts.argmax()])
    raise DataError(
        f"Column {id_column!r} holds {rows[int(alike[0])]['id']!r} {len(alike)} times in split {split!r}; "
        "ids must be unique: set data.id_column to another column, or to none."
    )


def _warn(plan: Plan) -> None:
    checks: dict[str, Any] = plan.checks
    shared = sum(checks["shared"][pair]["folded"] for pair in checks["shared"])
    if shared:
        what = {"drop": "dropped from train (or validation)", "report": "kept, as set: the scores are too good"}
        log_warning(f"{shared} rows are in more than one split after case and space folding: {what[checks['duplicates']]}.")
    if empty := sum(checks["empty"].values()):
        log_warning(f"{empty} rows with an empty text are left out.")
    if checks["contradictory"]:
        log_warning(
            f"{checks['contradictory']} texts occur with more than one {'label' if checks['classes']['train'] else 'target'}."
        )
