"""A file that is made shard by shard: shards are whole or not there, the file appears in one move, and only ours is removed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blocks.artifact_store import LocalStore
from blocks.errors import ArtifactDamaged, StoreConfigError
from blocks.s3_store import S3Store
from blocks.sharded_output import LocalOutput, S3Output, ShardedOutput, open_output

ONE, OTHER = "1" * 32, "2" * 32


class Place:
    """Where an output lies, to be looked at and damaged."""

    def __init__(self, output: ShardedOutput) -> None:
        self.output = output

    def files(self) -> dict[str, bytes]:
        """Return all files at and beside the output by path."""
        if isinstance(self.output, S3Output):
            found = self.output.bucket.scan("")
            return {path: self.output.bucket.get(path)[0] for path in found}  # type: ignore[index]
        assert isinstance(self.output, LocalOutput)
        root = self.output.path.parent
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def write(self, path: str, content: bytes) -> None:
        if isinstance(self.output, S3Output):
            self.output.bucket.put(path, content)
        else:
            assert isinstance(self.output, LocalOutput)
            file = self.output.path.parent / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(open_output(str(tmp_path / "there" / "out file.csv")))
    store: S3Store = request.getfixturevalue("s3_store")
    # Of a prefix of its own, so that other tests' objects are not looked at.
    return Place(S3Output(store.objects, "out file.csv"))


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def make(content: bytes) -> Path:
        path = tmp_path / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        return path

    return make


def test_shards_are_kept_by_number_and_identity(place: Place, file: Callable[[bytes], Path], tmp_path: Path) -> None:
    output = place.output
    assert output.shards(ONE) == {}
    output.put(ONE, 11, file(b"eleven"))
    output.put(ONE, 0, file(b"zero"))
    output.put(OTHER, 0, file(b"other"))
    assert sorted(output.shards(ONE)) == [0, 11]
    assert sorted(output.shards(OTHER)) == [0]
    found = {number: output.get(shard, tmp_path).read_bytes() for number, shard in output.shards(ONE).items()}
    assert found == {0: b"zero", 11: b"eleven"}
    # The same file once more is the same shard.
    assert output.put(ONE, 0, file(b"zero")) == output.shards(ONE)[0]


@pytest.mark.parametrize("content", [b"zer", b"zerO", b""])
def test_a_damaged_shard_is_found_out_and_removed(
    content: bytes, place: Place, file: Callable[[bytes], Path], tmp_path: Path
) -> None:
    shard = place.output.put(ONE, 0, file(b"zero"))
    place.write(f"out file.csv.parts/{shard.path}", content)
    with pytest.raises(ArtifactDamaged):
        place.output.get(shard, tmp_path)
    assert place.output.shards(ONE) == {}
    with pytest.raises(ArtifactDamaged):
        place.output.get(shard, tmp_path)


def test_the_file_appears_whole_and_takes_the_shards_with_it(place: Place, file: Callable[[bytes], Path]) -> None:
    place.write("out file.csv", b"of yesterday")
    for identity in (ONE, OTHER):
        place.output.put(identity, 0, file(b"zero"))
    assert place.files()["out file.csv"] == b"of yesterday"
    place.output.finish(file(b"whole"))
    assert place.files() == {"out file.csv": b"whole"}
    if isinstance(place.output, LocalOutput):
        assert not place.output.parts.exists()


def test_what_is_not_ours_stays(place: Place, file: Callable[[bytes], Path]) -> None:
    foreign = ["out file.csv.parts/notes.txt", f"out file.csv.parts/{ONE}/notes.txt", "out file.csv.parts/a/000000-b", "beside"]
    for path in foreign:
        place.write(path, b"mine")
    place.output.put(ONE, 0, file(b"zero"))
    assert sorted(place.output.shards(ONE)) == [0]
    place.output.finish(file(b"whole"))
    assert sorted(place.files()) == sorted(["out file.csv", *foreign])


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, file: Callable[[bytes], Path]) -> None:
    output = open_output(str(tmp_path / "out" / "a.csv"))
    assert isinstance(output, LocalOutput)
    output.put(ONE, 0, file(b"zero"))
    (output.parts / ".partial-1").write_bytes(b"ze")
    assert sorted(output.shards(ONE)) == [0]
    output.finish(file(b"whole"))
    assert [path.name for path in output.path.parent.iterdir()] == ["a.csv"]


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path, file: Callable[[bytes], Path]) -> None:
    (tmp_path / "no-folder").write_text("")
    output = open_output(str(tmp_path / "no-folder" / "a.csv"))
    for act in (lambda: output.put(ONE, 0, file(b"zero")), lambda: output.finish(file(b"whole"))):
        with pytest.raises(StoreConfigError, match="no-folder"):
            act()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/", "s3://bucket/folder/", "s3:///key"])
def test_an_address_without_a_file_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(StoreConfigError, match=r"s3://bucket/key"):
        open_output(address, LocalStore(tmp_path))


def test_an_output_in_the_bucket_of_the_store_is_written_with_its_access_and_encryption(s3_store: S3Store) -> None:
    encrypted: Any = s3_store.model_copy(update={"server_side_encryption": "AES256"})
    output = open_output(f"s3://{s3_store.bucket}/folder/a.csv", encrypted)
    assert isinstance(output, S3Output)
    assert (output.bucket.client, output.key) == (s3_store.objects.client, "folder/a.csv")
    assert output.bucket.put_arguments == {"ServerSideEncryption": "AES256"}
