"""The store that a command is told of."""

from blocks.artifact_store import ArtifactStore, open_store
from tasks.runs import open_existing


def open_named(address: str) -> ArtifactStore:
    """Open a store that is there; one that is a block through Prefect's API, which is needed for no longer than that.

    Raises:
        ConfigError: it is a folder that is not there.
        StoreError: it cannot be opened.
    """
    if address.startswith("block:"):
        from flows.launch import prefect_api

        with prefect_api():
            return open_store(address)
    return open_existing(address, setting="--store")
