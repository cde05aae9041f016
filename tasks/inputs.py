"""The task `preflight`: check the configuration, and pin what it names, before anything costs time."""

import os

from prefect import task
from prefect.runtime import deployment

from tasks.config import ExperimentConfig
from tasks.data.step import data_identity
from tasks.errors import ConfigError
from tasks.models import model_identity
from tasks.preflight import preflight
from tasks.records import Inputs
from tasks.steps import TASK_OPTIONS


@task(name="preflight", task_run_name="preflight", **TASK_OPTIONS)
def pin_inputs(kind_name: str, config: ExperimentConfig) -> Inputs:
    """Check the configuration and return the identities of the bytes that `data.source` and `model.name` stand for now.

    Raises:
        InputError: the first fault found.
    """
    refuse_relative_store(config)
    preflight(kind_name, config, in_run=True)
    identity = data_identity(config.data, config.store)
    return Inputs(data_identity=identity, model_identity=model_identity(config.model))


def refuse_relative_store(config: ExperimentConfig) -> None:
    """Refuse a store that is another folder on another machine, or in a worker's temporary folder.

    Raises:
        ConfigError: the store is a relative path, and a deployment runs this or its GPU stage.
    """
    is_path = "://" not in config.store and not config.store.startswith("block:")
    relative = is_path and not os.path.isabs(os.path.expanduser(config.store))
    if relative and (deployment.id or config.gpu_deployment):
        raise ConfigError(
            f"Store {config.store!r} is a relative path, which a worker would keep in a temporary folder; "
            "set store to an absolute path or to s3://bucket/prefix."
        )
