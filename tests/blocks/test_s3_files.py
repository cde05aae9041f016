"""Files that lie in S3: which ones an address means, and that they come as they were listed."""

from pathlib import Path

import pytest

from blocks.artifact_store import LocalStore
from blocks.errors import RemoteFileChanged, StoreConfigError
from blocks.s3_files import RemoteFile, download, list_files
from blocks.s3_store import S3Store
from tests.blocks.test_stores import read
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

FILES = {
    "data/train.csv": b"a,b",
    "data/test.csv": b"c",
    "data/notes.txt": b"text",
    "data/empty.csv": b"",
    "data/old/train.csv": b"old",
    "data/old/deep/train.csv": b"deep",
    "data/part[1].csv": b"1",
    "database.csv": b"not in data",
}


@pytest.fixture
def store(s3_store: S3Store) -> S3Store:
    for name, content in FILES.items():
        s3_store.objects.put(name, content)
    # As consoles do it for a folder.
    s3_store.objects.put("data/", b"")
    s3_store.objects.put("data/old/", b"")
    return s3_store


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("data/train.csv", ["train.csv"]),
        ("data", ["empty.csv", "notes.txt", "part[1].csv", "test.csv", "train.csv"]),
        ("data/", ["empty.csv", "notes.txt", "part[1].csv", "test.csv", "train.csv"]),
        ("data/*.csv", ["empty.csv", "part[1].csv", "test.csv", "train.csv"]),
        ("data/t*.csv", ["test.csv", "train.csv"]),
        ("data/t???.csv", ["test.csv"]),
        ("data/[!e]*t.csv", ["test.csv"]),
        ("data/[a-e]*.csv", ["empty.csv"]),
        ("data/**/*.csv", ["empty.csv", "old/deep/train.csv", "old/train.csv", "part[1].csv", "test.csv", "train.csv"]),
        ("data/old/**", ["deep/train.csv", "train.csv"]),
        ("data/*/train.csv", ["old/train.csv"]),
        ("dat*", ["database.csv"]),
        ("none", []),
        ("data/none.csv", []),
        ("data/train", []),
        ("data/*.parquet", []),
    ],
)
def test_an_address_is_an_object_a_folder_or_a_glob(store: S3Store, key: str, names: list[str]) -> None:
    files = list_files(f"s3://{BUCKET}/{store.prefix}/{key}", store)
    assert [file.name for file in files] == names
    for file in files:
        content = FILES[file.address.removeprefix(f"s3://{BUCKET}/{store.prefix}/")]
        assert file.size == len(content)
        assert file.etag


def test_files_are_downloaded_to_their_names(store: S3Store, tmp_path: Path) -> None:
    download(list_files(f"s3://{BUCKET}/{store.prefix}/data/**/t*.csv", store), tmp_path, store)
    assert read(tmp_path) == {
        "train.csv": b"a,b",
        "test.csv": b"c",
        "old/train.csv": b"old",
        "old/deep/train.csv": b"deep",
    }


@pytest.mark.parametrize("change", [b"x,y", b"longer", None])
def test_a_file_that_changed_since_it_was_listed_is_refused(store: S3Store, tmp_path: Path, change: bytes | None) -> None:
    files = list_files(f"s3://{BUCKET}/{store.prefix}/data/train.csv", store)
    store.objects.put("data/train.csv", change) if change else store.objects.delete(["data/train.csv"])
    with pytest.raises(RemoteFileChanged, match=r"train.csv' was changed or removed after it was listed; list it again"):
        download(files, tmp_path, store)


@pytest.mark.parametrize("name", ["../out.csv", "/etc/out.csv", "a\\b.csv", "a\u202eb.csv", "a\0b"], ids=ascii)
def test_no_name_leaves_the_folder(store: S3Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    file = RemoteFile(f"s3://{BUCKET}/{store.prefix}/data/train.csv", name, 3, '"x"')
    with pytest.raises(StoreConfigError, match="cannot be kept in a store; rename"):
        download([file], tmp_path / "in", store)
    assert read(tmp_path) == {}


def test_two_files_of_one_name_are_refused(store: S3Store, tmp_path: Path) -> None:
    files = list_files(f"s3://{BUCKET}/{store.prefix}/data/train.csv", store)
    with pytest.raises(StoreConfigError, match="have the same name"):
        download(files * 2, tmp_path, store)
    with pytest.raises(StoreConfigError, match="have the same name"):
        download([*files, RemoteFile(files[0].address, "train.csv/x", 3, files[0].etag)], tmp_path, store)


@pytest.mark.parametrize("address", ["s3://", "s3:///x", "/data/x", "https://host/x", "s3://bucket/a\0b"])
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(StoreConfigError, match="is not of the form s3://bucket/key"):
        list_files(address)


def test_credentials_in_an_address_are_not_repeated() -> None:
    with pytest.raises(StoreConfigError, match="seems to hold credentials") as caught:
        list_files("s3://AKIAIOSFODNN7EXAMPLE:hidden@bucket/x")
    assert "hidden" not in str(caught.value)


def test_another_bucket_is_read_with_the_environments_credentials(
    s3_server: S3Server, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"s3://{BUCKET}/{store.prefix}/data/train.csv"
    other = S3Store(bucket="another-bucket")
    for like in (None, other, LocalStore(tmp_path)):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        with pytest.raises(StoreConfigError, match="There are no credentials"):
            list_files(address, like)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
        assert [file.name for file in list_files(address, like)] == ["train.csv"]
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def test_a_bucket_that_is_not_there_is_named(s3_server: S3Server) -> None:
    store = s3_server.store(bucket="no-such-bucket")
    with pytest.raises(StoreConfigError, match="Bucket 'no-such-bucket' does not exist"):
        list_files("s3://no-such-bucket/data/*.csv", store)
