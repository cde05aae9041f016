"""Which model predicts: the champion of a name, or that of a run."""

from blocks.artifact_store import ArtifactStore
from tasks.champions import Champion, read_registry
from tasks.errors import ConfigError
from tasks.parsing import did_you_mean
from tasks.records import Record
from tasks.runs import champion_of, find_run, gone, listed, runs_of


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
    model = champion_of(store, find_run(store, name, run)) if run else _champion(store, name)
    if store.inspect(model.key) is None:
        raise gone(model.run, model.key)
    return Chosen(name=name, **model.model_dump(include={"key", "run", "digest", "calibration"}))


def _champion(store: ArtifactStore, name: str) -> Champion:
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
    return champion
