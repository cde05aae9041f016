"""Sources in S3 on a real server: the same files, splits, rows and messages as on this machine; what pins them, and faults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect import flow

from blocks import s3_files
from blocks.errors import StoreConfigError, StoreUnavailable
from blocks.s3_store import S3Store
from tasks.data.columns import Column
from tasks.data.remote import find_remote, open_remote
from tasks.data.rows import read_split
from tasks.data.source import Source, find_files, open_local
from tasks.data.step import data_identity, load_dataset
from tasks.errors import DataError
from tasks.kinds.text_classification import TextClassificationConfig, TextClassificationData
from tasks.records import SPLITS, DatasetRef, Inputs
from tasks.steps import Run, can_pass
from tests.helpers import topic_rows, write_csv
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

COLUMNS = (Column("text", "text", "text", "data.text_column"), Column("label", "label", "label", "data.label_column"))
ELSEWHERE = "artifacts-on-this-machine"


class Remote:
    """A folder of this machine and the same files under a prefix in S3."""

    def __init__(self, folder: Path, store: S3Store) -> None:
        self.folder, self.store = folder, store
        self.address = f"s3://{BUCKET}/{store.prefix}"

    def put(self, name: str, content: bytes) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)
        self.store.objects.put(name, content)

    def upload(self) -> None:
        for path in self.folder.rglob("*"):
            if path.is_file():
                self.store.objects.put(path.relative_to(self.folder).as_posix(), path.read_bytes())

    def here(self, **settings: Any) -> TextClassificationData:
        return TextClassificationData(**settings | {"source": str(self.folder / settings["source"])})

    def there(self, **settings: Any) -> TextClassificationData:
        return TextClassificationData(**settings | {"source": f"{self.address}/{settings['source']}"})

    def identity(self, **settings: Any) -> str:
        return find_remote(self.there(**settings), ELSEWHERE).identity

    def open(self, folder: Path, **settings: Any) -> Source:
        return open_remote(self.there(**settings), ELSEWHERE, self.identity(**settings), folder)


@pytest.fixture
def account(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)


@pytest.fixture
def remote(tmp_path: Path, s3_store: S3Store, account: None) -> Remote:
    return Remote(tmp_path / "here", s3_store)


def rows(source: Source) -> dict[str, list[Any]]:
    return {split: [batch for part in parts for batch in part.read(["text", "label"])] for split, parts in source.items()}


def csv(*texts: str) -> bytes:
    return "".join(["text,label\n", *(f"{text},{text[0]}\n" for text in texts)]).encode()


FOLDER = [
    "train.csv",
    "dev.csv",
    "test.csv",
    "more/x.csv",
    "more/y.csv",
    "more-1/x.csv",
    ".train.csv",
    "readme.md",
    "more/.h.csv",
    "more/deep/z.csv",
]


@pytest.mark.parametrize(
    "settings",
    [
        {"source": "data/test.csv"},
        {"source": "data"},
        {"source": "data/"},
        {"source": "data/more"},
        {"source": "data/*r*.csv"},
        {"source": "data/*.csv"},
        {"source": "data/**/?.csv"},
        {"source": "data/**/*.csv", "test": "more/x.csv"},
        {"source": "data", "test": "more"},
        {"source": "data", "train": "more/*.csv"},
        {"source": "data", "train": "**/x.csv", "test": "more/y.csv"},
        {"source": "data", "train": "train.csv", "validation": "test.csv"},
        {"source": "data/train.csv", "test": "more/y.csv"},
        {"source": "data/train.csv", "train": "dev.csv"},
        {"source": "data", "test": "dev.csv"},
        {"source": "data/more", "test": "y.csv"},
        {"source": "data/more", "test": "../test.csv"},
        {"source": "data/*.csv", "test": "./test.csv"},
        {"source": "data/*.csv", "test": "../data/test.csv"},
        # What is wrong here is wrong there too.
        {"source": "none"},
        {"source": "data/none.csv"},
        {"source": "data/z*.csv"},
        {"source": "data/readme.md"},
        {"source": "data/*.md"},
        {"source": "notes"},
        {"source": "data/more", "test": "*"},
        {"source": "data", "test": "tset.csv"},
        {"source": "data", "validation": "../notes"},
        {"source": "data/train.csv", "test": "train.csv"},
        {"source": "data/[dt]e*.csv"},
    ],
    ids=str,
)
def test_a_source_means_the_same_files_in_the_same_order_as_on_this_machine(
    remote: Remote, tmp_path: Path, settings: dict[str, str]
) -> None:
    for name in FOLDER:
        remote.put(f"data/{name}", csv(name))
    remote.put("notes/readme.md", b"x")
    # As consoles do it for a folder.
    remote.store.objects.put("data/", b"")
    here: Any
    try:
        here = {
            split: [str(path.resolve().relative_to(remote.folder)) for path in paths]
            for split, paths in find_files(remote.here(**settings)).items()
        }
        here_rows = rows(open_local(remote.here(**settings)))
    except DataError as error:
        with pytest.raises(DataError) as caught:
            find_remote(remote.there(**settings), ELSEWHERE)
        ends = [str(one).rpartition("; ")[2] for one in (error, caught.value)]
        assert ends[0] == ends[1]
        return
    found = find_remote(remote.there(**settings), ELSEWHERE).files
    there = {split: [file.address.removeprefix(f"{remote.address}/") for file in files] for split, files in found.items()}
    assert there == here
    assert list(there) == list(here)
    assert rows(remote.open(tmp_path / "got", **settings)) == here_rows


def test_a_split_may_have_an_address_of_its_own(remote: Remote) -> None:
    for name in ("data/train.csv", "data/test.csv", "held/out/a.csv", "held/out/b.csv"):
        remote.put(name, csv(name))
    found = find_remote(remote.there(source="data", test=f"{remote.address}/held/out"), ELSEWHERE).files
    assert {split: [file.name for file in files] for split, files in found.items()} == {
        "train": ["train.csv"],
        "test": ["a.csv", "b.csv"],
    }
    # By whichever name: what is validation is nothing else.
    found = find_remote(remote.there(source="held/**/*.csv", validation=f"{remote.address}/held/out/b.csv"), ELSEWHERE).files
    names = {split: [file.name for file in files] for split, files in found.items()}
    assert names == {"train": ["out/a.csv"], "validation": ["b.csv"]}


def test_every_form_and_unicode_names_are_read_as_they_are(remote: Remote, tmp_path: Path) -> None:
    table = {"text": ["größe", "zwei"], "label": ["x", "y"]}
    remote.put("d/größe 1 ✓.csv", csv("é", "ü"))
    remote.put("d/β.TSV", b"text\tlabel\na b\tx\n")
    remote.put("d/c.json", b'[{"text": "j", "label": 1}]')
    remote.put("d/c'd\".jsonl", b'{"text": "l", "label": 2}\n')
    for number in range(3):
        shard = {"text": [f"{number} {text}" for text in table["text"]], "label": table["label"]}
        pq.write_table(pa.table(shard), tmp_path / "shard")
        remote.put(f"p/train-0000{number}-of-00003.parquet", (tmp_path / "shard").read_bytes())
    for source in ("d", "d/β.TSV", "p", "p/*.parquet"):
        there = remote.open(tmp_path / source.replace("*", "all"), source=source)
        assert rows(there) == rows(open_local(remote.here(source=source)))
    assert [part.where for part in remote.open(tmp_path / "again", source="d")["train"]][-1] == f"{remote.address}/d/β.TSV"


def dataset(*texts: str) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    return datasets.Dataset.from_dict({"text": list(texts), "label": [len(text) % 2 for text in texts]}, features=features)


@pytest.mark.parametrize("settings", [{}, {"test": "dev"}])
def test_a_saved_dataset_has_its_splits_and_label_names(remote: Remote, tmp_path: Path, settings: dict[str, str]) -> None:
    splits = datasets.DatasetDict(train=dataset("a", "bb"), dev=dataset("cc"), test=dataset("d"))
    splits.save_to_disk(str(remote.folder / "saved"))
    dataset("x").save_to_disk(str(remote.folder / "single"))
    remote.upload()
    for source, chosen in (("saved", settings), ("single", {})):
        there = remote.open(tmp_path / f"got-{source}", source=source, **chosen)
        here = open_local(remote.here(source=source, **chosen))
        assert rows(there) == rows(here)
        assert list(there) == list(here)
        assert [part.class_names for parts in there.values() for part in parts] == [{"label": ("no", "yes")}] * len(there)
    before = remote.identity(source="saved")
    remote.put("saved/train/more.arrow", b"x")
    assert remote.identity(source="saved") != before


def test_a_damaged_saved_dataset_is_named_by_its_address(remote: Remote, tmp_path: Path) -> None:
    dataset("x").save_to_disk(str(remote.folder / "saved"))
    remote.upload()
    remote.put("saved/state.json", b"{\n")
    with pytest.raises(DataError, match=rf"Folder '{remote.address}/saved' cannot be read by .*; check data\.source") as caught:
        remote.open(tmp_path / "got", source="saved")
    assert str(tmp_path) not in str(caught.value)
    dataset("x").save_to_disk(str(remote.folder / "single"))
    remote.upload()
    with pytest.raises(DataError, match=rf"Split 'tset' is not in '{remote.address}/single'"):
        remote.open(tmp_path / "other", source="single", test="tset")


# ---- what pins the source


def test_the_identity_changes_with_the_chosen_files_only(remote: Remote) -> None:
    remote.put("data/train.csv", csv("a"))
    remote.put("data/test.csv", csv("b"))
    seen = [remote.identity(source="data")]
    remote.put("data/notes.md", b"x")
    remote.put("data/old/train.csv", csv("c"))
    remote.put("database.csv", csv("c"))
    remote.put("data/train.csv", csv("a"))
    assert remote.identity(source="data") == seen[0]
    alone = remote.identity(source="data/train.csv")

    remote.put("data/train.csv", csv("z"))  # as long as before
    seen.append(remote.identity(source="data"))
    remote.put("data/train-2.csv", csv("d"))
    seen.append(remote.identity(source="data"))
    remote.store.objects.delete(["data/test.csv"])
    seen.append(remote.identity(source="data"))
    seen += [remote.identity(source="data/train.csv", **{split: "train-2.csv"}) for split in ("validation", "test")]
    assert len(set(seen)) == 6
    assert remote.identity(source="data/train.csv") != alone


def changed_bytes(remote: Remote) -> None:
    remote.put("data/test.csv", csv("z"))


def changed_size(remote: Remote) -> None:
    remote.put("data/train.csv", csv("longer"))


def removed(remote: Remote) -> None:
    remote.store.objects.delete(["data/test.csv"])


def added(remote: Remote) -> None:
    remote.put("data/train-2.csv", csv("b"))


CHANGED = r"^Files of 's3://.*/data' changed since the run began; run again\.$"


@pytest.mark.parametrize("change", [changed_bytes, changed_size, removed, added])
def test_a_source_that_changed_since_it_was_pinned_is_refused(
    remote: Remote, tmp_path: Path, change: Callable[[Remote], None]
) -> None:
    remote.put("data/train.csv", csv("a"))
    remote.put("data/test.csv", csv("b"))
    identity = remote.identity(source="data")
    change(remote)
    with pytest.raises(DataError, match=CHANGED):
        open_remote(remote.there(source="data"), ELSEWHERE, identity, tmp_path / "got")


@pytest.mark.parametrize("change", [changed_bytes, changed_size, removed])
def test_a_file_that_changes_while_it_is_loaded_is_refused(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Remote], None]
) -> None:
    remote.put("data/train.csv", csv("a"))
    remote.put("data/test.csv", csv("b"))
    identity, download = remote.identity(source="data"), s3_files.download

    def late(*arguments: Any) -> None:
        change(remote)
        download(*arguments)

    monkeypatch.setattr(s3_files, "download", late)
    with pytest.raises(DataError, match=CHANGED):
        open_remote(remote.there(source="data"), ELSEWHERE, identity, tmp_path / "got")


# ---- faults


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "none"}, r"'{address}/none' is not there: S3 has no file of that name, .*; check data\.source\.$"),
        ({"source": "data", "test": "none.csv"}, r"'{address}/data/none\.csv' is not there: .*; check data\.test\.$"),
        ({"source": "notes"}, r"Folder '{address}/notes' holds no file that ends in \.csv, .*; check data\.source\.$"),
        ({"source": "notes/readme.md"}, r"File '{address}/notes/readme\.md' is of an unknown form; use one of \.csv"),
        ({"source": "empty.csv"}, r"File '{address}/empty\.csv' is empty; check data\.source\.$"),
        ({"source": "a\0b"}, r"^data\.source 's3://.*a\\x00b' cannot be read: .* is not of the form s3://bucket/key"),
    ],
    ids=str,
)
def test_what_names_no_data_is_refused_before_anything_is_downloaded(
    remote: Remote, settings: dict[str, str], message: str
) -> None:
    remote.put("data/train.csv", csv("a"))
    remote.put("notes/readme.md", b"x")
    remote.put("empty.csv", b"")
    with pytest.raises(DataError, match=message.format(address=remote.address)) as caught:
        find_remote(remote.there(**settings), ELSEWHERE)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("account")
def test_a_bucket_that_is_not_there_is_named() -> None:
    with pytest.raises(
        DataError, match=r"^data\.source 's3://no-such/x' cannot be read: Bucket 'no-such' does not exist at http"
    ):
        find_remote(TextClassificationData(source="s3://no-such/x"), ELSEWHERE)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "The credentials are refused at http"),
        ("AWS_ACCESS_KEY_ID", "AKIAUNKNOWNUNKNOWN00", "The credentials are refused at http"),
        ("AWS_ACCESS_KEY_ID", None, "There are no credentials for http"),
    ],
)
def test_wrong_credentials_are_told_without_them(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, message: str
) -> None:
    remote.put("train.csv", csv("a"))
    monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    if not value:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DataError, match=rf"^data\.source '{remote.address}/train\.csv' cannot be read: {message}") as caught:
        remote.identity(source="train.csv")
    assert not any(secret in str(caught.value) for secret in (ACCESS_KEY, SECRET_KEY, "UNKNOWN"))


@pytest.mark.usefixtures("account")
def test_a_server_that_does_not_answer_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of this machine: nothing listens there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        find_remote(TextClassificationData(source=f"s3://{BUCKET}/x"), ELSEWHERE)

    class State:
        data = caught.value

    assert can_pass(None, None, State())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"txt,label\nx,y\n", r"Column 'text' is not in '{where}'; it has 'txt', 'label'\. Set data\.text_column\."),
        ("a.csv", csv("a", "b") + b"c,d,e\n", r"File '{where}', line 4: 3 fields, but the header has 2; put fields"),
        ("a.csv", csv("a") + b"caf\xe9,x\n", r"File '{where}', line 3: byte b'\\xe9' is not UTF-8; save the file as UTF-8"),
        ("a.csv", csv("a") + b"a\0b,x\n", r"File '{where}', line 3: holds a NUL byte"),
        ("a.csv", b"text,text\n", r"File '{where}' has more than one column 'text'"),
        ("a.csv", b"text;label\nx;y\n", r"File '{where}' has the one column 'text;label'"),
        ("a.csv", csv("a") + b'"b"c,d\n', r"File '{where}', line 3: .*; check its quotes"),
        (
            "a.csv",
            csv("a") + b"b,\n",
            r"'{where}', row 2: column 'label' is '', so its label is missing; mend the row or set data",
        ),
        ("a.csv", b"text,label\n", r"'{where}' has a header but no rows"),
        ("a.jsonl", b'{"text": 1}\n{', r"File '{where}', line 2: not JSON"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n[1]\n', r"File '{where}', line 2: \[1\] is not an object"),
        ("a.json", b"[1]", r"File '{where}', row 1: 1 is not an object"),
        ("a.json", b"{", r"File '{where}' is not JSON"),
        ("a.parquet", b"none of it", r"File '{where}' is not Parquet or is damaged"),
    ],
)
def test_faults_in_a_file_are_told_with_its_address(
    remote: Remote, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    remote.put(name, content)
    with pytest.raises(DataError, match=message.format(where=f"{remote.address}/{name}")) as caught:
        read_split(remote.open(tmp_path / "got", source=name)["train"], COLUMNS, None, {})
    assert str(tmp_path) not in str(caught.value)


# ---- credentials of the run's store, and the step


@pytest.mark.usefixtures("prefect_api")
def test_the_credentials_of_the_runs_store_serve_for_its_own_bucket(s3_store: S3Store, tmp_path: Path) -> None:
    s3_store.objects.put("data/train.csv", csv("a"))
    s3_store.save("data-of-a-run", overwrite=True)
    data = TextClassificationData(source=f"s3://{BUCKET}/{s3_store.prefix}/data")
    identity = find_remote(data, "block:s3-store/data-of-a-run").identity
    source = open_remote(data, "block:s3-store/data-of-a-run", identity, tmp_path / "got")
    assert rows(source) == {"train": [{"text": ["a"], "label": ["a"]}]}
    with pytest.raises(DataError, match="There are no credentials"):
        find_remote(data, ELSEWHERE)
    with pytest.raises(DataError, match="There are no credentials"):
        find_remote(TextClassificationData(source="s3://another-bucket/data"), "block:s3-store/data-of-a-run")
    with pytest.raises(StoreConfigError, match="does not exist in Prefect"):
        find_remote(data, "block:s3-store/none")


def load(store: Path, data: TextClassificationData) -> tuple[DatasetRef, Path]:
    """Run the step in a flow and return its record and the artifact's folder."""
    config = TextClassificationConfig(store=str(store), data=data)
    inputs = Inputs(data_identity=data_identity(data, config.store), model_identity="none")
    run = Run(kind_name="text-classification", config=config, inputs=inputs)

    @flow(name="load", log_prints=False)
    def loading() -> DatasetRef:
        return load_dataset(run)

    reference = loading()
    return reference, run.store.fetch(reference.key)


