"""The Hugging Face Hub: pinning revisions and finding or downloading snapshots, online or from the local cache alone."""

from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from tasks.errors import DataError, HubUnavailable, ModelError
from tasks.text import one_line

RepoType = Literal["model", "dataset"]
# Asking for a file writes the cache's `refs`, without which a later offline run cannot resolve a branch.
_PROBE: dict[RepoType, str] = {"model": "config.json", "dataset": "README.md"}
_MODEL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids asking the Hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def resolve_commit(repo_type: RepoType, name: str, revision: str | None) -> str:
    """Return the commit that `revision` (None: the newest) stands for.

    Raises:
        DataError, ModelError: no such repository or revision, no access, or offline and not in the cache.
        HubUnavailable: the Hub does not answer.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    if is_offline():
        # A snapshot may lack the file that is asked for below.
        if (snapshot := cached_snapshot(repo_type, name, revision or "main")) is not None:
            return snapshot.name
        name = _cached_name(repo_type, name)
    wrong = DataError if repo_type == "dataset" else ModelError
    field = "data.source" if repo_type == "dataset" else "model.name"
    what = f"{repo_type.capitalize()} {name!r}"
    try:
        try:
            file = hub.hf_hub_download(name, _PROBE[repo_type], repo_type=repo_type, revision=revision)
            return Path(file).parent.name
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError):
                raise
            return str(hub.HfApi().repo_info(name, repo_type=repo_type, revision=revision).sha)
    except errors.GatedRepoError:
        raise wrong(f"{what} is gated: accept its terms on the Hub and set HF_TOKEN.") from None
    except errors.RevisionNotFoundError:
        raise wrong(f"{what} has no revision {revision!r}; check {field.partition('.')[0]}.revision.") from None
    except errors.RepositoryNotFoundError:
        raise wrong(f"{what} is neither a path here nor on the Hub, or HF_TOKEN lacks access; check {field}.") from None
    except errors.HFValidationError as error:
        raise wrong(f"{what} is not a Hub id ({one_line(error, 120)}); check {field}.") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if is_offline():
            raise wrong(
                f"{what} is not in the local cache and HF_HUB_OFFLINE is set; unset it or run once with a network."
            ) from None
        raise HubUnavailable(f"{what} is not in the local cache and the Hub does not answer; try again.") from error
    except _network_errors() as error:
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code == HTTPStatus.UNAUTHORIZED:
            raise wrong(f"{what} cannot be looked up: the Hub refuses HF_TOKEN; renew or unset it.") from None
        raise HubUnavailable(f"{what} could not be looked up: {one_line(error, 200)}; try again.") from error


def cached_snapshot(repo_type: RepoType, name: str, revision: str) -> Path | None:
    """Return the folder of a revision's snapshot in the local cache, or None if it is not there whole."""
    import huggingface_hub as hub

    try:
        return Path(
            hub.snapshot_download(_cached_name(repo_type, name), repo_type=repo_type, revision=revision, local_files_only=True)
        )
    except (OSError, ValueError):
        return None


def download_model(name: str, commit: str, *, weights: bool, allow_pickle: bool, remote_code: bool) -> Path:
    """Return a local folder with the model's files at `commit`, downloaded where needed.

    Args:
        name: Hub id.
        commit: Pinned revision.
        weights: Whether the weights are needed, or the tokenizer and configuration alone.
        allow_pickle: Whether pickled weights may be downloaded where there are no safetensors.
        remote_code: Whether the model's Python files are needed.

    Raises:
        HubUnavailable: the Hub does not answer.
        ModelError: offline and not in the cache.
    """
    import huggingface_hub as hub

    name = _cached_name("model", name) if is_offline() else name
    patterns = [pattern for pattern in _MODEL_FILES if weights or pattern != "*.safetensors"]
    patterns += ["*.py"] if remote_code else []
    ignored = None if remote_code else ["*/*"]
    try:
        # Offline, the library would ask for the list of files again and again, and wait in between.
        options: dict[str, Any] = {"revision": commit, "ignore_patterns": ignored, "local_files_only": is_offline()}
        folder = Path(hub.snapshot_download(name, allow_patterns=patterns, **options))
        if weights and allow_pickle and not any(folder.glob("*.safetensors")):
            hub.snapshot_download(name, allow_patterns=["*.bin", "*.bin.index.json"], **options)
        return folder
    except _network_errors() as error:
        if is_offline():
            raise ModelError(f"Model {name!r} is not whole in the local cache and HF_HUB_OFFLINE is set; unset it.") from None
        raise HubUnavailable(f"Model {name!r} could not be downloaded: {one_line(error, 200)}; try again.") from error


def _network_errors() -> tuple[type[Exception], ...]:
    """Return `OSError` and the base error of the HTTP client of `huggingface_hub`: some of its errors come through unchanged."""
    from huggingface_hub import errors

    return tuple(base for base in errors.HfHubHTTPError.__bases__ if issubclass(base, Exception))


def _cached_name(repo_type: RepoType, name: str) -> str:
    """Return the id under which the cache holds a bare name: `ag_news` may be there as `fancyzhx/ag_news`."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if "/" in name or (cache / f"{repo_type}s--{name}").is_dir():
        return name
    owned = sorted(cache.glob(f"{repo_type}s--*--{name}"))
    return "/".join(owned[0].name.split("--")[1:]) if len(owned) == 1 else name
