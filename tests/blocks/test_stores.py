"""What both stores promise: a folder of this machine and S3 behave alike."""

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from blocks.artifact_store import ArtifactStore, LocalStore
from blocks.errors import ArtifactDamaged, PointerChanged, StoreConfigError, StoreUnavailable
from blocks.manifest import write_manifest
from blocks.s3_store import S3Store
from tests.blocks.test_manifest import ODD

KEY = "steps/load/abc123"


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, cache: Path) -> ArtifactStore:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    found: ArtifactStore = request.getfixturevalue("s3_server").store()
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "made", {"train/rows.arrow": b"rows", "info.json": b"{}", "empty": b""})


def make_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name != "manifest.json"}


def write(store: ArtifactStore, path: str, content: bytes | None) -> None:
    """Write a file of a store behind its back, or remove it."""
    if isinstance(store, LocalStore):
        (store.root / path).write_bytes(content) if content is not None else (store.root / path).unlink()
    elif isinstance(store, S3Store):
        bucket = store.objects
        bucket.put(path, content) if content is not None else bucket.delete([path])


def file_path(store: ArtifactStore, name: str, key: str = KEY) -> str:
    """Return the path, below the store's root, of a file of an artifact."""
    manifest = store.inspect(key)
    assert manifest is not None
    return f"{key}/{manifest.folder}/{name}".replace("//", "/")


def test_each_is_a_store(store: ArtifactStore) -> None:
    assert isinstance(store, ArtifactStore)


def test_what_is_published_is_found_inspected_and_fetched(store: ArtifactStore, folder: Path) -> None:
    files = read(folder)
    store.publish(folder, KEY, {"rows": 3}, inputs=["steps/a/1", "steps/b/2"], made_by="run 1")
    manifest = store.inspect(KEY)
    assert manifest is not None
    assert store.find(KEY) == manifest.record == {"rows": 3}
    assert {name: entry.size for name, entry in manifest.files.items()} == {name: len(content) for name, content in files.items()}
    assert (manifest.inputs, manifest.made_by) == (("steps/a/1", "steps/b/2"), "run 1")
    assert manifest.published.startswith("20")
    assert read(store.fetch(KEY)) == files
    assert store.list("steps") == [KEY]


def test_an_empty_folder_can_be_published(store: ArtifactStore, tmp_path: Path) -> None:
    store.publish(make_folder(tmp_path / "none", {}), KEY, {})
    assert store.find(KEY) == {}
    assert read(store.fetch(KEY)) == {}


def test_what_is_there_whole_is_kept(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    files = read(folder)
    store.publish(folder, KEY, {"rows": 3})
    store.publish(make_folder(tmp_path / "other", {"info.json": b"[]"}), KEY, {"rows": 4})
    assert store.find(KEY) == {"rows": 3}
    assert read(store.fetch(KEY)) == files


@pytest.mark.parametrize("damage", [b"row", None, b"longer than before"])
def test_what_is_there_in_part_is_not_found_and_is_replaced(
    store: ArtifactStore, folder: Path, tmp_path: Path, damage: bytes | None
) -> None:
    store.publish(folder, KEY, {"rows": 3})
    write(store, file_path(store, "train/rows.arrow"), damage)
    assert store.find(KEY) is store.inspect(KEY) is None
    assert store.list("steps") == []
    other = make_folder(tmp_path / "other", {"info.json": b"[]"})
    store.publish(other, KEY, {"rows": 4})
    assert store.find(KEY) == {"rows": 4}
    assert read(store.fetch(KEY)) == {"info.json": b"[]"}


@pytest.mark.parametrize("damage", [b"r0ws", b"row", None], ids=["changed", "cut", "gone"])
def test_fetch_sees_every_damage_and_unpublishes(
    store: ArtifactStore, folder: Path, tmp_path: Path, cache: Path, damage: bytes | None
) -> None:
    files = read(folder)
    store.publish(folder, KEY, {"rows": 3})
    shutil.rmtree(cache, ignore_errors=True)
    write(store, file_path(store, "train/rows.arrow"), damage)
    with pytest.raises(ArtifactDamaged, match=f"{KEY}.*missing or damaged; run again"):
        store.fetch(KEY)
    assert store.find(KEY) is None
    # Made anew, it is whole: nothing of the damaged one is taken for what it was.
    store.publish(make_folder(tmp_path / "again", files), KEY, {"rows": 3})
    shutil.rmtree(cache, ignore_errors=True)
    assert read(store.fetch(KEY)) == files


def test_what_was_never_published_is_damaged(store: ArtifactStore) -> None:
    assert store.find(KEY) is None
    with pytest.raises(ArtifactDamaged):
        store.fetch(KEY)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"record": {}, "files": {"../x": {"size": 1, "sha256": "0"}}}'])
