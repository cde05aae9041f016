"""The Hugging Face Hub or its cache, and whether the model and the dataset of a config can be had."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from blocks.urls import shown
from flows.doctor.findings import Finding
from tasks.config import DataSettings, ModelSettings
from tasks.data.names import is_remote
from tasks.data.source import is_hub_id
from tasks.hub import RepoType, cached_snapshot, is_offline, resolve_commit
from tasks.models import local_folder
from tasks.preflight import check_model

HUB_LIMIT_S = 5.0
"""Seconds for all that is asked of the Hub in one check."""

_ANSWER_LIMIT_S = 3.0
_ONLINE = "unset HF_HUB_OFFLINE, or run once with a network"


def check_hub() -> Iterator[Finding]:
    """Ask the Hub for an answer, whatever it is; where that is forbidden, say what the cache has."""
    cached = f"the cache {constants.HF_HUB_CACHE} has {_count('model')} and {_count('dataset')}"
    if is_offline():
        yield Finding("ok", "Hub", f"HF_HUB_OFFLINE is set: nothing is downloaded; {cached}")
        return
    url = shown(constants.ENDPOINT)
    if reason := _silence():
        text = f"{url} does not answer ({reason}); {cached}"
        yield Finding("warn", "Hub", text, "check the network, or set HF_HUB_OFFLINE=1 to use the cache alone")
    else:
        yield Finding("ok", "Hub", f"{url} answers; {cached}")


def _silence() -> str:
    """Return why the Hub gives no answer; empty if it gives one, whatever that is."""
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_ANSWER_LIMIT_S)
    except Exception as error:
        # Which errors these are depends on the HTTP client that the library uses.
        return type(error).__name__
    return ""


def _count(repo_type: RepoType) -> str:
    count = sum(path.is_dir() for path in Path(constants.HF_HUB_CACHE).glob(f"{repo_type}s--*/snapshots"))
    return f"{count} {repo_type}{'' if count == 1 else 's'}"


def check_model_source(model: ModelSettings) -> Iterator[Finding]:
    """Look for a config's model: in its package, in a folder, in the cache, on the Hub."""
    check_model(model)
    if model.name == "quickstart":
        yield Finding("ok", "model", "'quickstart' is in its package")
    elif (folder := local_folder(model)) is not None:
        yield Finding("ok", "model", f"Folder {str(folder)!r} is there")
    else:
        suffixes = (".safetensors", ".bin") if model.allow_pickle else (".safetensors",)
        yield _find("model", model.name, model.revision, lambda file: file.suffix in suffixes)


def check_data_source(data: DataSettings) -> Iterator[Finding]:
    """Look for a config's dataset: in its package, here, in the cache, on the Hub; S3 is for the preflight to ask."""
    if is_remote(data):
        yield Finding("ok", "data", f"{data.source} is in S3; the preflight lists it")
    elif data.source == "quickstart":
        there = importlib.util.find_spec("botocore") is not None
        missing = Finding("FAIL", "data", "'quickstart' needs the package botocore", "pip install botocore")
        yield Finding("ok", "data", "'quickstart' is in its package") if there else missing
    elif is_hub_id(data):
        yield _find("dataset", data.source, data.revision, lambda file: file.name not in ("README.md", ".gitattributes"))
    else:
        yield Finding("ok", "data", f"{data.source!r} is here; the preflight reads it")


def _find(repo_type: RepoType, name: str, revision: str | None, is_content: Callable[[Path], bool]) -> Finding:
    """Find a repository in the cache, or ask the Hub for it as a run would, which keeps a file of a few hundred bytes."""
    check = "data" if repo_type == "dataset" else "model"
    snapshot = cached_snapshot(repo_type, name, revision or "main")
    if snapshot and any(is_content(file) for file in snapshot.rglob("*") if file.is_file()):
        return Finding("ok", check, f"{name!r} is in the cache, commit {snapshot.name[:12]}")
    # The library would try again for half a minute.
    if not is_offline() and (reason := _silence()):
        text = f"{name!r} is not in the cache, and {shown(constants.ENDPOINT)} does not answer ({reason})"
        return Finding("FAIL", check, text, "check the network, or name a folder")
    commit = resolve_commit(repo_type, name, revision)
    if is_offline():
        # A run that was interrupted has left the first small files of it.
        return Finding("FAIL", check, f"{name!r} is not whole in the cache and HF_HUB_OFFLINE is set", _ONLINE)
    return Finding("ok", check, f"{name!r} is on the Hub, commit {commit[:12]}, and will be downloaded")
