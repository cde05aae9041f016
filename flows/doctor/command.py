"""Say whether a run would work here: `python -m flows doctor`."""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

from huggingface_hub import constants

from blocks.artifact_store import ArtifactStore, open_store
from blocks.cache import default_cache
from blocks.probe import address_of, probe
from blocks.urls import hide_users
from flows.arguments import Parser
from flows.console import print_line, print_table
from flows.doctor.findings import Check, Finding, Status, make_all
from flows.doctor.hub import HUB_LIMIT_S, check_data_source, check_hub, check_model_source
from flows.doctor.machine import DEVICES_LIMIT_S, check_devices, check_disk
from flows.doctor.server import SERVER_LIMIT_S, check_server
from flows.doctor.versions import check_versions
from flows.launch import prefect_api
from tasks.config import ExperimentConfig
from tasks.kinds import kind_names, load_kind
from tasks.parsing import merge, parse_config, read_config_file
from tasks.preflight import preflight
from tasks.text import one_line

_DESCRIPTION = """\
Say whether a run would work here: one line per check, with the remedy where something is amiss. The exit code is 1 if a run would
fail; a warning is no failure."""
_HERE_LIMIT_S = 5.0
# The client of S3 tries four times, with up to 7 s of pauses.
_STORE_LIMIT_S = 10.0
# A block is kept by Prefect, and its temporary server takes 5 to 11 s to start, more on a busy machine.
_BLOCK_LIMIT_S = 60.0
# It reads the first 10,000 rows of each split.
_PREFLIGHT_LIMIT_S = 30.0


def doctor(argv: Sequence[str]) -> bool:
    """Print what is found and return whether a run would work.

    Raises:
        ConfigError: an unknown flag, or a config with a fault.
    """
    options = _parse(argv)
    config = _config(options)
    findings = [_told(one) for one in make_all([*_checks(options.kind, config, with_config=options.config is not None)])]
    failed = sum(one.status == "FAIL" for one in findings)
    if options.json:
        print_line(json.dumps({"works": not failed, "checks": [asdict(one) for one in findings]}))
        return not failed
    rows = [(one.status, one.check, f"{one.finding}; {one.remedy}" if one.remedy else one.finding) for one in findings]
    print_table(("", "check", "finding and remedy"), rows)
    print_line(f"\n{_summary(failed, sum(one.status == 'warn' for one in findings))}")
    return not failed


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m flows doctor", description=_DESCRIPTION)
    parser.add_argument("--config", metavar="FILE_OR_PRESET", help="YAML file or preset: check what its run needs, too")
    parser.add_argument(
        "--kind",
        default="text-classification",
        metavar="KIND",
        help=f"kind that the config is for: {', '.join(kind_names())} (default: %(default)s)",
    )
    parser.add_argument(
        "--store", help="check this store instead: a folder, s3://bucket/prefix or block:TYPE/NAME (default: the config's)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser.parse_args(list(argv))


def _config(options: argparse.Namespace) -> ExperimentConfig:
    values = read_config_file(options.config) if options.config else {}
    flags = {} if options.store is None else {"store": options.store}
    origin = repr(options.config) if options.config else "the command line"
    return parse_config(load_kind(options.kind).config_class, merge(values, flags), origin)


def _checks(kind: str, config: ExperimentConfig, *, with_config: bool) -> Iterator[Check]:
    is_block = config.store.startswith("block:")
    is_folder = not is_block and "://" not in config.store
    # Two that make a folder and take it away again must not do so at the same time.
    alone: AbstractContextManager[object] = threading.Lock() if is_folder else nullcontext()
    yield Check("versions", check_versions, _HERE_LIMIT_S)
    # The compute process holds its own limit.
    yield Check("device", partial(check_devices, config), DEVICES_LIMIT_S + _HERE_LIMIT_S)
    yield Check("store", partial(_check_store, config.store, alone), _BLOCK_LIMIT_S if is_block else _STORE_LIMIT_S)
    yield from _disks(config.store, is_folder=is_folder)
    yield Check("Prefect server", partial(check_server, config), SERVER_LIMIT_S)
    yield Check("Hub", check_hub, HUB_LIMIT_S, otherwise="warn")
    if with_config:
        yield Check("model", partial(check_model_source, config.model), HUB_LIMIT_S)
        yield Check("data", partial(check_data_source, config.data), HUB_LIMIT_S)
        yield Check("preflight", partial(_preflight, kind, config, alone), _PREFLIGHT_LIMIT_S)


def _disks(store: str, *, is_folder: bool) -> Iterator[Check]:
    """Yield a check of each folder that runs fill. A store in a folder needs no cache."""
    worst: Status = "warn" if is_folder else "FAIL"
    folders: list[tuple[str, Callable[[], Path], str, Status]] = [
        ("store", lambda: Path(address_of(open_store(store))), "store", "FAIL"),
        ("cache", lambda: default_cache().root, "FINETUNE_FLOWS_CACHE", worst),
        ("temporary", lambda: Path(tempfile.gettempdir()), "TMPDIR", "FAIL"),
        # What has been downloaded already needs no room.
        ("Hub cache", lambda: Path(constants.HF_HUB_CACHE).absolute(), "HF_HUB_CACHE", "warn"),
    ]
    for folder in folders if is_folder else folders[1:]:
        yield Check(f"disk ({folder[0]})", partial(check_disk, *folder), _HERE_LIMIT_S, otherwise=folder[3])


def _check_store(address: str, alone: AbstractContextManager[object]) -> Iterator[Finding]:
    store = _open(address)
    with alone:
        started = time.perf_counter()
        probe(store)
        took_ms = 1000 * (time.perf_counter() - started)
    name = f"{address} ({address_of(store)})" if address.startswith("block:") else address_of(store)
    yield Finding("ok", "store", f"{name}: written, read, swapped and deleted in {took_ms:.0f} ms")


def _open(address: str) -> ArtifactStore:
    if not address.startswith("block:"):
        return open_store(address)
    with prefect_api():
        return open_store(address)


def _preflight(kind: str, config: ExperimentConfig, alone: AbstractContextManager[object]) -> Iterator[Finding]:
    with alone:
        preflight(kind, config)
    yield Finding("ok", "preflight", "the config, its files and its rows are in order")


def _told(finding: Finding) -> Finding:
    """Return a finding as one line without secrets, wherever its words come from."""
    text, remedy = (one_line(hide_users(words), 1000).removesuffix(".") for words in (finding.finding, finding.remedy))
    return Finding(finding.status, finding.check, text, remedy)


def _summary(failed: int, warned: int) -> str:
    said = f"{warned} warning{'s' if warned > 1 else ''}" if warned else ""
    if not failed:
        return f"A run would work here{f', with {said}' if said else ''}."
    return f"A run would fail here: {failed} check{'s' if failed > 1 else ''} failed{f', {said}' if said else ''}."
