"""Champions: the model that is in production under each name, a pointer in the store with its history.

The pointer `<name>` holds `champions`, the newest last, for going back, and `ticks`, what became of each run's model. Every
change is a conditional write, so two runs that end together cannot both write what they decided on the same state.
"""

from pydantic import BaseModel, ConfigDict

from blocks.artifact_store import ArtifactStore
from blocks.errors import StoreConfigError
from tasks.config import ExperimentConfig
from tasks.errors import ConfigError
from tasks.kinds import load_kind
from tasks.records import Outcome, Record

CHAMPIONS_KEPT = 10
"""Champions that can be gone back to; their artifacts are kept."""
TICKS_KEPT = 1_000


class Champion(Record):
    """A model that is or was the champion; `key` is the artifact of its training."""

    run: str
    """Name of the flow run that made it."""
    run_id: str
    """Its id; empty where a person promoted it."""
    report: str
    """Key of the run's folder."""
    since: str
    """When it was promoted: ISO 8601, UTC."""
    scores: str
    """Key of its scores on the test rows of that run."""
    calibration: dict[str, float]
    """What was chosen on validation and its predictions depend on."""
    digest: str
    """Sha256 of its weights."""

    @property
    def training(self) -> str:
        """Digest of its training."""
        return self.key.rpartition("/")[2]


class Tick(BaseModel):
    """What became of a run's model. Names artifacts by digests alone, so that it keeps none of them."""

    model_config = ConfigDict(frozen=True)

    at: str
    """ISO 8601, UTC."""
    outcome: Outcome
    reasons: list[str]
    """Why, a line each."""
    run: str
    run_id: str
    model: str
    """Digest of the training that made the model."""
    weights: str = ""
    """Sha256 of its weights; empty in what was written before they were kept."""
    champion: str = ""
    """That of the champion that it was compared with; empty if there was none."""
    metric: str
    """The primary metric."""
    untouched: float
    """Its value for the untouched model."""
    challenger: float
    """For the run's model, on all test rows."""
    compared: float | None = None
    """For the champion, on the rows that neither was trained on."""
    difference: float | None = None
    """Challenger less champion, on these rows."""
    interval: tuple[float, float] | None = None
    """Of the difference."""
    rows: int
    """Test rows."""
    test: str
    """Digest of the test rows: values of different ones do not compare."""
    noise: float | None = None
    """Standard deviation of the metric from seed to seed, where it was measured."""


class Registry(BaseModel):
    """What the pointer of a name says."""

    model_config = ConfigDict(frozen=True)

    kind: str
    primary_metric: str
    champions: list[Champion] = []
    ticks: list[Tick] = []

    @property
    def champion(self) -> Champion | None:
        """The champion, if there is one."""
        return self.champions[-1] if self.champions else None

    def tick_of(self, run_id: str) -> Tick | None:
        """Return what became of the model of a run, if the run has come to that."""
        return next((tick for tick in reversed(self.ticks) if run_id and tick.run_id == run_id), None)

    def rolled_back(self, model: Champion) -> Tick | None:
        """Return when a model was last taken back, unless it was promoted by hand since.

        It is known by its weights, which are the same if it was trained again elsewhere, or else by its training.
        """
        found = [tick for tick in self.ticks if tick.outcome in ("rolled back", "promoted") and _is_of(tick, model)]
        return found[-1] if found and found[-1].outcome == "rolled back" else None

    def met_by(self, run_id: str) -> Champion | None:
        """Return the champion that a run has to measure itself with, which is not one that it made in an attempt before."""
        others = [champion for champion in self.champions if not run_id or champion.run_id != run_id]
        return others[-1] if others else None

    def after(self, tick: Tick, champion: Champion | None = None) -> "Registry":
        """Return it with a tick more, and a champion where there is a new one."""
        champions = [*self.champions, champion][-CHAMPIONS_KEPT:] if champion else self.champions
        return self.model_copy(update={"champions": champions, "ticks": [*self.ticks, tick][-TICKS_KEPT:]})


def _is_of(tick: Tick, model: Champion) -> bool:
    return tick.weights == model.digest if tick.weights else tick.model == model.training


def read_registry(store: ArtifactStore, name: str) -> tuple[Registry | None, str | None]:
    """Return what the store says of a name, and the version of that; None and None if nothing.

    Raises:
        StoreConfigError: the pointer does not hold a champion.
    """
    pointer = store.read_pointer(name)
    if pointer is None:
        return None, None
    try:
        return Registry.model_validate(pointer.value), pointer.version
    except ValueError:
        raise StoreConfigError(f"Pointer {name!r} of the store is not one of champions; choose another name.") from None


def check_fits(registry: Registry, kind_name: str, config: ExperimentConfig) -> None:
    """Check that models of this kind go by the name.

    Raises:
        ConfigError: it is that of models of another kind, or measured otherwise.
    """
    metric = load_kind(kind_name)(config).primary_metric
    if (registry.kind, registry.primary_metric) != (kind_name, metric):
        raise ConfigError(
            f"The store keeps a {registry.kind} model, judged by {registry.primary_metric}, under the name {config.name!r}; this "
            f"one is of {kind_name}, judged by {metric}: set name to another."
        )


def write_registry(store: ArtifactStore, name: str, registry: Registry, expected: str | None) -> None:
    """Replace what the store says of a name.

    Raises:
        PointerChanged: it is at another version than expected.
    """
    store.swap_pointer(name, registry.model_dump(mode="json"), expected)
