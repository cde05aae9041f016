"""The task `preflight`: the inputs are pinned, and a store that a worker would lose is refused."""

import shutil
from pathlib import Path

import pytest
from prefect import flow

from tasks.config import ModelSettings
from tasks.data.source import local_identity
from tasks.errors import ConfigError, ModelError
from tasks.inputs import pin_inputs, refuse_relative_store
from tasks.kinds.text_classification import TextClassificationConfig, TextClassificationData
from tasks.models import model_identity
from tasks.records import Inputs

KIND = "text-classification"


def configure(store: Path | str, model: Path | str = "quickstart", source: Path | str = "quickstart") -> TextClassificationConfig:
    return TextClassificationConfig(
        store=str(store), model=ModelSettings(name=str(model)), data=TextClassificationData(source=str(source))
    )


@pytest.mark.usefixtures("prefect_api")
def test_inputs_are_pinned_by_their_bytes(tmp_path: Path, encoder: Path, topics_csv: Path) -> None:
    model, source = tmp_path / "model", tmp_path / "topics.csv"
    shutil.copytree(encoder, model)
    shutil.copy(topics_csv, source)
    config = configure(tmp_path / "store", model, source)

    @flow
    def pin() -> list[Inputs]:
        pinned = [pin_inputs(KIND, config)]
        with source.open("a", encoding="utf-8") as stream:
            stream.write("one more goal,sport\n")
        return [*pinned, pin_inputs(KIND, config)]

    before, after = pin()
    assert before.data_identity != after.data_identity == local_identity(config.data)
    assert before.model_identity == after.model_identity == model_identity(config.model)
    assert not (tmp_path / "store").exists()


@pytest.mark.usefixtures("prefect_api")
def test_a_fault_is_found_and_not_tried_again(tmp_path: Path) -> None:
    @flow
    def pin() -> Inputs:
        return pin_inputs(KIND, configure(tmp_path / "store", tmp_path / "none"))

    with pytest.raises(ModelError, match=r"is not there; check model\.name"):
        pin()


RELATIVE = ["artifacts", "./a/b", "../x"]
ABSOLUTE = ["/srv/artifacts", "~/artifacts", "s3://bucket/prefix"]


@pytest.mark.parametrize("store", RELATIVE)
def test_a_relative_store_is_refused_in_a_deployments_run(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    refuse_relative_store(configure(store))
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "11111111-1111-1111-1111-111111111111")
    with pytest.raises(ConfigError, match=f"^Store '{store}' is a relative path, .*; set store to an absolute path"):
        refuse_relative_store(configure(store))
    with pytest.raises(ConfigError, match="is a relative path"):
        pin_inputs.fn(KIND, configure(store))


@pytest.mark.parametrize("store", RELATIVE)
def test_a_relative_store_is_refused_with_a_gpu_deployment(store: str) -> None:
    config = configure(store).model_copy(update={"gpu_deployment": "gpu-stage/gpu-stage"})
    with pytest.raises(ConfigError, match="is a relative path"):
        refuse_relative_store(config)


@pytest.mark.parametrize("store", ABSOLUTE)
def test_an_absolute_store_serves_any_run(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "11111111-1111-1111-1111-111111111111")
    refuse_relative_store(configure(store).model_copy(update={"gpu_deployment": "gpu-stage/gpu-stage"}))


def test_an_unknown_users_folder_is_no_absolute_path() -> None:
    config = configure("~no-such-user-here/x").model_copy(update={"gpu_deployment": "gpu-stage/gpu-stage"})
    with pytest.raises(ConfigError, match="is a relative path"):
        refuse_relative_store(config)
