"""Runs as the store keeps them, found again by name or key, and stores that are there."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from blocks.artifact_store import ArtifactStore, LocalStore, open_store
from blocks.keys import is_key
from tasks.champions import Champion
from tasks.errors import ConfigError
from tasks.parsing import did_you_mean
from tasks.records import Report
from tasks.trained import weights_digest

_MOST_LISTED = 5


def open_existing(address: str, setting: str = "store") -> ArtifactStore:
    """Open a store that is there; `setting` is what the remedy names.

    Raises:
        ConfigError: it is a folder that is not there.
        StoreError: it cannot be opened.
    """
    store = open_store(address)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise ConfigError(f"Store {address!r} is not there: no folder {str(store.root)!r}; set {setting}.")
    return store


def find_run(store: ArtifactStore, name: str, run: str) -> Report:
    """Return a run of a model.

    Args:
        store: Where it is.
        name: The model's name.
        run: The flow run's name, or the run's key: `runs/…`.

    Raises:
        ConfigError: there is none, there are several, it is of another model, or another version of the project wrote it.
        StoreError: the store does not answer.
    """
    record = _find(store, name, run)
    if record.get("name") != name:
        raise ConfigError(f"Run {run!r} is of the model {record.get('name')!r}, not {name!r}; set one of the two.")
    try:
        return Report.model_validate(record)
    except ValidationError:
        raise ConfigError(f"Run {run!r} was made by another version of finetune-flows; choose another run.") from None


def champion_of(store: ArtifactStore, report: Report) -> Champion:
    """Return a run's model as a champion that a person chose.

    Raises:
        ConfigError: its artifacts are no longer in the store.
    """
    model, scores = (report.steps[step] for step in ("fine-tune", "evaluate-fine-tuned"))
    manifest, record = store.inspect(model), store.find(scores)
    if manifest is None or record is None:
        raise gone(report.flow_run, model)
    return Champion(
        key=model,
        run=report.flow_run,
        run_id="",
        report=report.key,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        scores=scores,
        calibration=record.get("calibration", {}),
        digest=weights_digest(manifest),
    )


def gone(run: str, key: str) -> ConfigError:
    """Return the error of a model that is not whole any more."""
    return ConfigError(f"The model of run {run!r}, {key}, is not whole in the store any more; choose another run.")


def runs_of(store: ArtifactStore, name: str) -> list[str]:
    """Return the keys of a model's runs, the newest first."""
    return list(_of_model(_records(store), name))


def listed(keys: list[str]) -> str:
    """Return the first of some keys, and how many more there are."""
    more = f" and {len(keys) - _MOST_LISTED} more" if len(keys) > _MOST_LISTED else ""
    return ", ".join(repr(key) for key in keys[:_MOST_LISTED]) + more


def _find(store: ArtifactStore, name: str, run: str) -> Mapping[str, Any]:
    """Return the record of the run with that key, or else with that name."""
    key = run if run.startswith("runs/") else f"runs/{run}"
    found = store.find(key) if is_key(key) else None
    if found is not None:
        return found
    records = _records(store)
    named = {key: record for key, record in records.items() if record.get("flow_run") == run}
    if len(named) == 1:
        return next(iter(named.values()))
    if named:
        raise ConfigError(f"{len(named)} runs are called {run!r}; set run to the key of one: {listed(list(named))}.")
    known = list(_of_model(records, name))
    there = did_you_mean(run, known) if known else f"; no run of model {name!r} is in this store"
    raise ConfigError(f"There is no run {run!r}{there}.")


def _records(store: ArtifactStore) -> dict[str, Mapping[str, Any]]:
    """Return the records of all runs by key, the newest first."""
    found = sorted(store.manifests("runs").items(), key=lambda item: item[1].published, reverse=True)
    return {key: manifest.record for key, manifest in found}


def _of_model(records: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Mapping[str, Any]]:
    return {key: record for key, record in records.items() if record.get("name") == name}