@pytest.mark.usefixtures("prefect_api")
def test_the_step_makes_the_same_dataset_as_from_this_machine(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, count in enumerate((120, 80)):
        write_csv(remote.folder / "data" / f"part {number}.csv", topic_rows(count, seed=number))
    write_csv(remote.folder / "held" / "out.csv", topic_rows(30, seed=7))
    remote.upload()
    settings = {"source": "data", "test": "../held/*.csv"}
    here, folder = load(tmp_path / "one", remote.here(**settings))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    there, other = load(tmp_path / "two", remote.there(**settings))
    assert list(scratch.iterdir()) == []
    assert here.model_dump(exclude={"key"}) == there.model_dump(exclude={"key"})
    assert (there.train + there.validation, there.test) == (200, 30)
    for split in SPLITS:
        left, right = (datasets.load_from_disk(str(artifact / split)) for artifact in (folder, other))
        assert left.to_list() == right.to_list()
        assert left.features == right.features
    assert (folder / "info.json").read_bytes() == (other / "info.json").read_bytes()

    assert load(tmp_path / "two", remote.there(**settings))[0] == there
    remote.put("held/out.csv", csv(*(f"market news {number}" for number in range(9))).replace(b",m\n", b",market\n"))
    assert load(tmp_path / "two", remote.there(**settings))[0].key != there.key
