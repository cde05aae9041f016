"""Which model predicts: the champion of a name, or that of a run."""

from blocks.artifact_store import ArtifactStore
from tasks.champions import read_registry
from tasks.config import did_you_mean
from tasks.errors import ConfigError
from tasks.records import Record
from tasks.runs import find_run, listed, runs_of
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
        if runs := runs_of(store, name):
            raise ConfigError(
                f"Model {name!r} has no champion yet; promote one of its runs, or set run to one of them: {listed(runs)}."
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
    report = find_run(store, name, run)
    key, scores = (report.steps[step] for step in ("fine-tune", "evaluate-fine-tuned"))
    manifest, scored = store.inspect(key), store.find(scores)
    if manifest is None or scored is None:
        raise _gone(run, key)
    return Chosen(
        key=key,
        name=name,
        run=report.flow_run,
        digest=weights_digest(manifest),
        calibration=scored.get("calibration", {}),
    )


def _gone(run: str, key: str) -> ConfigError:
    return ConfigError(f"The model of run {run!r}, {key}, is not whole in the store any more; choose another run.")
