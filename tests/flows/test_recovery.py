"""Tests of runs that are asked to stop, lose their compute process, or find an artifact damaged: all is as if it had not been."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.exceptions import TerminationSignal

from flows.experiments import text_classification
from flows.recovery import recovering
from tasks.errors import Preempted
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.training import fine_tune
from tests.flows.test_launch import run_here, start
from tests.helpers import NO_BASELINES, digest_files


def config(store: Path, source: Path, model: Path) -> TextClassificationConfig:
    """Return a small experiment of 220 optimizer steps, with a checkpoint every 60."""
    return TextClassificationConfig.model_validate(
        {
            "name": "topics",
            "store": str(store),
            "data": {"source": str(source)},
            "model": {"name": str(model)},
            "baselines": NO_BASELINES,
            "training": {"epochs": 20, "learning_rate": 0.003, "max_length": 32, "checkpoint_every": 60},
        }
    )


def flags(home: Path, settings: TextClassificationConfig) -> tuple[str, ...]:
    path = home / "config.json"
    path.write_text(settings.model_dump_json(), encoding="utf-8")
    return "--config", str(path), "--json"


Run = Callable[[Path, TextClassificationConfig], "subprocess.Popen[str]"]


@pytest.fixture
def run_by_hand(prefect_api: str) -> Run:
    """Return a function that starts the command, in a process of its own, against the server of the tests."""

    def run(home: Path, settings: TextClassificationConfig) -> "subprocess.Popen[str]":
        return start(home, *flags(home, settings), PREFECT_API_URL=prefect_api)

    return run


class Undisturbed:
    """A run that nothing disturbed."""

    def __init__(self, store: Path, source: Path, model: Path) -> None:
        self.store = store
        self.report = text_classification(config(store, source, model))

    def equals(self, store: Path, out: str) -> bool:
        """Tell whether another run, in another store, came to the same metrics and weights."""
        other = json.loads(out.splitlines()[-1])
        weights = [Path(model) / "model.safetensors" for model in (self.report.model, other["model"])]
        same_weights = weights[0].read_bytes() == weights[1].read_bytes()
        return same_weights and (other["before"], other["after"]) == (self.report.before, self.report.after)


@pytest.fixture(scope="module")
def undisturbed(
    prefect_api: str, kept_compute: Any, tmp_path_factory: pytest.TempPathFactory, topics_csv: Path, encoder: Path
) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"), topics_csv, encoder)


@pytest.fixture
def settings(tmp_path: Path, topics_csv: Path, encoder: Path) -> TextClassificationConfig:
    """Return the settings of a run with a store of its own, `store` in the test's folder."""
    return config(tmp_path / "store", topics_csv, encoder)


