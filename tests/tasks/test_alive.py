"""The mark of a run that is alive: it names what the run uses, is renewed while it lasts, and goes with it."""

from pathlib import Path

import pytest

from blocks.artifact_store import LocalStore
from blocks.errors import StoreUnavailable
from tasks import alive as module
from tasks.alive import alive, says_it_uses


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def keys(store: LocalStore) -> list[str]:
    found: list[str] = store.marks()["run-1"].content["keys"]
    return found


def test_a_mark_names_what_is_used_and_goes_with_the_run(store: LocalStore) -> None:
    with alive(store, "run-1"):
        says_it_uses("steps/a/1")
        assert keys(store) == ["steps/a/1"]
        says_it_uses("checkpoints/b")
        says_it_uses("steps/a/1")
        assert keys(store) == ["steps/a/1", "checkpoints/b"]
    assert store.marks() == {}
    # Outside of a run there is nothing to mark.
    says_it_uses("steps/a/2")
    assert store.marks() == {}


def test_a_mark_goes_with_a_run_that_fails_too(store: LocalStore) -> None:
    def fails() -> None:
        with alive(store, "run-1"):
            says_it_uses("steps/a/1")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert store.marks() == {}


def test_a_mark_is_written_again_and_again(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    written = threading.Semaphore(0)
    monkeypatch.setattr(module, "REFRESH_S", 0.01)
    mark = store.mark

    def counts(name: str, content: dict[str, object]) -> None:
        mark(name, content)
        written.release()
        if len(calls) < 3:
            calls.append(name)
            raise StoreUnavailable("away")

    calls: list[str] = []
    with alive(store, "run-1"):
        monkeypatch.setattr(store, "mark", counts)
        # A store that is away in between does not end it.
        assert all(written.acquire(timeout=10) for _ in range(6))
    assert store.marks() == {}
