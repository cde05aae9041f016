"""Tests of the command as a person runs it: a process of its own, with a temporary Prefect server."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from flows.__main__ import main
from flows.launch import check_answers
from tasks.errors import ConfigError
from tests.helpers import TOPICS, add_to_hub_cache, make_encoder, prepare_home, topic_rows, write_csv

ROOT = Path(__file__).parent.parent.parent


def start(home: Path, *arguments: str, cwd: Path | None = None, **extra: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "run", "text-classification", *arguments],
        env={**os.environ, "PREFECT_HOME": str(home / "prefect"), "PYTHONPATH": str(ROOT), **extra},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process, where all libraries are there already; return its exit code and what it printed."""
    capsys.readouterr()
    code = main(["run", "text-classification", *arguments])
    return code, *capsys.readouterr()


def flags(tmp_path: Path, source: Path, model: Path, *extra: str) -> list[str]:
    settings = {
        "store": tmp_path / "store",
        "name": "topics",
        "data.source": source,
        "model.name": model,
        "training.learning_rate": 0.01,
        "training.max_length": 32,
    }
    return [*(word for name, value in settings.items() for word in (f"--{name}", str(value))), *extra]


def test_a_run_prints_a_table_the_reports_path_and_its_record_last(tmp_path: Path, topics_csv: Path, encoder: Path) -> None:
    out, error = start(tmp_path, *flags(tmp_path, topics_csv, encoder, "--json")).communicate(timeout=200)
    lines = out.splitlines()
    assert lines[0].split() == ["metric", "before", "after", "difference", "95", "%", "interval"]
    assert re.match(r"accuracy +0\.\d{4} +[01]\.\d{4} +[+-]0\.\d{4} +[+-]\d\.\d{4} to [+-]\d\.\d{4}$", lines[1])
    record = json.loads(lines[-1])
    assert record["outcome"] in lines
    assert f"report: {record['report']}" in lines
    assert Path(record["report"]).is_file()
    assert (Path(record["model"]) / "model.safetensors").is_file()
    assert "fine-tune: step" in error
    assert "learning rate" in error
    assert "Traceback" not in error


@pytest.mark.usefixtures("prefect_api", "kept_compute")
def test_the_environment_sets_no_field_and_flags_override_the_file(
    tmp_path: Path, topics_csv: Path, encoder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("seed: 5\ntraining: {epochs: 3, batch_size: 8}\n", encoding="utf-8")
    arguments = flags(tmp_path, topics_csv, encoder, "--json", "--config", str(config), "--training.epochs", "1")
    for name, value in {"SEED": "9", "TRAINING": '{"batch_size": 4}', "NAME": "other"}.items():
        monkeypatch.setenv(name, value)
    _, out, _ = run_here(capsys, *arguments)
    run = json.loads((Path(json.loads(out.splitlines()[-1])["report"]).parent / "run.json").read_text())
    assert (run["config"]["seed"], run["config"]["name"]) == (5, "topics")
    assert (run["config"]["training"]["epochs"], run["config"]["training"]["batch_size"]) == (1, 8)


def test_the_preset_ag_news_bert_runs_from_a_local_hub_cache(prefect_api: str, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    make_encoder(tmp_path / "bert", positions=512)
    add_to_hub_cache(hub, "model", "bert-base-uncased", tmp_path / "bert")
    dataset = tmp_path / "ag_news"
    for split, count in (("train", 60), ("test", 20)):
        rows = topic_rows(count, seed=count)
        numbered = [{"text": row["text"], "label": list(TOPICS).index(row["label"])} for row in rows]
        write_csv(dataset / f"{split}.csv", numbered)
    (dataset / "README.md").write_text("---\nlicense: unknown\n---\n", encoding="utf-8")
    add_to_hub_cache(hub, "dataset", "fancyzhx/ag_news", dataset)
    arguments = ["--config", "ag-news-bert", "--store", str(tmp_path / "store"), "--json"]
    extra = {"PREFECT_API_URL": prefect_api, "HF_HUB_CACHE": str(hub), "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    out, error = start(tmp_path, *arguments, **extra).communicate(timeout=200)
    assert out, error
    record = json.loads(out.splitlines()[-1])
    run = json.loads((Path(record["report"]).parent / "run.json").read_text())
    assert (
        run["config"]["training"]
        | {
            "epochs": 3,
            "learning_rate": 2e-5,
            "batch_size": 16,
            "weight_decay": 0.01,
        }
        == run["config"]["training"]
    )
    assert run["inputs"] == {"data_identity": "a" * 40, "model_identity": "a" * 40}
    assert record["rows"] == 20


def test_the_preset_stops_where_the_hub_would_be_asked(prefect_api: str, tmp_path: Path) -> None:
    arguments = ["--config", "ag-news-bert", "--store", str(tmp_path / "store")]
    process = start(tmp_path, *arguments, PREFECT_API_URL=prefect_api, HF_HUB_CACHE=str(tmp_path / "hub"))
    out, error = process.communicate(timeout=200)
    assert process.returncode == 2
    assert out == ""
    last = error.splitlines()[-1]
    assert last.startswith("error: Dataset 'ag_news' is not in the local cache and HF_HUB_OFFLINE is set")


@pytest.mark.usefixtures("prefect_api", "kept_compute")
def test_a_time_limit_ends_training_and_the_run_fails_in_one_line(
    tmp_path: Path, topics_csv: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(tmp_path, topics_csv, encoder, "--training.epochs", "1000", "--training.time_limit_s", "3")
    code, out, error = run_here(capsys, *arguments)
    assert code == 1
    assert out == ""
    assert error.splitlines()[-1].startswith("error: Command 'train' did not end within its limit of 3 s")
    assert "Traceback" not in error
    assert not list((tmp_path / "store" / "steps").glob("fine-tune/*/manifest.json"))


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_however_the_command_is_ended(
    number: signal.Signals, tmp_path: Path, topics_csv: Path, encoder: Path
) -> None:
    prepare_home(tmp_path / "prefect")
    process = start(tmp_path, *flags(tmp_path, topics_csv, encoder, "--training.epochs", "1000"))
    assert process.stderr is not None
    assert any("fine-tune: step" in line for line in process.stderr)
    children = psutil.Process(process.pid).children(recursive=True)
    names = [" ".join(child.cmdline()) for child in children]
    assert any("tasks.compute" in name for name in names)
    assert any("flows.local_server" in name for name in names)
    process.send_signal(number)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert process.returncode != 0


@pytest.mark.parametrize("url", ["http://me:hush@127.0.0.1:9/api", "http://me:hush:hush@127.0.0.1/api", "me:hush@127.0.0.1/api"])
def test_a_server_that_does_not_answer_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1") as caught:
        check_answers(url)
    assert "hush" not in str(caught.value)


def test_the_temporary_server_ends_with_its_context() -> None:
    from flows.local_server import local_server

    before = set(psutil.Process().children())
    with local_server() as server:
        url = server.wait_for_url()
        assert httpx.get(f"{url}/health").json() is True
        (child,) = set(psutil.Process().children()) - before
    assert not child.is_running()
