"""Datasets of the Hugging Face Hub, by id, configuration and revision; offline from the local cache."""

from tasks.config import DataSettings
from tasks.data.source import Source, parts_of
from tasks.errors import DataError, HubUnavailable
from tasks.hub import cached_snapshot, is_offline, resolve_commit
from tasks.text import one_line


def hub_identity(data: DataSettings) -> str:
    """Return the commit that `data.revision` (or the newest) stands for; raises what `resolve_commit` raises."""
    return resolve_commit("dataset", data.source, data.revision)


def open_hub(data: DataSettings, commit: str) -> Source:
    """Download (or find in the cache) the dataset at its pinned commit and open its splits.

    Raises:
        DataError: the dataset's configuration or a named split does not exist, or it cannot be read.
        HubUnavailable: the Hub does not answer.
    """
    import datasets

    datasets.disable_progress_bars()
    snapshot = cached_snapshot("dataset", data.source, commit) if is_offline() else None
    try:
        if snapshot is not None:
            loaded = datasets.load_dataset(str(snapshot), data.config_name)
        else:
            loaded = datasets.load_dataset(data.source, data.config_name, revision=commit)
    except (ConnectionError, TimeoutError) as error:
        raise HubUnavailable(f"Dataset {data.source!r} could not be downloaded: {one_line(error)}; try again.") from error
    except (ValueError, FileNotFoundError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"Dataset {data.source!r} cannot be loaded: {one_line(error)} Check data.config_name.") from error
    return parts_of(loaded, data)
