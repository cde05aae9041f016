"""Steps: what their keys depend on, and what the store and a retry do to a run."""

import ast
import importlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, task
from prefect.states import Failed

import tasks
from blocks.errors import ArtifactDamaged, StoreConfigError, StoreUnavailable
from tasks import steps
from tasks.config import ModelSettings, TrainingSettings
from tasks.errors import (
    ComputeFailed,
    ComputeLost,
    ConfigError,
    DataError,
    HubUnavailable,
    ModelError,
    OutOfMemory,
    Preempted,
    TimeLimitExceeded,
    TrainingDiverged,
    TrainingStopped,
)
from tasks.evaluation import evaluate_baseline, evaluate_fine_tuned
from tasks.kinds.question_answering import QuestionAnsweringConfig
from tasks.kinds.text_classification import TextClassificationConfig, TextClassificationData
from tasks.records import Checkpoint, DatasetRef, Inputs, Record
from tasks.steps import Run, Step, can_pass, code_digest, log_warning, read_json, step, step_key, write_json
from tasks.tokenization import tokenize
from tasks.training import fine_tune

PINNED = Inputs(data_identity="d", model_identity="m")
RAW, TOKENS = (DatasetRef(key=key, train=3, validation=1, test=1) for key in ("steps/load/1", "steps/tokenize/1"))
CHECKPOINT = Checkpoint(
    key="steps/fine-tune/1",
    steps=1,
    planned_steps=1,
    stop_reason="finished",
    best_epoch=1,
    validation={},
    rows_per_s=1,
    seconds=1,
)


class Made(Record):
    """What the small steps below return."""

    text: str


def make_run(
    store: Path | str = "artifacts", *, refresh: bool = False, run_id: str = "", inputs: Inputs = PINNED, **config: Any
) -> Run:
    return Run(
        kind_name="text-classification",
        config=TextClassificationConfig(store=str(store), **config),
        inputs=inputs,
        id=run_id,
        refresh=refresh,
    )


def key(
    reads: tuple[str, ...] = ("seed",), run: Run | None = None, modules: tuple[str, ...] = ("tasks.text",), **inputs: Any
) -> str:
    return step_key("small", reads, modules, run or make_run(), inputs)


# ---- keys


def test_a_key_is_the_steps_name_and_a_digest() -> None:
    folder, name, digest = key().split("/")
    assert (folder, name, len(digest)) == ("steps", "small", 32)
    assert key() == key()


@pytest.mark.parametrize(
    ("reads", "config", "changes"),
    [
        ("seed", {"seed": 1}, True),
        ("training", {"training": TrainingSettings(epochs=7)}, True),
        ("training.epochs", {"training": TrainingSettings(epochs=7)}, True),
        ("training.epochs", {"training": TrainingSettings(batch_size=7)}, False),
        ("data.train", {"data": TextClassificationData(max_train_rows=7)}, False),
        ("data.train", {"data": TextClassificationData(train="a.csv")}, True),
        ("seed", {"name": "other", "gpu_deployment": "a/b", "store": "elsewhere"}, False),
        ("model", {"model": ModelSettings(name="other")}, True),
        ("model", {"data": TextClassificationData(source="other")}, False),
    ],
)
def test_a_key_depends_on_the_settings_that_are_read(reads: str, config: dict[str, Any], changes: bool) -> None:
    other = make_run(**config) if "store" in config else make_run("artifacts", **config)
    assert (key((reads,)) != key((reads,), other)) is changes


def test_a_setting_whose_name_begins_as_another_is_not_read() -> None:
    class Longer(TextClassificationConfig):
        seeds: int = 1

    runs = [make_run().model_copy(update={"config": Longer(seeds=seeds)}) for seeds in (1, 2)]
    assert len({key(("seed",), run) for run in runs}) == 1
    assert len({key(("seeds",), run) for run in runs}) == 2


@pytest.mark.parametrize(
    ("reads", "inputs", "changes"),
    [
        ("inputs.model_identity", Inputs(data_identity="d", model_identity="n"), True),
        ("inputs.model_identity", Inputs(data_identity="e", model_identity="m"), False),
        ("inputs.data_identity", Inputs(data_identity="e", model_identity="m"), True),
    ],
)
def test_a_key_depends_on_the_pinned_inputs_that_are_read(reads: str, inputs: Inputs, changes: bool) -> None:
    assert (key((reads,)) != key((reads,), make_run(inputs=inputs))) is changes


