"""The command `predict`: the rows of a file, predicted by a champion or by the model of a run."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from flows.arguments import Parser
from flows.console import print_line
from tasks.data.files import open_file
from tasks.errors import ConfigError
from tasks.prediction.model import choose_model
from tasks.prediction.request import SHARD_ROWS, Columns, Device, Precision, Predicted, Request, check_places, is_remote
from tasks.prediction.rows import find_remote_file, make_reader, survey
from tasks.runs import open_existing
from tasks.trained import read_trained

_DESCRIPTION = """\
Predict every row of a file with the champion of a name, or with the model of a run. After an interruption start the same command
again: finished shards are kept in OUTPUT.parts until the file is whole."""
# As many rows of the input are checked before anything starts; all of them follow before the model is loaded.
_ROWS_CHECKED = 10_000


def predict(arguments: Sequence[str]) -> None:
    """Predict, and print where the predictions are.

    Raises:
        InputError: a wrong option, or no such model, or a wrong input.
        FlowsError, StoreError: what the flow raises.
    """
    options = _parse(arguments)
    request = _request(options)
    _check(request)
    from flows.launch import prefect_api

    with prefect_api(meanwhile=_load_libraries) as lasts:
        from flows.console import watching
        from flows.inference import predict as flow
        from flows.inference import told

        with watching(links=lasts):
            predicted: Predicted = flow(**{name: getattr(request, name) for name in Request.model_fields})
    for what, value in told(predicted).items():
        print_line(f"{what}: {value}")
    if options.json:
        print_line(predicted.model_dump_json())


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m flows predict", description=_DESCRIPTION)
    parser.add_argument("name", metavar="NAME", help="name of the model, whose champion predicts")
    parser.add_argument("input", metavar="INPUT", help="CSV, TSV, JSON Lines, JSON or Parquet file, also s3://bucket/key")
    parser.add_argument("output", metavar="OUTPUT", help="file to write: .csv, .tsv, .jsonl or .parquet, also s3://bucket/key")
    parser.add_argument("--store", default="artifacts", help="a folder, s3://bucket/prefix or block:TYPE/NAME (%(default)s)")
    parser.add_argument("--run", default="", help="name or key of the run whose model predicts instead of the champion")
    for name, field in Columns.model_fields.items():
        about = str(field.description)
        parser.add_argument(f"--{name}", metavar="COLUMN", help=about[:1].lower() + about[1:].rstrip("."))
    parser.add_argument("--shard_rows", type=_count, default=SHARD_ROWS, metavar="N", help="rows of a shard (%(default)s)")
    parser.add_argument("--device", choices=get_args(Device), default="auto", help="where to compute (%(default)s)")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto", help="arithmetic (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object in the last line")
    return parser.parse_args(list(arguments))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows, 1 to 9,999,999")
    return int(text)


def _request(options: argparse.Namespace) -> Request:
    if empty := [name for name in ("name", "input", "output", "store") if not getattr(options, name).strip()]:
        raise ConfigError(f"{empty[0]} is empty; give it.")
    columns = Columns(**{name: getattr(options, name) for name in Columns.model_fields})
    given = {name: getattr(options, name) for name in Request.model_fields if name != "columns"}
    return Request(**given, columns=columns)


def _check(request: Request) -> None:
    """Check what can be checked before Prefect starts; of an input in S3 that is whether it is there."""
    check_places(request)
    if request.store.startswith("block:"):
        return
    store = open_existing(request.store)
    chosen = choose_model(store, request.name, request.run)
    if is_remote(request.input):
        find_remote_file(request.input, store)
        return
    trained = read_trained(store.fetch(chosen.key))
    part = open_file(Path(request.input).expanduser(), request.input, setting="input")
    survey(*make_reader(trained, request.columns, part), limit=_ROWS_CHECKED)


def _load_libraries() -> None:
    import flows.console
    import flows.inference  # noqa: F401