def test_what_is_no_manifest_is_none(store: ArtifactStore, folder: Path, content: bytes) -> None:
    store.publish(folder, KEY, {"rows": 3})
    write(store, f"{KEY}/manifest.json", content)
    assert store.find(KEY) is None
    assert store.list("steps") == []
    with pytest.raises(ArtifactDamaged):
        store.fetch(KEY)
    store.publish(folder, KEY, {"rows": 5})
    assert store.find(KEY) == {"rows": 5}


@pytest.mark.parametrize("name", ["a\\b", "a\u202eb", "cafe\u0301"], ids=ascii)
def test_a_file_with_an_odd_name_is_refused(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    assert name in ODD or "\\" in name or "\u202e" in name
    with pytest.raises(StoreConfigError, match="cannot be kept in a store; rename the file"):
        store.publish(make_folder(tmp_path / "odd", {name: b"x"}), KEY, {})
    assert store.find(KEY) is None


@pytest.mark.parametrize("key", ["", "/etc", "../x", "a/../x", "a//b", ".hidden", "a b", "é"])
def test_a_key_that_is_not_plain_names_is_refused(store: ArtifactStore, folder: Path, key: str) -> None:
    uses: list[Callable[[str], Any]] = [store.find, store.inspect, store.fetch, store.list, store.delete, store.locate]
    uses += [store.read_pointer, store.unmark, lambda key: store.mark(key, {}), lambda key: store.swap_pointer(key, {}, None)]
    uses += [
        store.manifests,
        lambda key: store.publish(folder, key, {}),
        lambda key: store.publish(folder, KEY, {}, inputs=[key]),
    ]
    for use in uses:
        with pytest.raises(StoreConfigError, match="has the part"):
            use(key)


def test_list_names_whole_artifacts_sorted(store: ArtifactStore, folder: Path) -> None:
    for key in ("steps/b/2", "steps/b/1", "steps/a/1", "runs/x", "steps/bc/1"):
        store.publish(folder, key, {}, own=key.startswith("runs"))
    assert store.list("steps") == ["steps/a/1", "steps/b/1", "steps/b/2", "steps/bc/1"]
    assert store.list("steps/b") == ["steps/b/1", "steps/b/2"]
    assert store.list("runs") == ["runs/x"]
    assert store.list("none") == []


def test_manifests_come_by_key_and_say_when(store: ArtifactStore, folder: Path) -> None:
    for key in ("steps/b/2", "steps/b/1", "steps/bc/1", "steps/b/old", "steps/b/damaged"):
        store.publish(folder, key, {"key": key}, inputs=["steps/a/1"], made_by="run 1")
    old = store.inspect("steps/b/old")
    assert old is not None
    write(store, "steps/b/old/manifest.json", write_manifest(replace(old, published="")))
    write(store, file_path(store, "train/rows.arrow", "steps/b/damaged"), b"row")
    found = store.manifests("steps/b")
    assert list(found) == ["steps/b/1", "steps/b/2", "steps/b/old"]
    assert found["steps/b/1"] == store.inspect("steps/b/1")
    ages = [datetime.now(UTC) - datetime.fromisoformat(manifest.published) for manifest in found.values()]
    assert all(timedelta(seconds=-2) < age < timedelta(seconds=30) for age in ages)
    assert store.manifests("none") == {}


def test_delete_unpublishes_and_may_be_repeated(store: ArtifactStore, folder: Path) -> None:
    store.publish(folder, KEY, {})
    store.publish(folder, f"{KEY}x", {})
    store.delete(KEY)
    store.delete(KEY)
    assert store.find(KEY) is None
    assert store.list("steps") == [f"{KEY}x"]
    assert store.sweep(0, delete=False) == []


def test_an_own_key_is_replaced(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    store.publish(folder, "runs/mine", {"try": 1}, own=True)
    files = {"info.json": b"[]", "report.html": b"<html>"}
    store.publish(make_folder(tmp_path / "other", files), "runs/mine", {"try": 2}, own=True)
    assert store.find("runs/mine") == {"try": 2}
    assert read(store.fetch("runs/mine")) == files
    address = store.locate("runs/mine")
    assert address.endswith("/runs/mine")
    if isinstance(store, LocalStore):
        assert read(Path(address)) == files
    elif isinstance(store, S3Store):
        paths = set(store.objects.list("runs/mine"))
        assert paths == {"runs/mine/info.json", "runs/mine/report.html", "runs/mine/manifest.json"}


def test_two_publishers_of_one_key_leave_one_whole_artifact(store: ArtifactStore, tmp_path: Path, cache: Path) -> None:
    makers = 4
    for attempt in range(12):
        key, start = f"steps/race/{attempt}", threading.Barrier(makers)
        # Two write the same bytes.
        contents = [bytes([number % 3]) * (1000 + attempt) for number in range(makers)]
        folders = [
            make_folder(tmp_path / f"{attempt}-{number}", {"data": content, "same": b"same"})
            for number, content in enumerate(contents)
        ]

        def publish(number: int, key: str = key, start: Any = start, folders: Any = folders) -> None:
            start.wait()
            store.publish(folders[number], key, {"number": number % 3})

        with ThreadPoolExecutor(makers) as pool:
            list(pool.map(publish, range(makers)))
        record = store.find(key)
        assert record is not None
        shutil.rmtree(cache, ignore_errors=True)
        assert read(store.fetch(key)) == {"data": contents[record["number"]], "same": b"same"}
    assert store.sweep(0, delete=False) == []


def test_publishers_readers_and_deleters_of_one_key_never_see_half_of_it(store: ArtifactStore, tmp_path: Path) -> None:
    folders = [make_folder(tmp_path / str(number), {"data": bytes([number]) * 2000, "more": b"more"}) for number in range(2)]
    until, seen = time.monotonic() + 3, []

    def work(number: int) -> None:
        while time.monotonic() < until:
            if number < 2:
                # One that is deleted again and again may give up, with the error that is retried.
                with suppress(StoreUnavailable):
                    store.publish(folders[number], KEY, {"number": number})
            elif number == 2:
                store.delete(KEY)
            else:
                try:
                    files = read(store.fetch(KEY))
                except ArtifactDamaged:
                    continue
                if set(files) == {"data", "more"}:
                    seen.append(files["data"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(3 if isinstance(store, LocalStore) else 4)))
    assert set(seen) <= {bytes([number]) * 2000 for number in range(2)}
    store.delete(KEY)
    store.publish(folders[0], KEY, {"number": 0})
    assert read(store.fetch(KEY))["data"] == bytes([0]) * 2000


def test_a_pointer_is_written_read_swapped_and_listed(store: ArtifactStore) -> None:
    assert store.read_pointer("champion/news") is None
    assert store.list_pointers() == []
    store.swap_pointer("champion/news", {"model": "a"}, None)
    first = store.read_pointer("champion/news")
    assert first is not None
    assert first.value == {"model": "a"}
    store.swap_pointer("champion/news", {"model": "b"}, first.version)
    second = store.read_pointer("champion/news")
    assert second is not None
    assert second.value == {"model": "b"}
    for expected in (None, first.version, "none"):
        with pytest.raises(PointerChanged, match=r"'champion/news' .* was changed by another run; read it again"):
            store.swap_pointer("champion/news", {"model": "c"}, expected)
    # Back at the first value, it is at another version.
    store.swap_pointer("champion/news", {"model": "a"}, second.version)
    with pytest.raises(PointerChanged):
        store.swap_pointer("champion/news", {"model": "c"}, first.version)
    with pytest.raises(PointerChanged):
        store.swap_pointer("other", {}, first.version)
    store.swap_pointer("other", {}, None)
    assert store.list_pointers() == ["champion/news", "other"]


def test_of_many_who_swap_a_pointer_one_wins(store: ArtifactStore) -> None:
    racers, version, wins = 20, None, []
    for _ in range(3):
        start = threading.Barrier(racers)

        def swap(number: int, version: str | None = version, start: threading.Barrier = start) -> int | None:
            start.wait()
            try:
                store.swap_pointer("race", {"number": number}, version)
            except PointerChanged:
                return None
            return number

        with ThreadPoolExecutor(racers) as pool:
            won = [number for number in pool.map(swap, range(racers)) if number is not None]
        pointer = store.read_pointer("race")
        assert pointer is not None
        assert [pointer.value["number"]] == won
        version = pointer.version
        wins += won
    assert len(wins) == 3


def test_a_file_that_is_no_pointer_is_refused(store: ArtifactStore) -> None:
    store.swap_pointer("x", {}, None)
    for content in (b"", b"[]", b"{}", b'{"value": 3}'):
        write(store, "pointers/x.json", content)
        with pytest.raises(StoreConfigError, match=r"pointers/x.json' is not a pointer"):
            store.read_pointer("x")


def test_marks_are_overwritten_aged_and_taken_away(store: ArtifactStore) -> None:
    assert store.marks() == {}
    store.mark("run-1", {"host": "a"})
    store.mark("run-2", {"host": "b"})
    store.mark("run-1", {"host": "c"})
    marks = store.marks()
    assert {name: mark.content for name, mark in marks.items()} == {"run-1": {"host": "c"}, "run-2": {"host": "b"}}
    assert all(0 <= mark.age_s < 30 for mark in marks.values())
    time.sleep(2.1)
    assert all(1 <= mark.age_s < 30 for mark in store.marks().values())
    store.unmark("run-1")
    store.unmark("run-1")
    assert list(store.marks()) == ["run-2"]


def test_checking_that_a_store_can_be_written_leaves_no_trace(store: ArtifactStore) -> None:
    store.check_writable()
    if isinstance(store, LocalStore):
        assert not store.root.exists()
    elif isinstance(store, S3Store):
        assert store.objects.scan("") == {}


def test_a_local_manifest_of_an_earlier_version_is_read(tmp_path: Path, folder: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish(folder, KEY, {"rows": 3})
    path = store.root / KEY / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: content[name] for name in ("schema", "record", "files")}))
    assert store.find(KEY) == {"rows": 3}
    assert read(store.fetch(KEY)) == read(folder)