def wait_for(condition: Callable[[], Any], seconds: float = 150.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return found


def checkpoints(store: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in store.glob("checkpoints/*/[0-9]*/manifest.json"))


def test_an_undisturbed_run_leaves_no_checkpoints(undisturbed: Undisturbed) -> None:
    assert checkpoints(undisturbed.store) == []


def test_sigterm_saves_a_checkpoint_and_the_same_command_resumes(
    undisturbed: Undisturbed,
    run_by_hand: Run,
    settings: TextClassificationConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = run_by_hand(tmp_path, settings)
    wait_for(lambda: checkpoints(tmp_path / "store"))
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    out, error = run.communicate(timeout=60)
    assert time.monotonic() - asked < 25
    assert (run.returncode, out) == (1, "")
    last = error.splitlines()[-1]
    assert last.startswith("error: Stopped as asked after ")
    assert last.endswith("run the same command to resume.")
    assert "Traceback" not in error
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    # Not scored, not published; the last checkpoint is of the step in which it stopped.
    assert not list((tmp_path / "store" / "steps").glob("fine-tune/*"))
    assert not list((tmp_path / "store" / "steps").glob("evaluate-fine-tuned/*"))
    step = checkpoints(tmp_path / "store")[-1]
    assert f"after {step} of 220 optimizer steps" in last

    code, out, error = run_here(capsys, *flags(tmp_path, settings))
    assert code == 0, error
    assert f"Resuming from the checkpoint of optimizer step {step}." in error
    assert "fine-tune: step 1/" not in error, "it said so, and began anew"
    assert undisturbed.equals(tmp_path / "store", out)
    assert checkpoints(tmp_path / "store") == []


def test_sigterm_outside_of_training_ends_at_once(run_by_hand: Run, settings: TextClassificationConfig, tmp_path: Path) -> None:
    run = run_by_hand(tmp_path, settings)
    assert run.stderr is not None
    for line in run.stderr:
        if "load-dataset: Finished" in line:
            break
    run.send_signal(signal.SIGTERM)
    out, error = run.communicate(timeout=30)
    assert (run.returncode, out) == (1, "")
    assert error.splitlines()[-1].startswith("error: Stopped as asked")
    assert "Traceback" not in error


def test_a_signal_whose_exception_is_ignored_is_not_lost() -> None:
    class Awkward:
        def __del__(self) -> None:
            # As in code in C: what is raised here goes nowhere.
            signal.raise_signal(signal.SIGTERM)

    def stop(*_: object) -> None:
        raise TerminationSignal(signal.SIGTERM)

    def body() -> str:
        Awkward()
        time.sleep(5)
        return "ran to its end"

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Preempted, match=r"^Stopped as asked"):
            recovering(body)()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_an_error_hides_is_a_stop_and_another_error_is_not() -> None:
    def fail(hidden: BaseException) -> None:
        try:
            raise hidden
        except BaseException:
            # As Prefect's engine does; the signal stays its context.
            raise ValueError("Task run is not set") from None

    with pytest.raises(Preempted, match=r"^Stopped as asked"):
        recovering(fail)(TerminationSignal(signal.SIGTERM))
    with pytest.raises(ValueError, match=r"^Task run is not set"):
        recovering(fail)(KeyError("other"))


def test_a_killed_compute_process_is_started_again_and_resumes(
    undisturbed: Undisturbed,
    tmp_path: Path,
    settings: TextClassificationConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fine_tune._task, "retry_delay_seconds", 0)
    store = tmp_path / "store"

    def kill() -> None:
        wait_for(lambda: checkpoints(store))
        children = psutil.Process().children(recursive=True)
        next(child for child in children if "tasks.compute" in child.cmdline()).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    code, out, error = run_here(capsys, *flags(tmp_path, settings))
    killer.join()
    assert code == 0, error
    assert "was killed by SIGKILL" in error
    assert "Resuming from the checkpoint of optimizer step" in error
    assert undisturbed.equals(store, out)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(
    undisturbed: Undisturbed,
    run_by_hand: Run,
    settings: TextClassificationConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = tmp_path / "store"
    run = run_by_hand(tmp_path, settings)
    wait_for(lambda: len(checkpoints(store)) == 2)
    run.kill()
    run.communicate(timeout=60)
    older, newer = checkpoints(store)
    (optimizer,) = store.glob(f"checkpoints/*/{newer}/optimizer.pt")
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    code, out, error = run_here(capsys, *flags(tmp_path, settings))
    assert code == 0, error
    assert f"The checkpoint of optimizer step {newer} is damaged; going back to the one before it." in error
    assert f"Resuming from the checkpoint of optimizer step {older}." in error
    assert undisturbed.equals(store, out)


def test_a_damaged_artifact_is_made_anew_in_the_same_run(undisturbed: Undisturbed, topics_csv: Path, encoder: Path) -> None:
    settings = config(undisturbed.store, topics_csv, encoder)
    before = digest_files(undisturbed.store / undisturbed.report.steps["tokenize"])
    (tokens,) = (undisturbed.store / undisturbed.report.steps["tokenize"]).glob("test/*.arrow")
    content = bytearray(tokens.read_bytes())
    content[len(content) // 2] ^= 1
    tokens.write_bytes(content)
    # Only a step that reads it notices: with the scores gone, that is an evaluation.
    (undisturbed.store / undisturbed.report.steps["evaluate-baseline"] / "manifest.json").unlink()
    again = text_classification(settings)
    assert again.steps == undisturbed.report.steps
    assert again.after == undisturbed.report.after
    assert digest_files(undisturbed.store / again.steps["tokenize"]) == before
