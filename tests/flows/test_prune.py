"""Tests of `python -m flows prune` on real stores: what goes, what is protected, and what others do meanwhile."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from blocks.artifact_store import ArtifactStore, LocalStore
from blocks.manifest import write_manifest
from blocks.s3_store import S3Store
from flows.__main__ import main
from flows.prune import delete, take_stock
from tasks.retention import MARK_LIMIT_S, Deletion, Retention, plan_deletions
from tests.blocks.test_stores import make_folder, write
from tests.helpers import prepare_home
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

ROOT = Path(__file__).parent.parent.parent
STEPS = ("load-dataset", "tokenize", "fine-tune", "compare")
ALL = Retention(keep=0, older_than_days=0)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in (("ENDPOINT_URL_S3", server.endpoint), ("ACCESS_KEY_ID", ACCESS_KEY), ("SECRET_ACCESS_KEY", SECRET_KEY)):
        monkeypatch.setenv(f"AWS_{name}", value)
    return server.store()


def put(store: ArtifactStore, folder: Path, key: str, /, *inputs: str, days: float = 100, **record: Any) -> str:
    """Publish an artifact that was published some days ago."""
    made = folder / "made" / key
    store.publish(make_folder(made, {"data": key.encode() * 100}), key, record, inputs=inputs, made_by="run", own="runs/" in key)
    manifest = store.inspect(key)
    assert manifest is not None
    published = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    write(store, f"{key}/manifest.json", write_manifest(replace(manifest, published=published)))
    return key


def put_run(store: ArtifactStore, folder: Path, number: int, *, days: float, name: str = "news", old: bool = False) -> list[str]:
    """Publish a run and its steps, each with the one before it as input; with `old`, as a version without inputs did."""
    keys: list[str] = []
    for step in STEPS:
        keys.append(put(store, folder, f"steps/{step}/{number:032x}", *([] if old else keys[-1:]), days=days, key=""))
    record = {"name": name, "steps": dict(zip(STEPS, keys, strict=True)), "model": f"{store.locate(keys[2])}/model"}
    run = put(store, folder, f"runs/{name}-{number}", *([] if old else keys), days=days, **record)
    return [run, *reversed(keys)]


def prune(store: ArtifactStore, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[list[str], dict[str, Any]]:
    """Run the command and return its lines but the last, and the object in that."""
    address = str(store.root) if isinstance(store, LocalStore) else str(store)
    assert main(["prune", "--store", address, "--json", *flags]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    return lines, json.loads(last)


def everything(store: ArtifactStore) -> list[str]:
    return [key for folder in ("checkpoints", "runs", "specs", "steps") for key in store.list(folder)]


def listed(told: dict[str, Any]) -> list[str]:
    return [one["key"] for what in ("runs", "steps", "checkpoints", "specs") for one in told[what]]


def test_old_runs_go_with_what_only_they_need(store: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, days in enumerate((300, 200, 100, 50, 10)):
        put_run(store, tmp_path, number, days=days, old=number % 2 == 0)
    gone = [*put_run(store, tmp_path, 5, days=400), put(store, tmp_path, "checkpoints/77/10"), put(store, tmp_path, "specs/9")]
    shared = put(store, tmp_path, "steps/load-dataset/shared")
    put(store, tmp_path, "runs/other", shared, name="other")
    before = everything(store)
    lines, told = prune(store, capsys, "--keep", "4")
    # The four newest runs of `news`, and the only one of `other`; of two more, one is older than all.
    old = [f"runs/news-{number}" for number in (0, 5)]
    assert sorted(listed(told)) == sorted([*gone, *(key for key in before if key.endswith(f"/{0:032x}")), "runs/news-0"])
    assert [one["key"] for one in told["runs"]] == old[::-1]
    assert lines[0].split() == ["what", "key", "age", "size", "model"]
    assert lines[1].split() == ["run", "runs/news-5", "400", "d", "1.1", "kB", "news"]
    assert [line.split()[0] for line in lines[1:-1]] == ["run"] * 2 + ["step"] * 8 + ["checkpoint", "spec"]
    assert lines[-1].startswith("2 runs, 8 steps, 1 checkpoint, 1 spec can go, ")
    assert lines[-1].endswith("; nothing was deleted; add --yes.")
    assert everything(store) == before
    lines, told = prune(store, capsys, "--keep", "4", "--yes")
    assert lines[-1].startswith("Deleted 2 runs, 8 steps, 1 checkpoint, 1 spec, ")
    assert sorted([*everything(store), *listed(told)]) == sorted(before)
    assert (told["deleted"], told["left_out"], told["bytes"] > 0) == (True, [], True)
    lines, told = prune(store, capsys, "--keep", "4", "--yes")
    assert lines == [lines[0]]
    assert lines[0].startswith("Nothing to delete: ")
    assert listed(told) == []
    for key in everything(store):
        store.fetch(key)


def test_pointers_and_marks_protect(store: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [put_run(store, tmp_path, number, days=100 + number) for number in range(4)]
    checkpoint = put(store, tmp_path, "checkpoints/88/10")
    store.swap_pointer("champion/news", {"model": {"at": store.locate(runs[0][2])}}, None)
    store.swap_pointer("champion/other", {"run": runs[1][0]}, None)
    store.mark("alive", {"keys": [runs[2][1], "checkpoints/88"], "refreshed_s": 300})
    kept = {*runs[0][2:], *runs[1], *runs[2][1:], checkpoint}
    _, told = prune(store, capsys, "--keep", "0", "--older_than_days", "0", "--yes")
    assert set(everything(store)) == kept
    assert set(listed(told)) == {runs[0][0], runs[0][1], runs[2][0], *runs[3]}
    assert told["marks"] == []
    store.unmark("alive")
    prune(store, capsys, "--keep", "0", "--older_than_days", "0", "--yes")
    assert set(everything(store)) == {*runs[0][2:], *runs[1]}


def test_the_mark_of_a_dead_run_protects_nothing_and_goes(
    store: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put(store, tmp_path, "steps/load-dataset/1")
    store.mark("dead", {"keys": [key]})
    _, told = prune(store, capsys)
    assert (listed(told), told["marks"]) == ([], [])
    age_marks(store, monkeypatch)
    lines, told = prune(store, capsys)
    assert (listed(told), [one["key"] for one in told["marks"]]) == ([key], ["dead"])
    assert lines[2].split()[:2] == ["mark", "dead"]
    assert list(store.marks()) == ["dead"]
    lines, told = prune(store, capsys, "--yes")
    assert (listed(told), [one["key"] for one in told["marks"]]) == ([key], ["dead"])
    assert lines[-1].startswith("Deleted 1 step, 1 mark, ")
    assert store.marks() == {}


def age_marks(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, *but: str) -> None:
    """Let the marks be as old as those of dead runs, all `but` some."""
    marks, kind = type(store).marks, type(store)

    def older(self: Any) -> Any:
        found = marks(self)
        return {name: mark if name in but else replace(mark, age_s=mark.age_s + MARK_LIMIT_S) for name, mark in found.items()}

    monkeypatch.setattr(kind, "marks", older)
    # Older than the limit, not as old.
    time.sleep(1.1 if isinstance(store, S3Store) else 0.05)


def test_a_mark_that_is_refreshed_meanwhile_stays(store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.mark("back", {})
    with monkeypatch.context() as patch:
        age_marks(store, patch)
        stock = take_stock(store)
    assert [*delete(store, stock, [], ALL)] == []
    assert list(store.marks()) == ["back"]


def start(store: ArtifactStore, retention: Retention = ALL) -> tuple[Any, list[Deletion]]:
    stock = take_stock(store)
    return stock, plan_deletions(stock.artifacts, stock.roots, retention)


@pytest.mark.parametrize("how", ["mark", "pointer"])
def test_what_is_named_since_the_plan_stays_with_all_that_it_needs(store: ArtifactStore, tmp_path: Path, how: str) -> None:
    first, second = (put_run(store, tmp_path, number, days=100 - number) for number in range(2))
    stock, plan = start(store)
    assert len(plan) == 10
    deleting = delete(store, stock, plan, ALL)
    assert next(deleting).key == first[0]
    if how == "mark":
        store.mark("started", {"keys": [second[1]]})
    else:
        store.swap_pointer("champion/news", {"run": second[0]}, None)
    assert next(deleting).key == (second[0] if how == "mark" else first[1])
    if how == "mark":
        # It ends meanwhile; what it published is not known, so what it named stays.
        store.unmark("started")
    for _ in deleting:
        pass
    assert set(everything(store)) == set(second[1:] if how == "mark" else second)


def test_what_was_made_anew_or_is_gone_since_the_plan_is_left_alone(store: ArtifactStore, tmp_path: Path) -> None:
    again, gone, last = (put(store, tmp_path, f"steps/load-dataset/{name}") for name in "abc")
    stock, plan = start(store)
    store.delete(again)
    store.delete(gone)
    store.publish(make_folder(tmp_path / "anew", {"data": b"x"}), again, {})
    assert [one.key for one in delete(store, stock, plan, ALL)] == [last]
    assert everything(store) == [again]


def test_a_prune_that_is_cut_off_leaves_no_dangling_reference_and_is_gone_on_with(store: ArtifactStore, tmp_path: Path) -> None:
    for number in range(2):
        put_run(store, tmp_path, number, days=100 - number)
    total = len(everything(store))
    for count in range(total):
        stock, plan = start(store)
        assert len(plan) == total - count
        next(delete(store, stock, plan, ALL))
        left = set(everything(store))
        for key in left:
            manifest = store.inspect(key)
            assert manifest is not None
            assert set(manifest.inputs) <= left
    assert everything(store) == []


def test_prunes_at_once_and_beside_runs_break_nothing_that_is_kept(store: ArtifactStore, tmp_path: Path) -> None:
    for number in range(4):
        put_run(store, tmp_path, number, days=100 - number)
    retention = Retention(keep=1, older_than_days=1)
    until, made = time.monotonic() + 4, []

    def work(number: int) -> None:
        count = 0
        while time.monotonic() < until:
            if number < 2:
                stock, plan = start(store, retention)
                for _ in delete(store, stock, plan, retention):
                    pass
                continue
            count += 1
            name = f"{number}-{count}"
            store.mark(name, {"keys": [f"steps/{step}/{10 * count + number:032x}" for step in STEPS]})
            made.extend(put_run(store, tmp_path, 10 * count + number, days=0.5, name=f"model-{number}"))
            store.unmark(name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    left = everything(store)
    assert set(left) == {*made, *(key for key in left if key == "runs/news-3" or key.endswith(f"/{3:032x}"))}
    assert len(left) == len(made) + 5
    for key in left:
        store.fetch(key)


def test_leavings_of_interrupted_publishes_go(
    store: ArtifactStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, tmp_path, "steps/load-dataset/1", days=1)
    if isinstance(store, LocalStore):
        leaving = make_folder(store.root / "steps" / ".partial-1", {"data": b"x"})
        for path in (leaving, leaving / "data"):
            os.utime(path, (time.time() - 90_000,) * 2)
        address = str(leaving)
    else:
        assert isinstance(store, S3Store)
        store.objects.put("steps/lost/1/data", b"x")
        address = store.objects.address("steps/lost/1/data")
        monkeypatch.setattr("flows.prune._LEAVING_AGE_S", 0)
    lines, told = prune(store, capsys)
    assert [one["key"] for one in told["leavings"]] == [address]
    assert lines[1].split() == ["leaving", address, "-", "-", "-"]
    _, told = prune(store, capsys, "--yes")
    assert [one["key"] for one in told["leavings"]] == [address]
    _, told = prune(store, capsys, "--yes")
    assert told["leavings"] == []


def test_a_young_leaving_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = LocalStore(tmp_path / "store")
    leaving = make_folder(store.root / "steps" / ".partial-1", {"data": b"x"})
    prune(store, capsys, "--yes", "--older_than_days", "0", "--keep", "0")
    assert leaving.exists()


@pytest.mark.parametrize("published", ["", "yesterday", "2020-01-01", "2999-01-01T00:00:00+00:00"])
def test_odd_times(published: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = LocalStore(tmp_path / "store")
    key = put(store, tmp_path, "steps/load-dataset/1")
    manifest = store.inspect(key)
    assert manifest is not None
    write(store, f"{key}/manifest.json", write_manifest(replace(manifest, published=published)))
    _, told = prune(store, capsys)
    assert listed(told) == ([key] if published == "2020-01-01" else [])
    # A manifest of an earlier version is as old as its file.
    os.utime(store.root / key / "manifest.json", (0, 0))
    _, told = prune(store, capsys)
    assert listed(told) == ([key] if published in ("2020-01-01", "") else [])
    _, told = prune(store, capsys, "--older_than_days", "0", "--yes")
    assert listed(told) == [key]
    assert everything(store) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--keep", "-1"], ["--keep", "'-1'"]),
        (["--keep", "1.5"], ["--keep", "'1.5'"]),
        (["--older_than_days", "-0.1"], ["--older_than_days", "'-0.1'"]),
        (["--older_than_days", "nan"], ["--older_than_days", "'nan'"]),
        (["--older_than_days", "inf"], ["--older_than_days", "'inf'"]),
        (["--older_than_days", "week"], ["--older_than_days", "'week'"]),
        (["--all"], ["--all"]),
        (["--kee", "3"], ["--kee"]),
        (["store"], ["store"]),
        (["--store", "nowhere"], ["'nowhere'", "not there", "set --store"]),
        (["--store", "file"], ["'file'", "not there"]),
        (["--store", ""], ["''", "s3://bucket/prefix"]),
        (["--store", "gs://bucket"], ["gs://bucket"]),
        (["--store", "block:x"], ["block:x"]),
        ([], ["'artifacts'", "not there"]),
    ],
)
def test_wrong_input_is_one_line(
    flags: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if "block:x" in flags:
        request.getfixturevalue("prefect_api")
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(["prune", *flags, "--yes"]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    for word in ["error: ", *words]:
        assert word in error
    assert os.listdir(tmp_path) == ["file"]


def test_a_store_that_fails_is_no_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = LocalStore(tmp_path / "store")
    key = put(store, tmp_path, "steps/load-dataset/1")
    store.swap_pointer("champion", {}, None)
    write(store, "pointers/champion.json", b"[]")
    assert main(["prune", "--store", str(store.root), "--yes"]) == 2
    assert "is not a pointer" in capsys.readouterr().err
    assert everything(store) == [key]


def test_a_server_that_does_not_answer_is_exit_code_1(
    s3_server: S3Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    store = s3_server.store(endpoint_url="http://127.0.0.1:9")
    monkeypatch.setattr("tasks.runs.open_store", lambda address: store)
    assert main(["prune", "--store", "s3://bucket"]) == 1
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("error: ")


SAVE = """
import sys
from blocks.s3_store import S3Store
from flows.launch import prefect_api