def test_a_module_is_parsed_again_where_another_thread_upset_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, parse, faults = code_digest(("tasks.text",)), ast.parse, iter([True, True, False])

    def upset(source: bytes) -> ast.Module:
        if next(faults, False):
            raise SystemError("AST constructor recursion depth mismatch (before=81, after=92)")
        return parse(source)

    monkeypatch.setattr("ast.parse", upset)
    code_digest.cache_clear()
    assert code_digest(("tasks.text",)) == expected
    assert list(faults) == []


def test_a_key_depends_on_the_keys_of_its_inputs_alone() -> None:
    same_key = RAW.model_copy(update={"train": 9})
    assert key(dataset=RAW) == key(dataset=same_key)
    assert len({key(), key(dataset=RAW), key(dataset=TOKENS), key(tokens=RAW), key(dataset=RAW, tokens=TOKENS)}) == 5
    assert key(dataset=RAW, compute=object()) == key(dataset=RAW)


@pytest.mark.parametrize(
    ("library", "moved", "changes"),
    [
        ("torch", (0, 1, 0), True),
        ("transformers", (1, 0, 0), True),
        ("tokenizers", (0, 0, 1), False),
        ("pandas", (0, 1, 0), False),
    ],
)
@pytest.mark.parametrize("build", ["", "+cu130"])
def test_a_key_depends_on_the_minor_versions_of_the_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, moved: tuple[int, ...], build: str, changes: bool
) -> None:
    before = key()
    parts = [int(part) for part in version(library).split("+")[0].split(".")[:3]]
    other = ".".join(str(part + more) for part, more in zip(parts, moved, strict=True)) + build
    metadata = tmp_path / f"{library}-{other}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: {other}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert version(library) == other
    assert (key() != before) is changes


