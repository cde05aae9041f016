"""Tests of `python -m flows doctor` on real stores and a real Prefect server: each fault once, and nothing left behind."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from huggingface_hub import constants
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.errors import StoreUnavailable
from blocks.s3_store import S3Store
from flows.__main__ import main
from flows.doctor import machine
from flows.doctor.findings import Check, Finding, make_all
from flows.doctor.server import compare_versions
from flows.doctor.versions import compare
from tasks.config import ExperimentConfig
from tests.helpers import topic_rows, write_csv
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from tests.tasks.test_hub import COMMIT, Handler, Hub, keep, point_to

ROOT = Path(__file__).parent.parent.parent
# Port 9 of this machine: nothing listens there.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run each test in an empty folder with empty caches, without a server, and without the seconds that torch takes."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FINETUNE_FLOWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("flows.doctor.command.check_devices", lambda config: [Finding("ok", "device", "cpu (2 cores), fp32")])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(50 * 10**9))
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


class Disk(NamedTuple):
    free: int


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Let stores in S3 be opened by their address."""
    for name, value in (
        ("ENDPOINT_URL_S3", s3_server.endpoint),
        ("ACCESS_KEY_ID", ACCESS_KEY),
        ("SECRET_ACCESS_KEY", SECRET_KEY),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    return s3_server


@pytest.fixture
def config_file(tmp_path: Path, encoder: Path) -> Path:
    """Return a config whose run would work here."""
    rows = write_csv(tmp_path / "rows.csv", topic_rows(60))
    return write_config(tmp_path, {"data": {"source": str(rows)}, "model": {"name": str(encoder)}})


def write_config(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"store": str(folder / "store"), **values}), encoding="utf-8")
    return path


class Said(NamedTuple):
    """What the command says of one check, all its findings as one text."""

    status: str
    text: str


def doctor(capsys: pytest.CaptureFixture[str], *flags: object, code: int = 0) -> dict[str, Said]:
    """Run the command and return what it says by check; the worst status of a check counts."""
    assert main(["doctor", "--json", *map(str, flags)]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["works"] is (code == 0)
    said: dict[str, Said] = {}
    for one in told["checks"]:
        before = said.get(one["check"], Said("ok", ""))
        status = max(before.status, one["status"], key=("ok", "warn", "FAIL").index)
        said[one["check"]] = Said(status, f"{before.text} {one['finding']}; {one['remedy']}".strip())
    return said


def faults(said: dict[str, Said]) -> dict[str, str]:
    return {check: one.status for check, one in said.items() if one.status != "ok"}


def failure(capsys: pytest.CaptureFixture[str], check: str, *flags: object) -> str:
    """Return what is said of the one check that fails."""
    said = doctor(capsys, *flags, code=1)
    assert [name for name, status in faults(said).items() if status == "FAIL"] == [check]
    return said[check].text


# ---- the command


def test_where_all_is_well_every_check_says_so_and_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    header, *lines, empty, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["check", "finding", "and", "remedy"]
    assert (empty, last) == ("", "A run would work here.")
    column = header.index("finding")
    assert {line.split()[0] for line in lines} == {"ok"}
    assert [line[2:column].strip() for line in lines] == [
        "versions",
        "device",
        "store",
        *(f"disk ({what})" for what in ("store", "cache", "temporary", "Hub cache")),
        "Prefect server",
        "Hub",
    ]
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)
    assert list(Path().iterdir()) == []


