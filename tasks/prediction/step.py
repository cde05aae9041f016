"""The tasks of the flow `predict`: check the input whole, then predict it shard by shard and put the file in its place."""

import hashlib
import json
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.runtime import deployment

from blocks.artifact_store import ArtifactStore
from blocks.errors import StoreConfigError
from blocks.sharded_output import Shard, ShardedOutput, open_output
from tasks.alive import says_it_uses
from tasks.compute.client import ComputeProcess, Event
from tasks.data.files import Batch, Part
from tasks.data.step import ARROW_TYPES
from tasks.errors import ComputeFailed, DataError
from tasks.prediction.formats import write_rows
from tasks.prediction.model import Chosen, choose_model
from tasks.prediction.request import Predicted, Request, check_places, refuse_relative
from tasks.prediction.rows import Reader, Source, make_reader, open_source, shards, state_of, survey
from tasks.progress import EventSink
from tasks.steps import LIBRARIES, TASK_OPTIONS, code_digest, log_info, log_warning
from tasks.text import one_line
from tasks.trained import Trained, read_trained

_NOTES = b"finetune-flows"
_CODE = ("tasks.compute.infer", "tasks.prediction.rows")


@dataclass(frozen=True)
class Job:
    """All that is known before the first row is predicted."""

    request: Request
    chosen: Chosen
    trained: Trained
    source: Source
    part: Part
    reader: Reader
    rows: int
    identity: str
    """Digest of what decides the predictions: shards of another one are not used."""

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.rows // self.request.shard_rows)


@task(name="check-input", task_run_name="check-input", **TASK_OPTIONS)
def check_input(request: Request, store: ArtifactStore, scratch: Path) -> Job:
    """Choose the model, fetch the input where it is in S3, and check every row.

    Args:
        request: What is to be predicted.
        store: The store.
        scratch: A folder that stays until all is predicted.

    Raises:
        InputError: the first fault found.
        StoreError: the store or the input cannot be had.
    """
    if deployment.id:
        refuse_relative(request)
    check_places(request)
    chosen = choose_model(store, request.name, request.run)
    try:
        says_it_uses(chosen.key)
    except StoreConfigError as error:
        log_warning(f"The model cannot be marked as in use, so do not prune the store meanwhile: {error}")
    trained = read_trained(store.fetch(chosen.key))
    source, digest = open_source(request.input, store, scratch)
    reader, part = make_reader(trained, request.columns, source.part)
    found = survey(reader, part)
    if found.only_numbers:
        log_warning(f"Column {reader.text.name!r} of {part.where!r} holds numbers only; is it the text?")
    ids = f"column {reader.id_column!r}" if reader.id_column else "their positions"
    log_info(f"{found.rows} rows of {request.input} are in order; their ids are {ids}.")
    identity = _identity(request, chosen, trained, reader, digest)
    return Job(request, chosen, trained, source, part, reader, found.rows, identity)