def test_a_local_sweep_finds_what_killed_publishes_left(tmp_path: Path, folder: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish(folder, KEY, {})
    leaving = make_folder(store.root / "steps" / "load" / ".partial-0", {"sub/data": b"x"})
    (store.root / "pointers").mkdir()
    (store.root / "pointers" / ".partial-1").touch()
    old = time.time() - 1000
    for path in (leaving, leaving / "sub", leaving / "sub" / "data", store.root / "pointers" / ".partial-1"):
        os.utime(path, (old, old))
    make_folder(store.root / "steps" / "load" / ".partial-2", {"data": b"x"})
    expected = sorted(map(str, [leaving, store.root / "pointers" / ".partial-1"]))
    assert store.sweep(500, delete=False) == expected
    assert store.sweep(2000, delete=False) == []
    assert store.sweep(500, delete=True) == expected
    assert not leaving.exists()
    assert store.sweep(500, delete=False) == []
    assert len(store.sweep(0, delete=True)) == 1
    assert store.list("steps") == [KEY]


def test_local_lists_and_sweeps_go_on_while_others_delete(tmp_path: Path, folder: Path) -> None:
    store, until = LocalStore(tmp_path / "store"), time.monotonic() + 2

    def work(number: int) -> None:
        while time.monotonic() < until:
            if number == 0:
                assert set(store.list("steps")) <= {KEY}
            elif number == 1:
                store.sweep(0, delete=True)
            else:
                with suppress(StoreUnavailable):
                    store.publish(folder, KEY, {})
                store.delete(KEY)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_a_local_folder_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish(folder, "runs/a", {})
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("runs/a"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreConfigError, match=r"Cannot list 'runs' .*Permission denied"):
        store.list("runs")


def test_a_local_delete_that_is_killed_leaves_what_a_sweep_knows(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish(folder, KEY, {})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        store.delete(KEY)
    assert store.find(KEY) is None
    assert len(store.sweep(0, delete=True)) == 1
    assert [path.name for path in (store.root / "steps").rglob("*")] == ["load"]