# ---- code


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that puts modules of the given names and sources into `tasks` and returns the digest of `top`."""
    unique = f"made_{uuid4().hex}"
    (tmp_path / unique).mkdir()
    (tmp_path / unique / "__init__.py").touch()
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])

    def write(**sources: str) -> str:
        for name, source in sources.items():
            (tmp_path / unique / f"{name}.py").write_text(source.replace("HERE", f"tasks.{unique}"))
        importlib.invalidate_caches()
        code_digest.cache_clear()
        return code_digest((f"tasks.{unique}.top",))

    return write


SOURCE = '"""Say."""\nimport os\n\ndef double(x):\n    """Double it."""\n    return x * 2\n'


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        (SOURCE.replace("import os\n", "import os  # for paths\n\n\n"), False),
        (SOURCE.replace("Say", "Tell").replace("Double it", "Twice"), False),
        (SOURCE.replace("x * 2", "(x *\n 2)"), False),
        (SOURCE + '\nLIMIT: int\n"""What it is."""\n', True),
        (SOURCE.replace("x * 2", "x * 3"), True),
        (SOURCE.replace("(x)", "(x=1)"), True),
        (SOURCE.replace('"""Double it."""', 'y = """Double it."""'), True),
    ],
)
def test_the_code_counts_and_its_comments_and_docstrings_do_not(digest: Callable[..., str], source: str, changes: bool) -> None:
    assert (digest(top=SOURCE) != digest(top=source)) is changes


@pytest.mark.parametrize(
    "line",
    [
        "import HERE.below",
        "from HERE import below",
        "from HERE.below import f",
        "import HERE.below as b",
        "def g():\n    from HERE.below import f\n",
        "from HERE.between import x",
    ],
)
def test_the_code_of_what_is_imported_counts(digest: Callable[..., str], line: str) -> None:
    above = {"top": line, "between": "from HERE.below import f\n"}
    assert digest(**above, below="f = 1\n") != digest(**above, below="f = 2\n")
    assert digest(**above, below="f = 2\n") == digest(**above, below="f = 2  # two\n")


def test_the_code_of_what_is_not_imported_does_not_count(digest: Callable[..., str]) -> None:
    assert digest(top="x = 1\n", below="f = 1\n") == digest(top="x = 1\n", below="f = 2\n")


def test_modules_that_import_each_other_have_a_digest(digest: Callable[..., str]) -> None:
    above = {"top": "import HERE.below\n", "below": "import HERE.top\n"}
    assert digest(**above) != digest(**{**above, "below": "import HERE.top\nx = 1\n"})


def test_what_counts_is_read_and_not_run(digest: Callable[..., str]) -> None:
    # With the modules of the compute process, torch and all of its kin would come into every run's process.
    assert digest(top="from HERE.below import f\n", below="raise AssertionError('it was imported')\n")


def test_a_module_that_is_not_there_is_no_code() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"tasks\.compute\.trian"):
        code_digest(("tasks.compute.trian",))


# ---- the keys of the real steps

WITHOUT_EFFECT: list[dict[str, Any]] = [
    {"name": "other"},
    {"store": "elsewhere"},
    {"gpu_deployment": "a/b"},
    {"training": TrainingSettings(time_limit_s=60, checkpoint_every=7)},
    {"training": TrainingSettings(micro_batch=4, gradient_checkpointing=True)},
]
NEVER = {"time_limit_s", "checkpoint_every", "micro_batch", "gradient_checkpointing", "seeds"}
TRAINING = {
    "method": "lora",
    "epochs": 9,
    "learning_rate": 0.5,
    "scheduler": "cosine",
    "batch_size": 9,
    "weight_decay": 0.5,
    "warmup_ratio": 0.5,
    "max_grad_norm": 0.5,
    "label_smoothing": 0.5,
    "max_length": 9,
    "early_stopping_patience": 9,
    "lora_rank": 9,
    "lora_alpha": 9.0,
    "lora_dropout": 0.5,
    "lora_targets": "all-linear",
    "precision": "fp32",
    "device": "cpu",
    "processes": 8,
}
MODEL = {"name": "other", "revision": "v2", "trust_remote_code": True, "allow_pickle": True}
NAMES = "tokenize", "evaluate-baseline", "fine-tune", "evaluate-fine-tuned"


def real_keys(inputs: Inputs = PINNED, **config: Any) -> dict[str, str]:
    run = make_run(config.pop("store", "artifacts"), inputs=inputs, **config)
    both = {"dataset": RAW, "tokens": TOKENS, "compute": object()}
    keys = (
        tokenize.key(run, dataset=RAW),
        evaluate_baseline.key(run, **both),
        fine_tune.key(run, **both),
        evaluate_fine_tuned.key(run, checkpoint=CHECKPOINT, **both),
    )
    return dict(zip(NAMES, keys, strict=True))


def changed(**config: Any) -> set[str]:
    before, after = real_keys(), real_keys(**config)
    return {name for name in NAMES if before[name] != after[name]}


@pytest.mark.parametrize("config", WITHOUT_EFFECT)
def test_no_key_depends_on_names_places_and_time_limits(config: dict[str, Any]) -> None:
    assert changed(**config) == set()


def test_every_setting_of_training_but_limits_intervals_and_what_memory_wants_is_in_the_table() -> None:
    assert {*TRAINING, *NEVER} == set(TrainingSettings.model_fields)
    assert set(MODEL) == set(ModelSettings.model_fields)


@pytest.mark.parametrize(("field", "value"), TRAINING.items())
def test_trainings_key_depends_on_each_of_its_settings(field: str, value: Any) -> None:
    further = {"precision": {"evaluate-baseline", "evaluate-fine-tuned"}, "max_length": {"tokenize"}}
    further["device"] = further["precision"]
    assert changed(training=TrainingSettings(**{field: value})) == {"fine-tune", *further.get(field, ())}


@pytest.mark.parametrize(("field", "value"), MODEL.items())
def test_keys_depend_on_each_setting_of_the_model(field: str, value: Any) -> None:
    assert changed(model=ModelSettings(**{field: value})) >= {"tokenize", "evaluate-baseline", "fine-tune"}


def test_keys_depend_on_seed_and_model_and_not_on_the_datas_settings() -> None:
    assert changed(seed=1) == {"evaluate-baseline", "fine-tune", "evaluate-fine-tuned"}
    other_model = Inputs(data_identity="d", model_identity="other")
    assert changed(inputs=other_model) == {"tokenize", "evaluate-baseline", "fine-tune"}
    # The data come in through the key of the dataset.
    assert changed(data=TextClassificationData(source="other")) == set()


# ---- in a flow


@pytest.fixture
def ends(prefect_api: str) -> Iterator[list[str]]:
    """Collect what the log says of task runs: `Finished in state Cached()`, `... Retry 1/3 will start ...`."""
    assert prefect_api
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    collector, logger = Collector(), logging.getLogger("prefect.task_runs")
    logger.addHandler(collector)
    yield lines
    logger.removeHandler(collector)


class Small:
    """A small step that counts its calls, and raises the given errors before it succeeds."""

    def __init__(self, store: Path) -> None:
        self.store, self.calls = store, 0
        self.errors: list[Exception] = []

        @step("small", reads=("seed",))
        def small(run: Run, folder: Path) -> Made:
            self.calls += 1
            (folder / "text.txt").write_text(f"made {self.calls}")
            if self.errors:
                raise self.errors.pop(0)
            return Made(text=f"made {self.calls} with {run.config.seed}")

        self.step: Step[Made] = small

    def __call__(self, **options: Any) -> Made:
        """Run the step in a flow of its own."""

        @flow
        def one_step() -> Made:
            return self.step(make_run(self.store, **options))

        return one_step()


@pytest.fixture
def small(ends: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    assert ends == []
    monkeypatch.setitem(steps.TASK_OPTIONS, "retry_delay_seconds", 0)
    return Small(tmp_path / "store")


def last_state(lines: list[str]) -> str:
    return [line for line in lines if line.startswith("Finished in state")][-1].split()[3].partition("(")[0]


def test_a_step_publishes_and_the_second_run_finds_it(small: Small, ends: list[str]) -> None:
    run = make_run(small.store)
    assert small.step.find(run) is None
    made = small()
    assert last_state(ends) == "Completed"
    assert made == Made(key=small.step.key(run), text="made 1 with 42")
    assert small.step.find(run) == made
    assert (run.store.fetch(made.key) / "text.txt").read_text() == "made 1"
    assert f"Published {run.store.locate(made.key)}" in ends
    assert small() == made
    assert last_state(ends) == "Cached"
    assert small.calls == 1


def test_another_setting_is_another_artifact(small: Small, ends: list[str]) -> None:
    assert small(seed=1).key != small(seed=2).key
    assert last_state(ends) == "Completed"
    assert small(seed=1).text == "made 1 with 1"
    assert last_state(ends) == "Cached"


def test_refresh_computes_anew_and_replaces(small: Small, ends: list[str]) -> None:
    small()
    assert small(refresh=True).text == "made 2 with 42"
    assert last_state(ends) == "Completed"
    assert small().text == "made 2 with 42"
    assert (make_run(small.store).store.fetch(small().key) / "text.txt").read_text() == "made 2"
    assert small.calls == 2


def test_another_attempt_of_a_run_that_refreshes_finds_what_the_first_one_made(small: Small, ends: list[str]) -> None:
    small(run_id="a")
    assert small(refresh=True, run_id="b").text == "made 2 with 42"
    assert small(refresh=True, run_id="b").text == "made 2 with 42"
    assert last_state(ends) == "Cached"
    assert small(refresh=True, run_id="c").text == "made 3 with 42"


def test_an_artifact_says_what_it_was_made_of_and_by_whom(small: Small) -> None:
    @step("big", reads=())
    def big(run: Run, folder: Path, *, small: Made, compute: object) -> Made:
        return Made(text="made of it")

    @flow
    def two_steps() -> Made:
        run = make_run(small.store, run_id="r")
        return big(run, small=small.step(run), compute=object())

    manifest = make_run(small.store).store.inspect(two_steps().key)
    assert manifest is not None
    assert list(manifest.inputs) == [small.step.key(make_run(small.store))]
    assert manifest.made_by == "r"


@pytest.mark.parametrize("content", [b"made", b"m4de 1"], ids=["cut", "changed"])
def test_a_damaged_artifact_is_computed_anew(small: Small, ends: list[str], content: bytes) -> None:
    made, store = small(), make_run(small.store).store
    (Path(store.locate(made.key)) / "text.txt").write_bytes(content)
    if len(content) == len(b"made 1"):
        with pytest.raises(ArtifactDamaged):
            store.fetch(made.key)
    assert small().text == "made 2 with 42"
    assert last_state(ends) == "Completed"
    assert (store.fetch(made.key) / "text.txt").read_text() == "made 2"


@pytest.mark.parametrize("error", [StoreUnavailable("s"), HubUnavailable("h")], ids=repr)
def test_what_can_pass_is_tried_again(small: Small, ends: list[str], error: Exception) -> None:
    small.errors = [error, error]
    assert small().text == "made 3 with 42"
    assert last_state(ends) == "Completed"


def test_what_does_not_pass_fails_after_three_retries(small: Small) -> None:
    small.errors = [StoreUnavailable(str(number)) for number in range(9)]
    with pytest.raises(StoreUnavailable, match="3"):
        small()
    assert small.calls == 4


@pytest.mark.parametrize("error", [DataError("d"), ValueError("v")], ids=repr)
def test_what_cannot_pass_fails_at_once_and_publishes_nothing(small: Small, error: Exception) -> None:
    small.errors = [error]
    with pytest.raises(type(error)):
        small()
    assert small.calls == 1
    assert not small.store.exists()


@pytest.mark.parametrize(
    "error", [StoreUnavailable, HubUnavailable, ConnectionResetError, TimeoutError, ComputeLost, TrainingStopped]
)
def test_what_can_pass(error: type[Exception]) -> None:
    assert can_pass(None, None, Failed(data=error("e")))


@pytest.mark.parametrize(
    "error",
    [
        *(ConfigError, DataError, ModelError, StoreConfigError, ValueError, PermissionError),
        *(TrainingDiverged, TimeLimitExceeded, Preempted, OutOfMemory, ComputeFailed),
    ],
)
def test_what_cannot_pass(error: type[Exception]) -> None:
    assert not can_pass(None, None, Failed(data=error("e")))


def test_the_working_folder_is_gone_afterwards(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    small()
    small.errors = [DataError("d")]
    with pytest.raises(DataError):
        small(seed=1)
    assert list(scratch.iterdir()) == []


def test_a_warning_is_one_line(ends: list[str]) -> None:
    @task
    def warn() -> None:
        log_warning("two\nlines")

    @flow
    def warns() -> None:
        warn()

    warns()
    assert "two lines" in ends


# ---- small things


def test_a_run_survives_json_with_its_kinds_config() -> None:
    run = make_run(seed=7, inputs=PINNED)
    dumped = run.model_dump(mode="json")
    config = run.kind.config_class.model_validate(dumped.pop("config"))
    assert Run(config=config, **dumped) == run
    assert type(run.config) is TextClassificationConfig


def test_json_is_written_readably(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": [1, None, 0.5]})
    assert (tmp_path / "a.json").read_bytes().decode() == '{\n "ü": [\n  1,\n  null,\n  0.5\n ]\n}\n'
    assert read_json(tmp_path / "a.json") == {"ü": [1, None, 0.5]}


def answering(**config: Any) -> Run:
    settings = QuestionAnsweringConfig.model_validate(config)
    return Run(kind_name="question-answering", config=settings, inputs=PINNED)


def test_a_kind_sees_the_settings_that_its_step_reads_and_defaults_for_all_others() -> None:
    run = answering(answers={"stride": 7, "max_tokens": 5}, training={"max_length": 99, "epochs": 9}, seed=3, name="other")
    seen = {step.name: step.kind(run).config for step in (tokenize, evaluate_baseline, evaluate_fine_tuned, fine_tune)}
    default = QuestionAnsweringConfig()
    assert {name: (config.answers.stride, config.answers.max_tokens) for name, config in seen.items()} == {
        "tokenize": (7, default.answers.max_tokens),
        # What training scores validation by is what evaluation scores the test rows by.
        **dict.fromkeys(("evaluate-baseline", "evaluate-fine-tuned", "fine-tune"), (default.answers.stride, 5)),
    }
    assert {name: (config.training.max_length, config.training.epochs) for name, config in seen.items()} == {
        "tokenize": (99, default.training.epochs),
        **dict.fromkeys(("evaluate-baseline", "evaluate-fine-tuned"), (default.training.max_length, default.training.epochs)),
        "fine-tune": (99, 9),
    }
    assert {config.name for config in seen.values()} == {default.name}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"stride": 7}, {"tokenize"}),
        ({"max_tokens": 5}, {"evaluate-baseline", "fine-tune", "evaluate-fine-tuned"}),
        # How many answers are kept changes the tables of predictions, not what is learnt.
        ({"n_best": 3}, {"evaluate-baseline", "evaluate-fine-tuned"}),
    ],
)
def test_a_key_depends_on_what_the_kind_reads_in_its_step(answers: dict[str, int], expected: set[str]) -> None:
    both = {"dataset": RAW, "tokens": TOKENS, "compute": object()}
    inputs = [{"dataset": RAW}, both, both, {**both, "checkpoint": CHECKPOINT}]
    steps_of = (tokenize, evaluate_baseline, fine_tune, evaluate_fine_tuned)
    keys = [
        {step.name: step.key(run, **given) for step, given in zip(steps_of, inputs, strict=True)}
        for run in (answering(), answering(answers=answers))
    ]
    assert {name for name in NAMES if keys[0][name] != keys[1][name]} == expected
