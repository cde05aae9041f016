"""Which model predicts: the champion of a name, or that of a run."""

from collections.abc import Mapping
from typing import Any

from blocks.artifact_store import ArtifactStore, LocalStore, open_store
from blocks.keys import is_key
from tasks.champions import read_registry
from tasks.config import did_you_mean
from tasks.errors import ConfigError
from tasks.records import Record
from tasks.trained import weights_digest


class Chosen(Record):
    """The model that predicts; `key` is the artifact of its training."""

    name: str
    run: str
    """Name of the run that made it."""
    digest: str
    """Sha256 of its weights."""
    calibration: dict[str, float]
    """What was chosen on validation and its predictions depend on."""


def open_existing(address: str) -> ArtifactStore:
    """Open a store that is there.

    Raises:
        ConfigError: it is a folder that is not there.
        StoreError: it cannot be opened.
    """
    store = open_store(address)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise ConfigError(f"Store {address!r} is not there: no folder {str(store.root)!r}; set store.")
    return store


def choose_model(store: ArtifactStore, name: str, run: str = "") -> Chosen:
    """Return the champion of a name, or the model of one of its runs.

    Args:
        store: Where it is.
        name: The model's name.
        run: Name of the run, or its key; empty: the champion.

    Raises:
        ConfigError: there is none; says what there is.
        StoreError: the store does not answer.
    """
    chosen = _of_run(store, name, run) if run else _champion(store, name)
    if store.inspect(chosen.key) is None:
        raise _gone(chosen.run, chosen.key)
    return chosen


def _champion(store: ArtifactStore, name: str) -> Chosen:
    known = store.list_pointers()
    registry = read_registry(store, name)[0] if name in known else None
    champion = registry.champion if registry else None
    if champion is None:
        runs = _runs_of(_records(store), name)
        if runs:
            raise ConfigError(
                f"Model {name!r} has no champion yet; promote one of its runs, or set run to one of them: {_listed(runs)}."
            )
        there = did_you_mean(name, known) if known else "; no model in this store has one"
        raise ConfigError(f"There is no model {name!r} with a champion{there}.")
    return Chosen(
        key=champion.key,
        name=name,
        run=champion.run,
        digest=champion.digest,
        calibration=champion.calibration,
    )


def _of_run(store: ArtifactStore, name: str, run: str) -> Chosen:
    record = _find_run(store, name, run)
    if record.get("name") != name:
        raise ConfigError(f"Run {run!r} is of the model {record.get('name')!r}, not {name!r}; set one of the two.")
    try:
        key, scores = (record["steps"][step] for step in ("fine-tune", "evaluate-fine-tuned"))
    except (KeyError, TypeError):
        raise ConfigError(f"Run {run!r} names no trained model; it was made by another version. Choose another run.") from None
    manifest, scored = store.inspect(key), store.find(scores)
    if manifest is None or scored is None:
        raise _gone(run, key)
    return Chosen(
        key=key,
        name=name,
        run=str(record.get("flow_run", run)),
        digest=weights_digest(manifest),
        calibration=scored.get("calibration", {}),
    )


def _gone(run: str, key: str) -> ConfigError:
    return ConfigError(f"The model of run {run!r}, {key}, is not whole in the store any more; choose another run.")


def _find_run(store: ArtifactStore, name: str, run: str) -> Mapping[str, Any]:
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
        raise ConfigError(f"{len(named)} runs are called {run!r}; set run to the key of one: {_listed(named)}.")
    known = _runs_of(records, name)
    there = did_you_mean(run, list(known)) if known else f"; no run of model {name!r} is in this store"
    raise ConfigError(f"There is no run {run!r}{there}.")


def _records(store: ArtifactStore) -> dict[str, Mapping[str, Any]]:
    """Return the records of all runs by key, the newest first."""
    found = sorted(store.manifests("runs").items(), key=lambda item: item[1].published, reverse=True)
    return {key: manifest.record for key, manifest in found}


def _runs_of(records: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Mapping[str, Any]]:
    return {key: record for key, record in records.items() if record.get("name") == name}


def _listed(keys: Mapping[str, Any]) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(repr(key) for key in list(keys)[:5]) + more
