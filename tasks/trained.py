"""What the artifact of a training holds beside `model/`: all that it takes to use the model, and the rows that it has seen."""

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from blocks.artifact_store import Manifest
from tasks.config import ExperimentConfig
from tasks.data.arrays import as_array
from tasks.errors import ModelError
from tasks.kinds import load_kind
from tasks.kinds.kind import Array
from tasks.steps import Run, read_json, write_json

if TYPE_CHECKING:
    import datasets

_EXPERIMENT = "experiment.json"
_SEEN = "seen.npy"
# Where a run keeps things, and what becomes of its model, are not the model's.
_NOT_OF_MODEL = {"name", "store", "gpu_deployment", "gpu_wait_s", "gpu_absent", "notify", "gate"}


@dataclass(frozen=True)
class Trained:
    """A trained model."""

    kind_name: str
    config: ExperimentConfig
    """As it was trained; without the store and what else is not the model's."""
    labels: list[str]
    """Names of its classes in the order of their numbers."""
    folder: Path
    """Of the artifact."""

    @property
    def model(self) -> Path:
        """Folder that `from_pretrained` takes."""
        return self.folder / "model"

    def seen(self) -> Array:
        """Return the hashes of the rows that it was trained on or that chose its epoch, sorted, uint64."""
        found: Array = np.load(self.folder / _SEEN)
        return found


def write_trained(folder: Path, run: Run, labels: list[str], rows: "list[datasets.Dataset]") -> None:
    """Write what `read_trained` reads, beside `model/`.

    Args:
        folder: The artifact's.
        run: The run that trains.
        labels: Names of the classes.
        rows: The splits that training has seen, with the column `hash`.
    """
    config: dict[str, Any] = run.config.model_dump(mode="json", exclude=_NOT_OF_MODEL)
    write_json(folder / _EXPERIMENT, {"kind": run.kind_name, "config": config, "labels": labels})
    np.save(folder / _SEEN, np.unique(np.concatenate([as_array(split, "hash") for split in rows])))


def weights_digest(manifest: Manifest) -> str:
    """Return the sha256, as hex, of the digests of a trained model's weights in the order of their files' names.

    Args:
        manifest: Of the artifact of the training.
    """
    weights = [entry.sha256 for name, entry in sorted(manifest.files.items()) if fnmatchcase(name, "model/*.safetensors")]
    return hashlib.sha256("\n".join(weights).encode()).hexdigest()


def read_trained(folder: Path) -> Trained:
    """Read the artifact of a training.

    Raises:
        ModelError: it is of a version of this project whose settings were others.
    """
    try:
        content = read_json(folder / _EXPERIMENT)
        config = load_kind(content["kind"]).config_class.model_validate(content["config"])
        return Trained(content["kind"], config, content["labels"], folder)
    except (OSError, ValidationError, KeyError) as error:
        raise ModelError(
            f"Artifact {str(folder)!r} was made by another version of finetune-flows, whose settings do not fit this one's "
            f"({type(error).__name__}); use that version, or train again."
        ) from None
