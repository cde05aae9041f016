"""Stores that do not keep what `ArtifactStore` promises are found out; on real ones see the tests of the doctor."""

from pathlib import Path

import pytest

from blocks import probe
from blocks.artifact_store import LocalStore
from blocks.errors import StoreConfigError
from blocks.manifest import Record


class Forgetful(LocalStore):
    def find(self, key: str) -> Record | None:
        return None


class Clinging(LocalStore):
    def delete(self, key: str) -> None:
        pass


class Overwriting(LocalStore):
    def swap_pointer(self, name: str, value: Record, expected: str | None) -> None:
        now = self.read_pointer(name)
        super().swap_pointer(name, value, now.version if now else None)


class CreatingOnly(LocalStore):
    """Knows `If-None-Match`, but not `If-Match`."""

    def swap_pointer(self, name: str, value: Record, expected: str | None) -> None:
        now = self.read_pointer(name)
        super().swap_pointer(name, value, expected and now and now.version)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Forgetful, "does not give back what was just written"),
        (Clinging, "still gives what was deleted"),
        (Overwriting, "overwrites what a conditional write must keep"),
        (CreatingOnly, "overwrites what a conditional write must keep"),
    ],
)
def test_a_store_that_breaks_its_promises_is_found_out(
    kind: type[LocalStore], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "LocalStore", kind)
    with pytest.raises(StoreConfigError, match=words):
        probe.probe(kind(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
