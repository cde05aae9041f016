"""The artifact store: what is published whole is found, what is damaged is not, and nothing is left behind."""

import errno
import hashlib
import json
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from blocks.artifact_store import LocalStore, check_key, open_store
from blocks.errors import ArtifactDamaged, StoreConfigError, StoreError, StoreUnavailable

KEY = "steps/load/abc123"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "rows.arrow").write_bytes(b"rows")
    (folder / "info.json").write_text("{}")
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def artifact(store: LocalStore, folder: Path) -> Path:
    store.publish(folder, KEY, {"rows": 3})
    return store.root / KEY


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def rewrite_manifest(artifact: Path, files: object) -> None:
    (artifact / "manifest.json").write_text(json.dumps({"schema": 1, "record": {}, "files": files}))


@contextmanager
def no_room_for_bytes() -> Iterator[None]:
    """Let files be made, but not written: as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_published_folder_is_found_and_fetched_with_its_files(store: LocalStore, folder: Path) -> None:
    store.publish(folder, KEY, {"rows": 3})
    fetched = store.fetch(KEY)
    assert store.find(KEY) == {"rows": 3}
    assert everything(fetched) == {"train", "train/rows.arrow", "info.json", "empty", "manifest.json"}
    assert (fetched / "train" / "rows.arrow").read_bytes() == b"rows"
    assert everything(folder) == {"train", "train/rows.arrow", "info.json", "empty"}
    assert store.locate(KEY) == str(fetched)


def test_the_manifest_has_the_record_and_each_files_size_and_digest(artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    contents = {"empty": b"", "info.json": b"{}", "train/rows.arrow": b"rows"}
    assert manifest["record"] == {"rows": 3}
    assert manifest["files"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()
    }


def test_an_empty_folder_can_be_published(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    store.publish(tmp_path / "none", KEY, {})
    assert store.find(KEY) == {}


def test_a_published_folder_can_be_published_again_elsewhere(store: LocalStore, artifact: Path) -> None:
    store.publish(artifact, "steps/load/copy", {"rows": 4})
    assert store.find("steps/load/copy") == {"rows": 4}
    assert everything(store.fetch("steps/load/copy")) == everything(artifact)


def test_what_is_there_whole_is_kept(store: LocalStore, folder: Path, artifact: Path) -> None:
    (folder / "info.json").write_text("[]")
    store.publish(folder, KEY, {"rows": 4})
    assert store.find(KEY) == {"rows": 3}
    assert (artifact / "info.json").read_text() == "{}"


def test_what_is_there_in_part_is_replaced(store: LocalStore, folder: Path, artifact: Path) -> None:
    (artifact / "info.json").unlink()
    (artifact / "stray").touch()
    store.publish(folder, KEY, {"rows": 4})
    assert store.find(KEY) == {"rows": 4}
    assert not (store.fetch(KEY) / "stray").exists()


def test_a_changed_byte_is_seen_by_fetch_which_unpublishes(store: LocalStore, artifact: Path) -> None:
    (artifact / "train" / "rows.arrow").write_bytes(b"r0ws")
    assert store.find(KEY) == {"rows": 3}
    with pytest.raises(ArtifactDamaged, match=KEY):
        store.fetch(KEY)
    assert store.find(KEY) is None
    assert not artifact.exists()


def cut(artifact: Path) -> None:
    (artifact / "train" / "rows.arrow").write_bytes(b"row")


def lose(artifact: Path) -> None:
    (artifact / "info.json").unlink()


def lose_folder(artifact: Path) -> None:
    (artifact / "train" / "rows.arrow").unlink()
    (artifact / "train").rmdir()
    (artifact / "train").touch()


def put_folder(artifact: Path) -> None:
    (artifact / "empty").unlink()
    (artifact / "empty").mkdir()


def lose_manifest(artifact: Path) -> None:
    (artifact / "manifest.json").unlink()


def cut_manifest(artifact: Path) -> None:
    whole = (artifact / "manifest.json").read_bytes()
    (artifact / "manifest.json").write_bytes(whole[: len(whole) // 2])


def garble_manifest(artifact: Path) -> None:
    (artifact / "manifest.json").write_bytes(b"\xff\xfe\0")


@pytest.mark.parametrize("damage", [cut, lose, lose_folder, put_folder, lose_manifest, cut_manifest, garble_manifest])
def test_what_is_not_whole_is_not_found_listed_or_fetched(store: LocalStore, artifact: Path, damage: object) -> None:
    assert callable(damage)
    damage(artifact)
    assert store.find(KEY) is None
    assert store.list("steps") == []
    with pytest.raises(ArtifactDamaged):
        store.fetch(KEY)
    assert not artifact.exists()


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"record": {}}', '{"record": [], "files": {}}'])
def test_json_that_is_no_manifest_is_none(store: LocalStore, artifact: Path, content: str) -> None:
    (artifact / "manifest.json").write_text(content)
    assert store.find(KEY) is None


@pytest.mark.parametrize("files", [["info.json"], "info.json", {"info.json": 2}, {"info.json": {"size": 2}}, None])
def test_a_manifest_with_a_wrong_list_of_files_is_none(store: LocalStore, artifact: Path, files: object) -> None:
    rewrite_manifest(artifact, files)
    assert store.find(KEY) is None


@pytest.mark.parametrize("name", ["../secret", "train/../../secret", "{root}/steps/load/secret", "inf\0o"])
def test_a_manifest_that_names_a_file_elsewhere_is_not_followed(store: LocalStore, artifact: Path, name: str) -> None:
    secret = artifact.parent / "secret"
    secret.write_bytes(b"secret")
    entry = {"size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    rewrite_manifest(artifact, {name.format(root=store.root): entry})
    assert store.find(KEY) is None
    with pytest.raises(ArtifactDamaged):
        store.fetch(KEY)
    assert secret.exists()


def test_two_publishers_of_one_key_leave_one_whole_artifact(store: LocalStore, tmp_path: Path) -> None:
    makers = 4
    for number in range(makers):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "data").write_text(str(number) * 1000)
    for attempt in range(10):
        key, start = f"steps/race/{attempt}", Barrier(makers)

        def publish(number: int, key: str = key, start: Barrier = start) -> None:
            start.wait()
            store.publish(tmp_path / str(number), key, {"number": number})

        with ThreadPoolExecutor(makers) as pool:
            list(pool.map(publish, range(makers)))
        record = store.find(key)
        assert record is not None
        assert (store.fetch(key) / "data").read_text() == str(record["number"]) * 1000
    assert sorted(os.listdir(store.root / "steps" / "race")) == [str(attempt) for attempt in range(10)]


def test_list_names_whole_artifacts_sorted(store: LocalStore, folder: Path) -> None:
    for key in ("steps/b/2", "steps/b/1", "steps/a/1", "runs/x"):
        store.publish(folder, key, {})
    stray = store.root / "steps" / "my folder"
    stray.mkdir()
    (stray / "manifest.json").write_text('{"record": {}, "files": {}}')
    assert store.list("steps") == ["steps/a/1", "steps/b/1", "steps/b/2"]
    assert store.list("steps/b") == ["steps/b/1", "steps/b/2"]
    assert store.list("none") == []


def test_delete_unpublishes_and_may_be_repeated(store: LocalStore, folder: Path, artifact: Path) -> None:
    store.publish(folder, "steps/load/other", {})
    store.delete(KEY)
    store.delete(KEY)
    assert store.find(KEY) is None
    assert not artifact.exists()
    assert store.list("steps") == ["steps/load/other"]


@pytest.mark.parametrize(
    "key", ["", "/", "/etc", "..", "../x", "a/../../x", "a//b", "a/", ".", ".hidden", "a b", "a\n", "é", "x" * 201]
)
def test_a_key_that_is_not_plain_names_is_refused(store: LocalStore, folder: Path, key: str) -> None:
    for use in (check_key, store.find, store.fetch, store.list, store.delete, store.locate):
        with pytest.raises(StoreConfigError, match="has the part"):
            use(key)
    with pytest.raises(StoreConfigError):
        store.publish(folder, key, {})
    assert not store.root.exists()


@pytest.mark.parametrize("key", ["a", "steps/load-dataset/0f", "runs/_x.y=1", "x" * 200])
def test_a_key_of_plain_names_passes(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        (errno.ENOSPC, StoreConfigError, "free some space"),
        (errno.EROFS, StoreConfigError, "check the store"),
        (errno.EACCES, StoreConfigError, "check the store"),
        (errno.EIO, StoreUnavailable, "check the store"),
    ],
)
def test_a_failed_publish_leaves_nothing(
    store: LocalStore, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[StoreError], words: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(expected, match=f"{KEY}.*{os.strerror(code)}; {words}"):
        store.publish(folder, KEY, {})
    assert everything(store.root) == {"steps", "steps/load"}


def test_a_store_below_a_file_fails_for_good(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreConfigError, match="Not a directory"):
        LocalStore(tmp_path / "file" / "store").publish(folder, KEY, {})


@pytest.mark.usefixtures("artifact")
@pytest.mark.parametrize(
    ("call", "place", "fault"),
    [("find", Path, "stat"), ("find", Path, "open"), ("fetch", Path, "open"), ("fetch", hashlib, "file_digest")],
)
def test_a_disk_that_does_not_answer_takes_no_artifact_away(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str, place: object, fault: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(place, fault, fail)
        with pytest.raises(StoreUnavailable, match=KEY):
            getattr(store, call)(KEY)
    assert store.find(KEY) == {"rows": 3}


@pytest.mark.parametrize("made", ["", "store", "store/full"])
def test_checking_a_writable_store_leaves_no_trace(tmp_path: Path, made: str) -> None:
    (tmp_path / made).mkdir(exist_ok=True, parents=True)
    before = everything(tmp_path)
    LocalStore(tmp_path / "store" / "below").check_writable()
    LocalStore(tmp_path / "store").check_writable()
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["file", "file/store", "file/a/b", "x" * 300])
def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreConfigError, match=r"cannot be written \(.+\); set store"):
        LocalStore(tmp_path / name).check_writable()
    assert everything(tmp_path) == {"file"}


def test_a_full_disk_is_refused(tmp_path: Path) -> None:
    with no_room_for_bytes(), pytest.raises(StoreConfigError, match="cannot be written"):
        LocalStore(tmp_path / "store").check_writable()
    assert everything(tmp_path) == set()


def test_an_address_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_store("artifacts").locate("x") == str(tmp_path / "artifacts" / "x")
    assert open_store("~/artifacts").locate("x") == str(tmp_path / "home" / "artifacts" / "x")
    assert str(tmp_path) in repr(open_store("artifacts"))


@pytest.mark.parametrize("address", ["", " ", "a\0b", "file:///x", "gs://bucket/prefix", "~no-such-user-here/x"])
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(StoreConfigError, match=r"^Store .*; give a folder, s3://bucket/prefix or block:TYPE/NAME\.$"):
        open_store(address)
