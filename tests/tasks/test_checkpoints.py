"""Checkpoints: published behind the training's back, the last two kept, the newest whole one found again."""

import threading
from pathlib import Path

import pytest

from blocks.artifact_store import LocalStore
from blocks.errors import StoreConfigError, StoreUnavailable
from tasks.checkpoints import CheckpointStore

TRAINING = "steps/fine-tune/abc"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def warnings() -> list[str]:
    return []


def made(folder: Path, step: int) -> Path:
    path = folder / str(step)
    path.mkdir()
    (path / "optimizer.pt").write_text(f"state {step}")
    return path


def test_what_is_offered_is_published_and_removed_here(store: LocalStore, tmp_path: Path, warnings: list[str]) -> None:
    with CheckpointStore(store, TRAINING, warnings.append) as checkpoints:
        folder = made(tmp_path, 10)
        checkpoints.offer(10, folder)
        checkpoints.wait()
        assert checkpoints.keys() == ["checkpoints/abc/10"]
        found = checkpoints.newest()
    assert found is not None
    assert (found.key, found.step, (found.folder / "optimizer.pt").read_text()) == ("checkpoints/abc/10", 10, "state 10")
    assert not folder.exists()
    assert warnings == []


def test_the_last_two_are_kept_in_the_order_of_their_steps(store: LocalStore, tmp_path: Path, warnings: list[str]) -> None:
    with CheckpointStore(store, TRAINING, warnings.append) as checkpoints:
        # As text, 100 sorts before 20.
        for step in (20, 50, 100):
            checkpoints.offer(step, made(tmp_path, step))
            checkpoints.wait()
        assert checkpoints.keys() == ["checkpoints/abc/50", "checkpoints/abc/100"]
        checkpoints.clear()
        assert checkpoints.keys() == []


def test_leaving_the_context_waits_for_what_was_offered(store: LocalStore, tmp_path: Path, warnings: list[str]) -> None:
    with CheckpointStore(store, TRAINING, warnings.append) as checkpoints:
        checkpoints.offer(10, made(tmp_path, 10))
    assert store.list("checkpoints") == ["checkpoints/abc/10"]


@pytest.mark.parametrize("damaged", [["20"], ["20", "10"]])
def test_damaged_ones_are_passed_over_with_a_warning(
    store: LocalStore, tmp_path: Path, warnings: list[str], damaged: list[str]
) -> None:
    with CheckpointStore(store, TRAINING, warnings.append) as checkpoints:
        for step in (10, 20):
            checkpoints.offer(step, made(tmp_path, step))
            checkpoints.wait()
        for step in damaged:
            (store.root / "checkpoints" / "abc" / step / "optimizer.pt").write_text("stat_ 00")
        found = checkpoints.newest()
    assert (found.step if found else None) == (10 if damaged == ["20"] else None)
    assert [line.split(" is damaged")[0] for line in warnings] == [f"The checkpoint of optimizer step {step}" for step in damaged]


class SlowStore(LocalStore):
    """A store whose first publish waits for a sign."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def publish(self, folder: Path, key: str, *arguments: object, **options: object) -> None:
        self.begun.set()
        assert self.go_on.wait(30)
        super().publish(folder, key, *arguments, **options)  # type: ignore[arg-type]


def test_behind_a_slow_store_only_the_newest_is_sent(tmp_path: Path, warnings: list[str]) -> None:
    store = SlowStore(tmp_path / "store")
    with CheckpointStore(store, TRAINING, warnings.append) as checkpoints:
        checkpoints.offer(1, made(tmp_path, 1))
        assert store.begun.wait(30)
        # Training is not held up meanwhile.
        folders = [made(tmp_path, step) for step in (2, 3, 4)]
        for step, folder in zip((2, 3, 4), folders, strict=True):
            checkpoints.offer(step, folder)
        store.go_on.set()
    assert store.list("checkpoints") == ["checkpoints/abc/1", "checkpoints/abc/4"]
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("error", [StoreUnavailable("it is away"), StoreConfigError("it is full")], ids=repr)
def test_a_store_that_fails_costs_a_warning_and_not_the_training(
    store: LocalStore, tmp_path: Path, warnings: list[str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with CheckpointStore(store, TRAINING, warnings.append) as checkpoints:
        with monkeypatch.context() as patched:
            patched.setattr(store, "publish", fail)
            folder = made(tmp_path, 10)
            checkpoints.offer(10, folder)
            checkpoints.wait()
        assert warnings == [f"The checkpoint of optimizer step 10 could not be published: {error}"]
        assert not folder.exists()
        checkpoints.offer(20, made(tmp_path, 20))
    assert store.list("checkpoints") == ["checkpoints/abc/20"]
