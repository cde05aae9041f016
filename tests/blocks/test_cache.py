"""The cache of what was fetched: verified on every use, bounded, and never taken from under a reader."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blocks import cache as cache_module
from blocks.cache import FetchCache, default_cache
from blocks.disk import file_names, hash_files
from blocks.errors import ArtifactDamaged, StoreConfigError
from blocks.manifest import Manifest, make_manifest
from tests.blocks.test_artifact_store import no_room_for_bytes
from tests.blocks.test_stores import make_folder, read

ROOT = Path(__file__).parent.parent.parent


def make(folder: Path, content: bytes = b"data", size: int = 1000) -> Manifest:
    """Make a folder of `size` bytes and return its manifest."""
    make_folder(folder, {"sub/data": (content * size)[:size]})
    return make_manifest(hash_files(folder, file_names(folder)), {})


def copier(folder: Path, calls: list[Path] | None = None) -> Callable[[Path], None]:
    def download(target: Path) -> None:
        if calls is not None:
            calls.append(target)
        (target / "sub").mkdir()
        shutil.copyfile(folder / "sub" / "data", target / "sub" / "data")

    return download


def entries(root: Path) -> set[str]:
    return {path.name for path in (root / "artifacts").iterdir()} if (root / "artifacts").exists() else set()


def leavings(root: Path) -> list[Path]:
    return list((root / "partial").iterdir()) if (root / "partial").exists() else []


@pytest.fixture
def small(tmp_path: Path) -> FetchCache:
    return FetchCache(tmp_path / "cache", 3500)


def let_go() -> None:
    """Let go of all that this process has fetched, as its end would."""
    for descriptor in cache_module._held.values():
        os.close(descriptor)
    cache_module._held.clear()


def test_a_hit_is_not_downloaded_again(small: FetchCache, tmp_path: Path) -> None:
    manifest, calls = make(tmp_path / "a"), []
    first = small.fetch(manifest, copier(tmp_path / "a", calls))
    assert small.fetch(manifest, copier(tmp_path / "a", calls)) == first
    assert len(calls) == 1
    assert read(first) == read(tmp_path / "a")
    assert leavings(small.root) == []


@pytest.mark.parametrize("damage", [b"D" * 1000, b"short", None], ids=["changed", "cut", "gone"])
def test_a_damaged_hit_is_downloaded_again(small: FetchCache, tmp_path: Path, damage: bytes | None) -> None:
    manifest = make(tmp_path / "a")
    path = small.fetch(manifest, copier(tmp_path / "a")) / "sub" / "data"
    path.unlink() if damage is None else path.write_bytes(damage)
    again = small.fetch(manifest, copier(tmp_path / "a"))
    assert read(again) == read(tmp_path / "a")


def test_the_least_recently_used_goes_when_room_is_needed(small: FetchCache, tmp_path: Path) -> None:
    made = {name: make(tmp_path / name, name.encode()) for name in "abcd"}
    for name in "abc":
        small.fetch(made[name], copier(tmp_path / name))
        time.sleep(0.02)
    small.fetch(made["a"], copier(tmp_path / "a"))
    let_go()
    small.fetch(made["d"], copier(tmp_path / "d"))
    assert entries(small.root) == {made[name].digest for name in "acd"}


def test_what_is_in_use_stays_whatever_the_limit(small: FetchCache, tmp_path: Path) -> None:
    made = {name: make(tmp_path / name, name.encode()) for name in "abcde"}
    for name in "abcde":
        small.fetch(made[name], copier(tmp_path / name))
    assert entries(small.root) == {manifest.digest for manifest in made.values()}
    let_go()
    small.fetch(make(tmp_path / "f", b"f"), copier(tmp_path / "f"))
    assert len(entries(small.root)) == 3


def test_one_larger_than_the_limit_is_fetched_all_the_same(small: FetchCache, tmp_path: Path) -> None:
    small.fetch(make(tmp_path / "a"), copier(tmp_path / "a"))
    let_go()
    large = make(tmp_path / "large", size=10_000)
    assert read(small.fetch(large, copier(tmp_path / "large"))) == read(tmp_path / "large")
    assert entries(small.root) == {large.digest}


READER = """
import sys
from pathlib import Path
from blocks.cache import FetchCache
from tests.blocks.test_cache import copier
from tests.blocks.test_manifest import FileEntry
from blocks.disk import hash_files, file_names
from blocks.manifest import make_manifest
source = Path(sys.argv[2])
manifest = make_manifest(hash_files(source, file_names(source)), {})
calls = []
FetchCache(Path(sys.argv[1]), 3500).fetch(manifest, copier(source, calls))
print(len(calls), flush=True)
sys.stdin.read()
"""


def test_what_another_process_reads_stays_until_that_ends(small: FetchCache, tmp_path: Path) -> None:
    manifest = make(tmp_path / "a")
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(small.root), str(tmp_path / "a")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "1\n"
        large = make(tmp_path / "large", size=10_000)
        small.fetch(large, copier(tmp_path / "large"))
        assert manifest.digest in entries(small.root)
    finally:
        # Not even a killed process keeps its lock.
        reader.kill()
        reader.communicate()
    small.fetch(make(tmp_path / "b", b"b"), copier(tmp_path / "b"))
    assert manifest.digest not in entries(small.root)


def test_two_processes_that_fetch_at_once_download_once(small: FetchCache, tmp_path: Path) -> None:
    make(tmp_path / "a")
    command = [sys.executable, "-c", READER, str(small.root), str(tmp_path / "a")]
    readers = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(reader.communicate("")[0] for reader in readers) == ["0\n", "0\n", "1\n"]


def test_threads_that_fetch_at_once_download_once(small: FetchCache, tmp_path: Path) -> None:
    manifest, calls = make(tmp_path / "a"), []

    def download(target: Path) -> None:
        time.sleep(0.1)
        copier(tmp_path / "a", calls)(target)

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: small.fetch(manifest, download), range(5)))
    assert len(set(found)) == len(calls) == 1


def test_a_failed_download_leaves_nothing(small: FetchCache, tmp_path: Path) -> None:
    def download(target: Path) -> None:
        (target / "part").write_bytes(b"x")
        raise ArtifactDamaged("damaged")

    with pytest.raises(ArtifactDamaged):
        small.fetch(make(tmp_path / "a"), download)
    assert entries(small.root) == set()
    assert leavings(small.root) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(small: FetchCache, tmp_path: Path) -> None:
    manifest = make(tmp_path / "a")
    with no_room_for_bytes(), pytest.raises(StoreConfigError, match=r"FINETUNE_FLOWS_CACHE.*: File too large; check the store"):
        small.fetch(manifest, copier(tmp_path / "a"))
    assert entries(small.root) == set()
    assert leavings(small.root) == []


def test_what_a_killed_process_left_is_removed(small: FetchCache, tmp_path: Path) -> None:
    make_folder(small.root / "partial" / ("0" * 64), {"data": b"x"})
    make_folder(small.root / "partial" / f"{'1' * 64}-12-34", {"data": b"x"})
    small.fetch(make(tmp_path / "a"), copier(tmp_path / "a"))
    assert leavings(small.root) == []


def test_a_cache_removed_by_hand_is_made_again(small: FetchCache, tmp_path: Path) -> None:
    manifest = make(tmp_path / "a")
    small.fetch(manifest, copier(tmp_path / "a"))
    shutil.rmtree(small.root)
    assert read(small.fetch(manifest, copier(tmp_path / "a"))) == read(tmp_path / "a")
    # The lock is on the new file, so the entry is still guarded.
    small.fetch(make(tmp_path / "large", size=10_000), copier(tmp_path / "large"))
    assert manifest.digest in entries(small.root)


def test_what_is_added_is_linked_and_may_go(small: FetchCache, tmp_path: Path) -> None:
    manifest, calls = make(tmp_path / "a"), []
    small.add(manifest, tmp_path / "a")
    small.add(manifest, tmp_path / "a")
    entry = small.root / "artifacts" / manifest.digest
    assert (entry / "sub" / "data").samefile(tmp_path / "a" / "sub" / "data")
    small.fetch(make(tmp_path / "large", size=10_000), copier(tmp_path / "large"))
    assert manifest.digest not in entries(small.root)
    small.add(make(tmp_path / "larger", b"x", size=10_000), tmp_path / "larger")
    assert len(entries(small.root)) == 1
    assert calls == []


def test_where_no_link_can_be_made_a_copy_is(small: FetchCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(Path, "hardlink_to", fail)
    manifest = make(tmp_path / "a")
    small.add(manifest, tmp_path / "a")
    assert read(small.root / "artifacts" / manifest.digest) == read(tmp_path / "a")


def test_what_cannot_be_added_is_no_fault(small: FetchCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make(tmp_path / "a")
    (tmp_path / "file").touch()
    FetchCache(tmp_path / "file" / "cache", 10_000).add(manifest, tmp_path / "a")
    monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "other disk")))
    with no_room_for_bytes():
        small.add(manifest, tmp_path / "a")
    assert entries(small.root) == set()
    assert leavings(small.root) == []


def test_the_environment_says_where_and_how_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("FINETUNE_FLOWS_CACHE", "FINETUNE_FLOWS_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    assert (default_cache().root, default_cache().limit) == (tmp_path / ".cache" / "finetune-flows", 20 * 10**9)
    monkeypatch.setenv("FINETUNE_FLOWS_CACHE", "~/mine")
    monkeypatch.setenv("FINETUNE_FLOWS_CACHE_GB", "0.5")
    assert (default_cache().root, default_cache().limit) == (tmp_path / "mine", 5 * 10**8)
    for wrong in ("many", "-1", "nan", "inf", ""):
        monkeypatch.setenv("FINETUNE_FLOWS_CACHE_GB", wrong)
        with pytest.raises(StoreConfigError, match=r"FINETUNE_FLOWS_CACHE_GB is .*; set it to a number"):
            default_cache()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreConfigError, match=r"Cannot keep a fetched artifact in .*FINETUNE_FLOWS_CACHE"):
        FetchCache(tmp_path / "file" / "cache", 10**6).fetch(make(tmp_path / "a"), copier(tmp_path / "a"))
