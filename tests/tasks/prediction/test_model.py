"""Which model predicts: the champion, or the model of a run; where there is none, what there is."""

from pathlib import Path

import pytest

from blocks.artifact_store import LocalStore
from tasks.champions import Registry, write_registry
from tasks.errors import ConfigError
from tasks.prediction.model import choose_model
from tasks.trained import weights_digest
from tests.predicting import crown, publish_run


def publish(store: LocalStore, folder: Path, key: str, weights: bytes = b"weights") -> str:
    """Publish what looks like a training's artifact."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(weights)
    (folder / "model" / "config.json").write_text("{}")
    store.publish(folder, key, {})
    return key


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    publish(store, tmp_path / "a", "steps/fine-tune/a", b"a")
    publish(store, tmp_path / "b", "steps/fine-tune/b", b"b")
    return store


def test_the_champion_of_the_name_predicts(store: LocalStore) -> None:
    champion = crown(store, "topics", "steps/fine-tune/a", calibration={"no_answer_threshold": 1.5})
    chosen = choose_model(store, "topics")
    assert (chosen.key, chosen.run, chosen.digest) == ("steps/fine-tune/a", "crowned", champion.digest)
    assert chosen.calibration == {"no_answer_threshold": 1.5}
    crown(store, "topics", "steps/fine-tune/b")
    assert choose_model(store, "topics").key == "steps/fine-tune/b"


def test_a_run_is_found_by_its_key_and_by_its_name(store: LocalStore, tmp_path: Path) -> None:
    crown(store, "topics", "steps/fine-tune/a")
    key = publish_run(store, tmp_path, "topics", "steps/fine-tune/b")
    manifest = store.inspect("steps/fine-tune/b")
    assert manifest is not None
    for run in (key, key.removeprefix("runs/"), "a-run"):
        chosen = choose_model(store, "topics", run)
        assert (chosen.key, chosen.run, chosen.digest) == ("steps/fine-tune/b", "a-run", weights_digest(manifest))


def test_the_digest_is_that_of_the_weights(store: LocalStore, tmp_path: Path) -> None:
    def digest(key: str) -> str:
        manifest = store.inspect(key)
        assert manifest is not None
        return weights_digest(manifest)

    publish(store, tmp_path / "c", "steps/fine-tune/c", b"a")
    (tmp_path / "d" / "model").mkdir(parents=True)
    (tmp_path / "d" / "other.safetensors").write_bytes(b"x")
    publish_more = tmp_path / "d" / "model"
    (publish_more / "model.safetensors").write_bytes(b"a")
    (publish_more / "config.json").write_text('{"other": 1}')
    store.publish(tmp_path / "d", "steps/fine-tune/d", {})
    assert digest("steps/fine-tune/a") == digest("steps/fine-tune/c") == digest("steps/fine-tune/d")
    assert digest("steps/fine-tune/a") != digest("steps/fine-tune/b")


def refused(store: LocalStore, name: str, run: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        choose_model(store, name, run)
    return str(caught.value)


def test_what_is_not_there_is_named_with_what_is(store: LocalStore, tmp_path: Path) -> None:
    assert refused(store, "topics") == "There is no model 'topics' with a champion; no model in this store has one."
    crown(store, "topics", "steps/fine-tune/a")
    assert refused(store, "topic") == "There is no model 'topic' with a champion; did you mean 'topics'? Known: 'topics'."
    assert refused(store, "a/../b").startswith("There is no model 'a/../b' with a champion;")
    assert refused(store, "topics", "x") == "There is no run 'x'; no run of model 'topics' is in this store."
    key = publish_run(store, tmp_path, "topics", "steps/fine-tune/b")
    assert f"did you mean {key!r}? Known: {key!r}." in refused(store, "topics", "a-run-1")
    assert refused(store, "others", key) == f"Run {key!r} is of the model 'topics', not 'others'; set one of the two."


def test_a_name_without_a_champion_has_its_runs_told(store: LocalStore, tmp_path: Path) -> None:
    key = publish_run(store, tmp_path, "topics", "steps/fine-tune/b")
    assert f"set run to one of them: {key!r}." in refused(store, "topics")
    write_registry(store, "topics", Registry(kind="text-classification", primary_metric="accuracy"), None)
    assert f"has no champion yet; promote one of its runs, or set run to one of them: {key!r}." in refused(store, "topics")


def test_a_name_that_several_runs_have_is_refused(store: LocalStore, tmp_path: Path) -> None:
    keys = [publish_run(store, tmp_path, "topics", "steps/fine-tune/b", number=number) for number in (1, 2)]
    said = refused(store, "topics", "a-run")
    assert said.startswith("2 runs are called 'a-run'; set run to the key of one: ")
    assert all(repr(key) in said for key in keys)


def test_a_model_that_is_gone_is_told(store: LocalStore, tmp_path: Path) -> None:
    crown(store, "topics", "steps/fine-tune/a")
    publish_run(store, tmp_path, "topics", "steps/fine-tune/b")
    for key in ("steps/fine-tune/a", "steps/fine-tune/b"):
        store.delete(key)
    assert "is not whole in the store any more; choose another run." in refused(store, "topics")
    assert "is not whole in the store any more; choose another run." in refused(store, "topics", "a-run")
