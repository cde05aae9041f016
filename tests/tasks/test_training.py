"""The step `fine-tune` against a compute process that fails as a real one cannot be made to: out of memory, diverged, damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from prefect import flow

from blocks.artifact_store import LocalStore
from tasks.config import TrainingSettings
from tasks.errors import CheckpointUnusable, OutOfMemory, Preempted, TrainingDiverged, TrainingStopped
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.model_card import name_base
from tasks.records import Checkpoint, DatasetRef, Inputs
from tasks.steps import Run, read_json, write_json
from tasks.trained import read_trained
from tasks.training import fine_tune, forget_checkpoints

ANSWER = {
    **{"steps": 9, "planned_steps": 9, "stop_reason": "finished", "best_epoch": 1.0, "validation": {"accuracy": 1.0}},
    **{
        "history": [],
        "resumed_from": 0,
        "rows_per_s": 1.0,
        "tokens_per_s": 1.0,
        "padded_tokens_per_s": 2.0,
        "seconds": 1.0,
        "device": "cpu, fp32",
    },
}


class Compute:
    """A compute process that answers requests with what it is told to: an error is raised, a function called."""

    def __init__(self, *script: Exception | Callable[..., dict[str, Any]] | dict[str, Any], asked_to_stop: bool = False) -> None:
        self.script, self.asked_to_stop = list(script), asked_to_stop
        self.requests: list[dict[str, Any]] = []

    def request(
        self, command: str, arguments: dict[str, Any], *, on_event: Callable[[dict[str, Any]], None], **_: Any
    ) -> dict[str, Any]:
        assert command == "train"
        self.requests.append(arguments)
        Path(arguments["output"]).mkdir(exist_ok=True)
        for step in (3, 6):
            folder = Path(arguments["checkpoints"]) / str(step)
            folder.mkdir()
            (folder / "optimizer.pt").write_text(f"state {step}")
            on_event({"event": "checkpoint", "step": step, "folder": str(folder)})
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(arguments) if callable(answer) else answer

    def each(self, name: str) -> list[Any]:
        return [request[name] for request in self.requests]


class Stage:
    """The inputs of the step in a store, and a flow around it."""

    def __init__(self, root: Path, model: Path) -> None:
        self.store = LocalStore(root / "store")
        self.model = model
        made = root / "made"
        made.mkdir()
        write_json(made / "info.json", {"labels": ["a", "b"]})
        datasets.disable_progress_bars()
        for split, hashes in (("train", [2**64 - 1, 7, 7]), ("validation", [3]), ("test", [9])):
            rows = datasets.Dataset(pa.table({"hash": pa.array(hashes, pa.uint64())}))
            rows.save_to_disk(str(made / split))
        for key in ("steps/load-dataset/1", "steps/tokenize/1"):
            self.store.publish(made, key, {})
        self.inputs = {
            name: DatasetRef(key=f"steps/{step}/1", train=3, validation=1, test=1)
            for name, step in (("dataset", "load-dataset"), ("tokens", "tokenize"))
        }

    def run(self, batch_size: int, **training: Any) -> Run:
        from tasks.models import model_identity

        config = TextClassificationConfig(
            store=str(self.store.root),
            model={"name": str(self.model)},
            training=TrainingSettings(batch_size=batch_size, **training),
        )
        return Run(
            kind_name="text-classification",
            config=config,
            inputs=Inputs(data_identity="d", model_identity=model_identity(config.model)),
        )

    def __call__(self, compute: Compute, batch_size: int = 8, **training: Any) -> Checkpoint:
        @flow
        def one_step() -> Checkpoint:
            return fine_tune(self.run(batch_size, **training), **self.inputs, compute=compute)

        return one_step()

    def checkpoints(self) -> list[str]:
        return [key.rpartition("/")[2] for key in self.store.list("checkpoints")]


@pytest.fixture
def stage(prefect_api: str, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    assert prefect_api
    monkeypatch.setattr(fine_tune._task, "retry_delay_seconds", 0)
    return Stage(tmp_path, encoder)


def test_out_of_memory_is_tried_once_more_with_half_the_rows_at_once_from_the_last_checkpoint(stage: Stage) -> None:
    compute = Compute(OutOfMemory("Out of memory."), ANSWER)
    assert stage(compute).steps == 9
    assert compute.each("micro_batch") == [8, 4]
    assert [Path(path).name if path else None for path in compute.each("resume")] == [None, "6"]
    # The optimizer's batch, which the order of the rows follows, is as it was.
    assert [training["batch_size"] for training in compute.each("training")] == [8, 8]


def test_out_of_memory_with_half_the_rows_too_is_the_end(stage: Stage) -> None:
    compute = Compute(OutOfMemory("first"), OutOfMemory("second"), ANSWER)
    with pytest.raises(OutOfMemory, match="second"):
        stage(compute)
    assert len(compute.requests) == 2


@pytest.mark.parametrize(
    ("batch_size", "processes", "parts"), [(9, 1, [9, 3]), (7, 1, [7, 1]), (1, 1, [1]), (18, 2, [9, 3]), (4, 4, [1])]
)
def test_the_parts_divide_what_each_process_has_of_the_batch(
    stage: Stage, batch_size: int, processes: int, parts: list[int]
) -> None:
    compute = Compute(*[OutOfMemory("m")] * 2)
    with pytest.raises(OutOfMemory):
        stage(compute, batch_size, processes=processes)
    assert compute.each("micro_batch") == parts


def test_as_many_rows_are_computed_at_once_as_is_set_and_half_of_them_where_memory_ends(stage: Stage) -> None:
    compute = Compute(OutOfMemory("m"), ANSWER)
    stage(compute, 16, micro_batch=4)
    assert compute.each("micro_batch") == [4, 2]


def test_adapters_are_published_with_their_settings_and_name_no_folder_of_this_machine(stage: Stage) -> None:
    def answer(arguments: dict[str, Any]) -> dict[str, Any]:
        adapter = Path(arguments["output"]).with_name("adapter")
        adapter.mkdir()
        write_json(adapter / "adapter_config.json", {"r": 4, "base_model_name_or_path": arguments["model"]})
        return ANSWER

    published = stage.store.fetch(stage(Compute(answer), method="lora", lora_rank=4).key)
    config = read_json(published / "adapter" / "adapter_config.json")
    assert config == {"r": 4, "base_model_name_or_path": None, "revision": None}
    card = (published / "model" / "README.md").read_text(encoding="utf-8")
    assert "| method | lora |" in card
    assert "| lora_rank | 4 |" in card


def test_of_a_model_on_the_hub_adapters_name_the_commit(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": "/somewhere"})
    config = TextClassificationConfig(model={"name": "me/it"})
    name_base(
        tmp_path, Run(kind_name="text-classification", config=config, inputs=Inputs(data_identity="d", model_identity="c" * 40))
    )
    assert read_json(tmp_path / "adapter_config.json") == {"base_model_name_or_path": "me/it", "revision": "c" * 40}


def test_a_checkpoint_is_not_resumed_with_another_number_of_processes(stage: Stage) -> None:
    with pytest.raises(TrainingDiverged):
        stage(Compute(TrainingDiverged("d")), processes=2)
    assert stage.checkpoints()[-1] == "6"
    for processes, resumed in ((1, None), (2, "6")):
        compute = Compute(ANSWER)
        stage(compute, processes=processes)
        assert [Path(path).name if path else None for path in compute.each("resume")] == [resumed]


def test_a_diverged_training_names_the_last_good_checkpoint_and_is_not_tried_again(stage: Stage) -> None:
    compute = Compute(TrainingDiverged("The loss is nan at optimizer step 7 with learning rate 1."), ANSWER)
    with pytest.raises(TrainingDiverged) as caught:
        stage(compute)
    (address,) = [stage.store.locate(key) for key in stage.store.list("checkpoints") if key.endswith("/6")]
    assert str(caught.value).endswith(f"learning rate 1. The last good checkpoint is {address}.")
    assert len(compute.requests) == 1


def test_a_checkpoint_that_cannot_be_loaded_gives_way_to_the_one_before_it(stage: Stage) -> None:
    # Another version of torch, say, may refuse what is whole.
    compute = Compute(OutOfMemory("m"), CheckpointUnusable("Checkpoint '6' cannot be loaded: x."), TrainingDiverged("d"))
    with pytest.raises(TrainingDiverged):
        stage(compute)
    assert [Path(path).name if path else None for path in compute.each("resume")] == [None, "6", "6"]


def test_a_training_that_stopped_by_itself_is_tried_again_and_resumes(stage: Stage) -> None:
    compute = Compute(ANSWER | {"steps": 6, "stop_reason": "preempted"}, ANSWER)
    assert stage(compute).steps == 9
    assert [Path(path).name if path else None for path in compute.each("resume")] == [None, "6"]


def test_a_training_that_never_gets_to_its_end_fails(stage: Stage) -> None:
    compute = Compute(*[ANSWER | {"steps": 6}] * 9)
    with pytest.raises(TrainingStopped, match="after 6 of 9 optimizer steps"):
        stage(compute)
    assert len(compute.requests) == 4
    assert stage.store.list("steps/fine-tune") == []


def test_a_run_that_was_asked_to_stop_is_preempted_with_its_checkpoint_published(stage: Stage) -> None:
    compute = Compute(ANSWER | {"steps": 6, "stop_reason": "preempted"}, asked_to_stop=True)
    with pytest.raises(Preempted, match=r"after 6 of 9 optimizer steps, with a checkpoint; run the same command to resume\."):
        stage(compute)
    assert stage.checkpoints()[-1] == "6"
    assert len(compute.requests) == 1


def test_checkpoints_are_forgotten_once_the_model_is_published(stage: Stage) -> None:
    done = stage(Compute(ANSWER))
    assert stage.checkpoints()[-1] == "6"
    forget_checkpoints(stage.run(8), done)
    assert stage.checkpoints() == []
    assert stage.store.find(done.key) is not None


def test_the_artifact_has_what_it_takes_to_use_the_model_and_the_rows_that_it_has_seen(stage: Stage) -> None:
    checkpoint = stage(Compute(ANSWER), max_length=48)
    trained = read_trained(stage.store.fetch(checkpoint.key))
    assert (trained.kind_name, trained.labels) == ("text-classification", ["a", "b"])
    assert trained.config.training.max_length == 48
    assert trained.config.store == "artifacts"
    # Those of the test split are not among them.
    assert trained.seen().tolist() == [3, 7, 2**64 - 1]


def test_time_that_an_interruption_cost_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("tasks.training.time.time", lambda: now[0])

    def after(seconds: float, answer: Any) -> Callable[..., dict[str, Any]]:
        def compute(_: dict[str, Any]) -> dict[str, Any]:
            now[0] += seconds
            if isinstance(answer, Exception):
                raise answer
            return dict(answer)

        return compute

    # The checkpoints come at the start of each attempt: all that the first one did is done again.
    checkpoint = stage(Compute(after(40, OutOfMemory("full")), after(60, ANSWER)), batch_size=8)
    assert checkpoint.lost_s == pytest.approx(40)
    assert stage(Compute(after(60, ANSWER)), batch_size=16).lost_s == 0
