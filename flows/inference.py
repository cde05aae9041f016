"""The flow `predict`: what deployments, the Prefect UI and the command line start."""

import tempfile
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from flows.recovery import recovering
from tasks.alive import alive
from tasks.prediction.request import SHARD_ROWS, Columns, Device, Precision, Predicted, Request
from tasks.prediction.step import check_input, predict_rows
from tasks.runs import open_existing
from tasks.text import escape_markdown, slug


def _run_name() -> str:
    """Name a run by the model and the input."""
    parameters = flow_run.parameters
    return "-".join(slug(Path(str(parameters[part])).name) for part in ("name", "input"))


@flow(name="predict", flow_run_name=_run_name)
@recovering
def predict(
    name: str,
    input: str,  # noqa: A002 - what the field is called in the form
    output: str,
    store: str = "artifacts",
    run: str = "",
    columns: Columns = Columns(),
    shard_rows: int = SHARD_ROWS,
    device: Device = "auto",
    precision: Precision = "auto",
) -> Predicted:
    """Predict every row of a file with the champion of a name, or with the model of a run, and write the predictions to a file.

    Args:
        name: Name of the model.
        input: File of rows: CSV, TSV, JSON Lines, JSON or Parquet, an absolute path or `s3://bucket/key`.
        output: File to write: `.csv`, `.tsv`, `.jsonl` or `.parquet`, an absolute path or `s3://bucket/key`.
        store: Where the model is: a folder (an absolute path), `s3://bucket/prefix`, or `block:TYPE/NAME`.
        run: Name or key of the run whose model predicts; empty: the champion.
        columns: What the input's columns are called, where that is not as it was in training.
        shard_rows: Rows that are predicted and kept at a time: what a run that was interrupted loses at most.
        device: Where to compute; `auto` takes CUDA, else MPS, else the CPU.
        precision: Arithmetic of the matrix products; `auto` takes bf16 where the hardware is fast at it.
    """
    request = Request(
        name=name,
        input=input,
        output=output,
        store=store,
        run=run,
        columns=columns,
        shard_rows=shard_rows,
        device=device,
        precision=precision,
    )
    opened = open_existing(store)
    with alive(opened, str(flow_run.id)), tempfile.TemporaryDirectory(prefix="finetune-flows-") as scratch:
        job = check_input(request, opened, Path(scratch))
        predicted = predict_rows(job, opened, Path(scratch))
    _show(predicted)
    return predicted


def _show(predicted: Predicted) -> None:
    """Create the artifact of the Prefect UI; what came from outside is escaped."""
    create_table_artifact(
        key=f"{slug(predicted.name).lower().replace('.', '-').replace('_', '-')}-predictions",
        description=escape_markdown(f"{predicted.rows} rows predicted by {predicted.name}: {predicted.output}"),
        table=[{"What": what, "Value": escape_markdown(value)} for what, value in told(predicted).items()],
    )


def told(predicted: Predicted) -> dict[str, str]:
    """Return what a person is told of predictions."""
    return {
        "Predictions": predicted.output,
        "Input": predicted.input,
        "Rows": f"{predicted.rows:,}",
        "Without a text, and so without a prediction": f"{predicted.unread:,}",
        "Cut off at the model's length": f"{predicted.truncated:,}",
        "Model": f"{predicted.name} of run {predicted.run}",
        "Digest of its weights": predicted.model,
        "Computed on": ", ".join(predicted.devices),
        "Shards": f"{predicted.shards:,}, of which {predicted.reused:,} were there already",
        "Rows per second": f"{predicted.rows_per_s:,.1f}" if predicted.rows_per_s else "-",
    }
