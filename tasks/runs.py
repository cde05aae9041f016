"""Runs as the store keeps them: found again by their names."""

from pydantic import ValidationError

from blocks.artifact_store import ArtifactStore
from tasks.config import did_you_mean
from tasks.errors import ConfigError
from tasks.records import Report
from tasks.text import slug


def find_run(store: ArtifactStore, name: str, run: str) -> Report:
    """Return the newest run of a model that goes by a name.

    Args:
        store: The store.
        name: Of the model.
        run: The flow run's name, or the run's key: `runs/…`.

    Raises:
        ConfigError: there is none, it is of another model, or another version of the project wrote it.
    """
    manifests = {key: manifest for key, manifest in store.manifests("runs").items() if manifest.record.get("name") == name}
    wanted = {run, f"runs/{run}", f"runs/{slug(run)}"}
    found = [key for key in manifests if key in wanted or key.rpartition("-")[0] in wanted]
    if not found:
        newest = sorted(manifests, key=lambda key: manifests[key].published, reverse=True)
        raise ConfigError(f"Run {run!r} of {name!r} is not in the store{did_you_mean(run, [key[5:] for key in newest])}.")
    key = max(found, key=lambda key: manifests[key].published)
    try:
        return Report.model_validate(manifests[key].record)
    except ValidationError:
        raise ConfigError(f"Run {run!r} was written by another version of finetune-flows; run it again.") from None