def test_with_a_config_what_its_run_needs_is_looked_at(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = doctor(capsys, "--config", config_file)
    assert faults(said) == {}
    assert [*said][-3:] == ["model", "data", "preflight"]
    assert str(config_file.parent / "store") in said["store"].text
    assert not (config_file.parent / "store").exists()
    other = config_file.parent / "other"
    assert str(other) in doctor(capsys, "--config", config_file, "--store", other)["store"].text


def test_a_fault_of_the_preflight_is_one_failed_line(tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_csv(tmp_path / "rows.csv", [{"txt": "a b", "label": "x"}])
    config = write_config(tmp_path, {"data": {"source": str(rows)}, "model": {"name": str(encoder)}})
    assert "data.text_column" in failure(capsys, "preflight", "--config", config)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--config", "ag-news-brt"], "did you mean 'ag-news-bert'"),
        (["--kind", "clasification"], "text-classification"),
        (["--sore", "x"], "--sore"),
    ],
)
def test_wrong_input_is_refused(flags: Sequence[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *flags]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert word in error


def test_checks_are_made_whatever_becomes_of_the_others() -> None:
    release = threading.Event()

    def hang() -> Iterator[Finding]:
        yield Finding("ok", "slow", "as far as it came")
        release.wait(30)

    def fail() -> Iterator[Finding]:
        raise StoreUnavailable("The store\nis away; try again.")

    def break_down() -> Iterator[Finding]:
        yield Finding("ok", "broken", "as far as it came")
        raise KeyError("x")

    checks = [
        Check("slow", hang, 0.2, otherwise="warn"),
        Check("away", fail, 5),
        Check("broken", break_down, 5),
        Check("fine", lambda: [Finding("ok", "fine", "good")], 5),
    ]
    try:
        assert make_all(checks) == [
            Finding("ok", "slow", "as far as it came"),
            Finding("warn", "slow", "There is no answer within 0.2 s."),
            Finding("FAIL", "away", "The store is away; try again."),
            Finding("ok", "broken", "as far as it came"),
            Finding("FAIL", "broken", "This could not be checked (KeyError: 'x')."),
            Finding("ok", "fine", "good"),
        ]
    finally:
        release.set()


def test_no_password_is_told_wherever_the_words_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Iterator[Finding]:
        raise RuntimeError("cannot reach https://me:hush@example.com/x")

    monkeypatch.setattr("flows.doctor.command.check_versions", fail)
    assert "https://example.com/x" in failure(capsys, "versions")
    with temporary_settings({PREFECT_API_URL: "http://me:hush@127.0.0.1:9/api"}):
        assert main(["doctor"]) == 1
    out, error = capsys.readouterr()
    assert "'http://127.0.0.1:9/api'" in out
    assert "hush" not in out + error


# ---- versions


def test_versions_are_compared_with_their_bounds() -> None:
    installed = {"fastapi": "0.155.0", "torch": "2.13.0+cpu", "prefect": "3.9.0rc1"}
    bounds = ["fastapi>=0.139,<0.151", "torch>=2.9,<2.14", "prefect>=3.8,<4", "boto3>=1.40", "pytest>=9; extra == 'test'"]
    found = compare([Requirement(one) for one in bounds], SpecifierSet(">=99"), installed.get)
    assert [one.status for one in found] == ["FAIL"] * 3
    assert [one.finding.split()[0] for one in found] == ["Python", "fastapi", "boto3"]
    assert found[1].finding == "fastapi 0.155.0 is out of its bounds, <0.151,>=0.139"
    assert found[1].remedy == "pip install 'fastapi<0.151,>=0.139'"
    assert found[2].finding == "boto3 is missing; >=1.40 is needed"
    (told,) = compare([Requirement(one) for one in bounds[1:3]], SpecifierSet(">=3.11"), installed.get)
    assert told.status == "ok"
    assert "torch 2.13.0+cpu" in told.finding


def test_a_version_out_of_the_projects_own_bounds_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = {"fastapi": "0.155.0"}
    from flows.doctor.versions import installed_version

    monkeypatch.setattr("flows.doctor.versions.installed_version", lambda name: versions.get(name) or installed_version(name))
    text = failure(capsys, "versions")
    assert "fastapi 0.155.0 is out of its bounds" in text
    assert "pip install 'fastapi" in text


# ---- devices


def test_torch_stays_out_of_the_command_and_a_missing_device_fails(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    config = write_config(tmp_path, {"training": {"device": "cuda"}})
    script = (
        "import sys; from flows.__main__ import main; code = main(sys.argv[1:]);"
        "sys.exit(99 if {'torch', 'transformers', 'evaluate'} & {*sys.modules} else code)"
    )
    command = [sys.executable, "-c", script, "doctor", "--json", "--config", str(config)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    (device,) = [one for one in json.loads(ended.stdout)["checks"] if one["check"] == "device"]
    assert device["status"] == "FAIL"
    assert device["finding"].startswith("training.device is 'cuda', but this machine has none")


class FakeCompute:
    """Stands in for the compute process on a machine with a GPU; `wanted` is what it was last asked."""

    wanted: dict[str, Any]

    def __enter__(self) -> "FakeCompute":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def request(self, command: str, arguments: dict[str, Any], *, on_event: Any, **_: Any) -> dict[str, Any]:
        FakeCompute.wanted = arguments
        on_event({"event": "log", "level": 30, "message": "something else"})
        on_event({"event": "log", "level": 30, "message": "CUDA initialization: the driver is too old"})
        return {"device": "cuda", "precision": "bf16", "name": "NVIDIA H100", "memory": 85 * 10**9}


def test_what_the_compute_process_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ComputeProcess", FakeCompute)
    config = ExperimentConfig.model_validate({"training": {"device": "cuda", "precision": "bf16"}})
    told, warning = machine.check_devices(config)
    assert told == Finding("ok", "device", "cuda (NVIDIA H100, 85.0 GB), bf16")
    assert (warning.status, warning.finding) == ("warn", "CUDA initialization: the driver is too old")
    assert FakeCompute.wanted == {"device": "cuda", "precision": "bf16", "processes": 1}


def test_a_device_that_another_machine_must_have_is_not_asked_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ComputeProcess", FakeCompute)
    config = ExperimentConfig.model_validate({"gpu_deployment": "gpu-stage/gpu-stage", "training": {"device": "cuda"}})
    told, _ = machine.check_devices(config)
    assert FakeCompute.wanted == {"device": "auto", "precision": "auto", "processes": 1}
    assert "'gpu-stage/gpu-stage'" in told.finding


# ---- the store


def test_a_store_in_a_folder_is_tried_and_stays_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    (store / "pointers").mkdir(parents=True)
    (store / "pointers" / "news.json").write_text("{}")
    before = sorted(store.rglob("*"))
    assert "written, read, swapped and deleted in" in doctor(capsys, "--store", store)["store"].text
    assert sorted(store.rglob("*")) == before
    doctor(capsys, "--store", tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_store_below_a_file_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in failure(capsys, "store", "--store", tmp_path / "file" / "store")


def test_a_store_in_s3_is_tried_and_stays_as_it_was(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = s3.store()
    store.objects.put("pointers/news.json", b"{}")
    text = doctor(capsys, "--store", store)["store"].text
    assert text.startswith(f"{store}: written, read, swapped and deleted in")
    assert [*store.objects.scan("")] == ["pointers/news.json"]
    assert not (tmp_path / "cache").exists()
    # What fails half-way is cleared too.
    monkeypatch.setattr(S3Store, "delete", lambda self, key: None)
    assert "still gives what was deleted" in failure(capsys, "store", "--store", store)
    assert [*store.objects.scan("")] == ["pointers/news.json"]


@pytest.mark.parametrize(
    ("variable", "value", "bucket", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", BUCKET, "The credentials are refused"),
        ("AWS_DEFAULT_REGION", "us-east-1", "no-such-bucket", "Bucket 'no-such-bucket' does not exist"),
        ("AWS_ENDPOINT_URL_S3", NOWHERE, BUCKET, "does not answer"),
    ],
)
@pytest.mark.usefixtures("s3")
def test_a_store_in_s3_that_cannot_be_used_fails(
    variable: str, value: str, bucket: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    text = failure(capsys, "store", "--store", f"s3://{bucket}/x")
    assert words in text
    assert SECRET_KEY not in text


@pytest.mark.usefixtures("s3")
def test_a_store_that_takes_the_call_and_is_silent_does_not_hang_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.doctor.command._STORE_LIMIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert "no answer within 0.5 s" in failure(capsys, "store", "--store", "s3://bucket/x")
        assert time.monotonic() - started < 10


def test_a_store_in_a_block_is_tried(prefect_api: str, s3_server: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        store = s3_server.store("doctor")
        store.save("doctor", overwrite=True)
        text = doctor(capsys, "--store", "block:s3-store/doctor")["store"].text
        assert text.startswith("block:s3-store/doctor (s3://artifacts/doctor): written")
        assert "does not exist in Prefect" in failure(capsys, "store", "--store", "block:s3-store/none")
    assert [*store.objects.scan("")] == []


def test_a_block_is_opened_through_a_temporary_server_where_none_is_set(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used: list[str] = []

    @contextmanager
    def server() -> Iterator[bool]:
        with temporary_settings({PREFECT_API_URL: prefect_api}):
            used.append(prefect_api)
            yield False

    monkeypatch.setattr("flows.doctor.command.prefect_api", server)
    assert "does not exist in Prefect" in failure(capsys, "store", "--store", "block:s3-store/none")
    assert used == [prefect_api]


# ---- disks


def test_a_full_disk_fails_and_a_nearly_full_one_warns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(1_900_000_000))
    said = doctor(capsys, code=1)
    assert faults(said) == {
        "disk (store)": "FAIL",
        "disk (cache)": "warn",
        "disk (temporary)": "FAIL",
        "disk (Hub cache)": "warn",
    }
    assert said["disk (temporary)"].text.startswith("1.9 GB free for ")
    assert "TMPDIR" in said["disk (temporary)"].text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(9 * 10**9))
    assert set(faults(doctor(capsys)).values()) == {"warn"}


def test_a_store_in_s3_needs_the_cache_and_no_folder_of_its_own(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0))
    said = doctor(capsys, "--store", s3.store(), code=1)
    assert faults(said) == {"disk (cache)": "FAIL", "disk (temporary)": "FAIL", "disk (Hub cache)": "warn"}
    monkeypatch.setenv("FINETUNE_FLOWS_CACHE_GB", "much")
    assert "FINETUNE_FLOWS_CACHE_GB is 'much'" in doctor(capsys, "--store", s3.store(), code=1)["disk (cache)"].text


# ---- the Prefect server


@pytest.fixture
def server(prefect_api: str) -> Iterator[SyncPrefectClient]:
    """Return a client of a server without our work pools."""
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        yield client
        for pool in client.read_work_pools():
            client.delete_work_pool(pool.name)


def test_work_pools_are_told_with_their_workers(server: SyncPrefectClient, capsys: pytest.CaptureFixture[str]) -> None:
    said = doctor(capsys)
    assert faults(said) == {"work pool cpu": "warn", "work pool gpu": "warn"}
    assert "answers, version" in said["Prefect server"].text
    assert said["work pool gpu"].text.endswith("python -m flows setup")
    server.create_work_pool(WorkPoolCreate(name="cpu", type="process"))
    server.create_work_pool(WorkPoolCreate(name="gpu", type="process"))
    server.send_worker_heartbeat("cpu", "first", heartbeat_interval_seconds=30)
    said = doctor(capsys)
    assert faults(said) == {"work pool gpu": "warn"}
    assert said["work pool cpu"].text.startswith("1 worker online")
    assert said["work pool gpu"].text == "No worker is online; prefect worker start --pool gpu"
    server.update_work_pool("gpu", WorkPoolUpdate(is_paused=True))
    assert "prefect work-pool resume gpu" in doctor(capsys)["work pool gpu"].text


def test_a_deployment_that_the_config_names_must_be_there(
    server: SyncPrefectClient, tmp_path: Path, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(config_file.read_text()) | {"gpu_deployment": "gpu-stage/fast"}
    write_config(tmp_path, values)
    said_missing = failure(capsys, "deployment", "--config", config_file)
    assert said_missing.startswith("There is no deployment 'gpu-stage/fast'; prefect deploy --all")
    server.create_work_pool(WorkPoolCreate(name="h100", type="process"))
    flow = server.create_flow_from_name("gpu-stage")
    deployment = server.create_deployment(flow, "fast", work_pool_name="h100")
    said = doctor(capsys, "--config", config_file)
    server.delete_deployment(deployment)
    assert "work pool 'h100'" in said["deployment"].text
    # The pools are those of the project's deployments.
    assert faults(said) == {"work pool h100": "warn"}
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert "set PREFECT_API_URL" in failure(capsys, "deployment", "--config", config_file)


@pytest.mark.parametrize(
    ("ours", "its", "status"),
    [("3.9.1", "3.9.0", "ok"), ("3.9.1", "3.8.9", "warn"), ("3.9.1", "4.9.1", "warn"), ("3.9.1", None, "ok")],
)
def test_a_server_of_another_version_is_a_warning(ours: str, its: str | None, status: str) -> None:
    assert compare_versions("http://x", ours, its).status == status


def test_a_server_that_is_not_there_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: f"{NOWHERE}/api"}):
        text = failure(capsys, "Prefect server")
    assert "no Prefect server answers there" in text


def test_a_server_that_wants_a_key_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(401) as server, temporary_settings({PREFECT_API_URL: f"{server.url}/api"}):
        assert "PREFECT_API_KEY" in failure(capsys, "Prefect server")


# ---- the Hub


@contextmanager
def answering(status: int) -> Iterator[Hub]:
    """Serve the small Hub, which has the model `me/it`, or one status to every request."""
    with Hub(("127.0.0.1", 0), Handler) as server:
        server.answer = (status, {})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def hub_config(tmp_path: Path) -> Path:
    return write_config(tmp_path, {"model": {"name": "me/it"}})


def test_offline_the_cache_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("models--me--it", "models--me--other", "datasets--fancyzhx--ag_news"):
        keep(tmp_path / "hub", folder)
    text = doctor(capsys)["Hub"].text
    assert "HF_HUB_OFFLINE is set" in text
    assert "2 models and 1 dataset;" in text


def test_a_model_in_the_cache_is_found_there_if_it_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path / "hub", "models--me--it", files=("config.json",))
    said = doctor(capsys, "--config", hub_config(tmp_path), code=1)
    assert "not whole in the cache and HF_HUB_OFFLINE is set" in said["model"].text
    keep(tmp_path / "hub", "models--me--it", files=("model.safetensors",))
    assert f"is in the cache, commit {COMMIT[:12]}" in doctor(capsys, "--config", hub_config(tmp_path))["model"].text


def test_a_hub_that_does_not_answer_fails_only_where_it_is_needed(
    tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        point_to(NOWHERE, patch)
        said = doctor(capsys, "--config", config_file)
        assert faults(said) == {"Hub": "warn"}
        assert said["Hub"].text.startswith(f"{NOWHERE} does not answer")
        text = failure(capsys, "model", "--config", hub_config(tmp_path))
        assert text.startswith(f"'me/it' is not in the cache, and {NOWHERE} does not answer")
        keep(tmp_path / "hub", "models--me--it", files=("model.safetensors",))
        assert faults(doctor(capsys, "--config", hub_config(tmp_path))) == {"Hub": "warn"}


def test_a_model_on_the_hub_is_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(200) as hub, monkeypatch.context() as patch:
        point_to(hub.url, patch)
        said = doctor(capsys, "--config", hub_config(tmp_path))
    assert faults(said) == {}
    assert said["Hub"].text.startswith(f"{hub.url} answers")
    assert f"'me/it' is on the Hub, commit {COMMIT[:12]}" in said["model"].text


def test_a_dataset_or_model_that_is_nowhere_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, {"data": {"source": "me/rows"}, "model": {"name": str(tmp_path / "none")}})
    said = doctor(capsys, "--config", config, code=1)
    assert faults(said) == {"model": "FAIL", "data": "FAIL", "preflight": "FAIL"}
    assert "is not there; check model.name" in said["model"].text
    assert "'me/rows' is not in the local cache" in said["data"].text