def _identity(request: Request, chosen: Chosen, trained: Trained, reader: Reader, digest: str) -> str:
    kind = f"tasks.kinds.{trained.kind_name.replace('-', '_')}"
    parts = {
        "model": [chosen.digest, chosen.calibration, trained.labels, trained.config.model_dump(mode="json")],
        "input": digest,
        "columns": [[column.role, column.name] for column in reader.columns],
        "id_column": reader.id_column,
        "settings": [request.shard_rows, request.device, request.precision],
        "code": code_digest((*_CODE, kind)),
        "libraries": [version(library) for library in LIBRARIES],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@task(name="predict", task_run_name="predict", **TASK_OPTIONS)
def predict_rows(job: Job, store: ArtifactStore, scratch: Path) -> Predicted:
    """Predict the shards that are not there yet, put the whole file in its place, and remove the shards.

    Raises:
        ComputeFailed: the compute process failed or was lost.
        DataError: the model cannot read a row, or the input was changed meanwhile.
        StoreError: the model or the output failed.
    """
    started, output = time.monotonic(), open_output(job.request.output, store)
    there = output.shards(job.identity)
    if there:
        log_info(f"{len(there)} of {job.shards} shards are there already.")
    made = [number for number in range(job.shards) if number not in there]
    sink, computed = EventSink("predict", artifact=True), 0
    with ComputeProcess() as compute:
        for number, batch in enumerate(shards(job.reader.batches(job.part), job.request.shard_rows) if made else ()):
            if number not in there:
                file = _predict_shard(job, number, batch, compute, sink, scratch)
                there[number] = output.put(job.identity, number, file)
                computed += len(batch["id"])
                _tell_progress(sink, len(there), computed, job, time.monotonic() - started)
    if state_of(job.source.path) != job.source.state or sorted(there) != list(range(job.shards)):
        raise DataError(f"Input {job.request.input!r} changed while it was read; run again.")
    notes = _finish(job, [there[number] for number in range(job.shards)], output, scratch)
    seconds = time.monotonic() - started
    return Predicted(
        key=job.chosen.key,
        kind=job.trained.kind_name,
        name=job.chosen.name,
        run=job.chosen.run,
        model=job.chosen.digest,
        input=job.request.input,
        output=job.request.output,
        rows=job.rows,
        unread=sum(note["unread"] for note in notes),
        truncated=sum(note["truncated"] for note in notes),
        shards=job.shards,
        reused=job.shards - len(made),
        devices=sorted({note["device"] for note in notes}),
        seconds=seconds,
        rows_per_s=computed / seconds,
    )


def _tell_progress(sink: EventSink, there: int, computed: int, job: Job, seconds: float) -> None:
    done = min(job.rows, there * job.request.shard_rows)
    left = seconds / computed * (job.rows - done)
    sink({"event": "progress", "done": done, "total": job.rows, "rows_per_s": computed / seconds, "time_left_s": left})


def _predict_shard(job: Job, number: int, batch: Batch, compute: ComputeProcess, sink: EventSink, scratch: Path) -> Path:
    """Return a file with the predictions of one shard, and notes on how they came about."""
    request, config, trained = job.request, job.reader.kind.config, job.trained
    rows, file, start = scratch / "rows.arrow", scratch / "predictions.parquet", number * request.shard_rows
    _write_batch(rows, batch, job.reader)
    size = len(batch["id"])

    def on_event(event: Event) -> None:
        if event["event"] == "progress":
            done = start + size * event["done"] // max(1, event["total"])
            event = {**event, "done": done, "total": job.rows}
        sink(event)

    answer = compute.request(
        "predict",
        {
            "kind_name": trained.kind_name,
            "settings": config.model_dump(mode="json"),
            "labels": trained.labels,
            "model": str(trained.model),
            "remote_code": config.model.trust_remote_code,
            "seed": config.seed,
            "device": request.device,
            "precision": request.precision,
            "calibration": job.chosen.calibration,
            "rows": str(rows),
            "output": str(file),
        },
        on_event=on_event,
    )
    table = pq.read_table(file)
    if len(table) != size:
        raise ComputeFailed(f"The compute process answered {len(table)} rows of {size}.")
    pq.write_table(table.replace_schema_metadata({_NOTES: json.dumps(answer)}), file)
    return file


def _write_batch(path: Path, batch: Batch, reader: Reader) -> None:
    columns = (*reader.columns, *(column for column in reader.targets if not column.is_aside))
    schema = pa.schema([("id", pa.string()), *((column.role, ARROW_TYPES[column.form]) for column in columns)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([pa.array(batch[one.name], one.type) for one in schema], schema=schema))


def _finish(job: Job, made: list[Shard], output: ShardedOutput, scratch: Path) -> list[dict[str, Any]]:
    """Write the whole file out of its shards; return what is noted in each of them."""
    request, notes, schema = job.request, [], pa.schema([])
    for shard in made:
        found = pq.read_schema(output.get(shard, scratch))
        notes.append(json.loads(found.metadata[_NOTES]))
        # A shard without any text to predict has ids alone.
        schema = max(schema, found.remove_metadata(), key=len)
    if len(schema) < 2:
        raise DataError(f"No row of {request.input!r} gives the model anything to read; give longer texts.")
    if len(devices := {note["device"] for note in notes}) > 1:
        log_warning(f"The shards were computed on different hardware, whose rounding differs: {', '.join(sorted(devices))}.")
    whole = schema.append(pa.field("model", pa.string()))

    def table(shard: Shard) -> pa.Table:
        part = pq.read_table(output.get(shard, scratch)).replace_schema_metadata(None)
        part = part.append_column("model", pa.array([job.chosen.digest] * len(part), pa.string()))
        return pa.concat_tables([whole.empty_table(), part], promote_options="default")

    form = Path(request.output).suffix.lower()
    separator = getattr(job.trained.config.data, "label_separator", ";")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / f"whole{form}"
        write_rows(file, form, whole, map(table, made), separator)
        output.finish(file)
    log_info(f"Wrote {one_line(request.output)}")
    return notes