with prefect_api():
    S3Store.model_validate_json(sys.stdin.read()).save("pruned")
"""


@pytest.mark.parametrize("lasting", [False, True], ids=["temporary", "lasting"])
def test_a_store_in_a_block_is_opened_through_prefects_server(
    s3_store: S3Store, tmp_path: Path, lasting: bool, prefect_api: str
) -> None:
    key = put(s3_store, tmp_path, "steps/load-dataset/1")
    fields = {name: getattr(s3_store, name) for name in ("bucket", "prefix", "region")}
    fields["endpoint_url"] = str(s3_store.endpoint_url)
    secrets = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(prepare_home(tmp_path / "prefect")), "PYTHONPATH": str(ROOT)}
    environment |= {"PREFECT_API_URL": prefect_api} if lasting else {}

    def run(*command: str, **options: Any) -> str:
        ended = subprocess.run(
            [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, **options
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    run("-c", SAVE, input=json.dumps(fields | secrets))
    out = run("-m", "flows", "prune", "--store", "block:s3-store/pruned", "--yes")
    assert out.splitlines()[-1].startswith("Deleted 1 step, ")
    assert s3_store.find(key) is None


def test_on_a_terminal_it_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    put(store, tmp_path, "runs/a", name="[red]odd\nname")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    lines, _ = prune(store, capsys, "--keep", "0")
    assert any("│" in line and "runs/a" in line and "[red]odd name" in line for line in lines)
