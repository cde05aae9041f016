"""Tests of the command `train`: what is kept, when it ends, and that it can be repeated."""

import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, bind, load_model, load_tokenizer
from tasks.compute.predict import Predictor, load_split, score
from tasks.compute.train import train
from tasks.errors import CheckpointUnusable, ModelError, OutOfMemory, TrainingDiverged
from tasks.metrics import summed_statistics
from tests.helpers import topic_rows
from tests.tasks.compute.commands import LABELS, events, save_rows, save_tokens, train_arguments

KIND = bind("text-classification", {}, LABELS)


def run(*places: Path, stream: io.StringIO | None = None, **settings: Any) -> dict[str, Any]:
    return train(Channel(stream or io.StringIO()), **train_arguments(*places, **settings))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def validation_scores(model: Path, tokens: Path) -> dict[str, float]:
    tokenizer = load_tokenizer(model, remote_code=False)
    network, _ = load_model(KIND, model, tokenizer, trained=True, allow_pickle=False, remote_code=False)
    features, rows = load_split(str(tokens / "dataset"), str(tokens), "validation")
    predictions = Predictor(KIND, tokenizer, Hardware("cpu", "fp32"))(network, features, rows)
    return score(KIND, summed_statistics(KIND, predictions, rows), len(rows))


class Trained(NamedTuple):
    """A finished training."""

    folder: Path
    answer: dict[str, Any]
    stream: io.StringIO


@pytest.fixture(scope="module")
def trained(decoder_tokens: Path, decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, stream = tmp_path_factory.mktemp("trained") / "model", io.StringIO()
    return Trained(folder, run(decoder_tokens, decoder, folder, stream=stream), stream)


def test_training_learns_and_tells_what_it_did(trained: Trained) -> None:
    answer = trained.answer
    # 192 rows in batches of 8, three times.
    assert (answer["steps"], answer["planned_steps"], answer["stop_reason"]) == (72, 72, "finished")
    assert answer["validation"]["accuracy"] > 0.8
    assert [entry["epoch"] for entry in answer["history"] if "eval_accuracy" in entry] == [1, 2, 3]
    assert answer["device"] == "cpu, fp32"
    # `seconds` covers loading and saving too.
    assert answer["rows_per_s"] > 72 * 8 / answer["seconds"]


def test_the_folder_loads_by_itself_without_any_pickle(trained: Trained) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained.folder)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {label: number for number, label in enumerate(LABELS)}
    batch = AutoTokenizer.from_pretrained(trained.folder)(["rocket orbit comet", "team goal"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert model(**batch).logits.argmax(-1).tolist() == [LABELS.index("space"), LABELS.index("sport")]
    assert {path.suffix for path in trained.folder.iterdir()} == {".json", ".safetensors"}


def test_progress_counts_optimizer_steps(trained: Trained) -> None:
    sent = events(trained.stream)
    assert {event["event"] for event in sent} == {"progress"}
    assert [(event["done"], event["epoch"]) for event in sent if event["done"] in (24, 72)] == [(24, 1), (72, 3)]
    assert (sent[0]["done"], sent[0]["total"]) == (1, 72)
    assert sent[-1]["time_left_s"] == 0
    assert sent[-1]["loss"] < sent[1]["loss"]
    assert sent[-1]["rows_per_s"] > 0


def test_the_same_seed_repeats_metrics_and_weights_bit_for_bit(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    # The encoder has dropout, so every sort of random number takes part.
    answers = [run(tokens, encoder, tmp_path / str(number), seed=seed) for number, seed in enumerate((1, 1, 2))]
    assert answers[0]["validation"] == answers[1]["validation"] != answers[2]["validation"]
    assert equal(weights(tmp_path / "0"), weights(tmp_path / "1"))
    assert not equal(weights(tmp_path / "0"), weights(tmp_path / "2"))


@pytest.fixture(scope="module")
def misleading(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return tokens whose validation labels are all wrong: the more is learnt, the lower the validation scores."""
    folder, turned = tmp_path_factory.mktemp("misleading"), dict(zip(LABELS, [*LABELS[1:], LABELS[0]], strict=True))
    wrong = [row | {"label": turned[row["label"]]} for row in topic_rows(30, seed=1)]
    rows = save_rows(folder / "rows", train=topic_rows(192), validation=wrong, test=wrong)
    return save_tokens(folder / "tokens", rows, decoder)


def test_the_best_epoch_on_validation_is_kept_not_the_last(misleading: Path, decoder: Path, tmp_path: Path) -> None:
    answer = run(misleading, decoder, tmp_path, learning_rate=0.0003)
    accuracies = [entry["eval_accuracy"] for entry in answer["history"] if "eval_accuracy" in entry]
    assert accuracies[0] > max(accuracies[1:])
    assert answer["best_epoch"] == 1
    assert answer["validation"]["accuracy"] == accuracies[0]
    assert validation_scores(tmp_path, misleading) == answer["validation"]


def test_early_stopping_is_named_and_leaves_the_best_epoch(misleading: Path, decoder: Path, tmp_path: Path) -> None:
    answer = run(misleading, decoder, tmp_path, learning_rate=0.0003, epochs=5, early_stopping_patience=1)
    assert (answer["stop_reason"], answer["steps"], answer["planned_steps"]) == ("early_stopping", 48, 120)
    assert answer["best_epoch"] == 1
    assert validation_scores(tmp_path, misleading) == answer["validation"]


class StopsAtStep(io.StringIO):
    """A stream whose channel is asked to stop, as by SIGTERM, in an optimizer step."""

    channel: Channel

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def write(self, text: str) -> int:
        event = json.loads(text)
        if event["event"] == "progress" and event["done"] >= self.step:
            self.channel.request_stop()
        return super().write(text)


@pytest.fixture
def every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send progress after each step, so that a test can act in any."""
    monkeypatch.setattr("tasks.compute.channel.PROGRESS_INTERVAL_S", 0.0)


def run_and_stop(step: int, *places: Path, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train, ask to stop in a step, and return the answer and the checkpoints' events."""
    stream = StopsAtStep(step)
    stream.channel = Channel(stream)
    answer = train(stream.channel, **train_arguments(*places, **settings))
    return answer, [event for event in events(stream) if event["event"] == "checkpoint"]


@pytest.mark.usefixtures("every_step_is_told")
def test_a_stop_ends_training_after_its_step_with_a_checkpoint_and_no_model(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    answer, (checkpoint,) = run_and_stop(1, tokens, encoder, tmp_path / "model")
    assert (answer["stop_reason"], answer["steps"], answer["planned_steps"]) == ("preempted", 1, 72)
    assert not any("eval_accuracy" in entry for entry in answer["history"])
    assert answer["validation"] == {}
    assert not (tmp_path / "model").exists()
    assert checkpoint["step"] == 1
    names = {path.name for path in Path(checkpoint["folder"]).iterdir()}
    assert names == {"config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}


@pytest.mark.usefixtures("every_step_is_told")
def test_a_stop_in_the_last_step_is_no_result_until_it_is_resumed(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    settings = {"epochs": 1, "batch_size": 192}
    answer, (checkpoint,) = run_and_stop(1, tokens, encoder, tmp_path / "model", **settings)
    assert (answer["stop_reason"], answer["steps"], answer["planned_steps"]) == ("preempted", 1, 1)
    assert not (tmp_path / "model").exists()
    answer = run(tokens, encoder, tmp_path / "model", resume=Path(checkpoint["folder"]), **settings)
    assert (answer["stop_reason"], answer["steps"], answer["best_epoch"], answer["resumed_from"]) == ("finished", 1, 1, 1)
    assert validation_scores(tmp_path / "model", tokens) == answer["validation"]


def test_checkpoints_are_handed_over_at_their_steps(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    run(tokens, encoder, tmp_path / "model", stream=stream, checkpoint_every=10)
    handed = [event for event in events(stream) if event["event"] == "checkpoint"]
    # 24 steps an epoch; none at the end, where the model itself is the result.
    assert [event["step"] for event in handed] == [10, 20, 30, 40, 50, 60, 70]
    assert [(Path(event["folder"]) / "best").is_dir() for event in handed] == [False, False, True, True, True, True, True]
    # Nothing of Trainer's own is left beside them.
    assert {path.name for path in (tmp_path / "model-checkpoints").iterdir()} == {str(event["step"]) for event in handed}


def test_a_checkpoint_at_an_epochs_end_holds_its_evaluation(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    run(tokens, encoder, tmp_path / "model", checkpoint_every=24)
    state = json.loads((tmp_path / "model-checkpoints" / "24" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "eval_accuracy" in entry] == [24]


def what_counts(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what must not differ: all but times, and Trainer's closing summary of one attempt."""
    history = [entry for entry in answer["history"] if "train_runtime" not in entry]
    return {name: answer[name] for name in ("steps", "stop_reason", "best_epoch", "validation")} | {"history": history}


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def undisturbed(request: pytest.FixtureRequest, tokens: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a training that nothing disturbed, with a checkpoint every seven steps, of which the encoder's dropout makes use."""
    folder, stream = tmp_path_factory.mktemp("undisturbed") / "model", io.StringIO()
    settings = {"epochs": 2, "checkpoint_every": 7, "precision": request.param}
    return Trained(folder, run(tokens, encoder, folder, stream=stream, **settings), stream)


@pytest.mark.parametrize("step", [7, 14, 21, 28, 35, 42])
def test_resuming_gives_the_undisturbed_result_bit_for_bit(
    undisturbed: Trained, step: int, tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    precision = undisturbed.answer["device"].removeprefix("cpu, ")
    checkpoint = undisturbed.folder.with_name("model-checkpoints") / str(step)
    torch.manual_seed(99)
    settings = {"epochs": 2, "checkpoint_every": 7, "precision": precision}
    answer = run(tokens, encoder, tmp_path / "model", resume=checkpoint, **settings)
    assert answer["resumed_from"] == step
    assert what_counts(answer) == what_counts(undisturbed.answer)
    assert equal(weights(tmp_path / "model"), weights(undisturbed.folder))


def test_the_checkpoint_may_go_while_training_goes_on_from_it(
    undisturbed: Trained, tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(undisturbed.folder.with_name("model-checkpoints") / "42", tmp_path / "42")

    class Removes(io.StringIO):
        def write(self, text: str) -> int:
            shutil.rmtree(checkpoint, ignore_errors=True)
            return super().write(text)

    settings = {"epochs": 2, "precision": undisturbed.answer["device"].removeprefix("cpu, ")}
    run(tokens, encoder, tmp_path / "model", resume=checkpoint, stream=Removes(), **settings)
    assert not checkpoint.exists()
    assert equal(weights(tmp_path / "model"), weights(undisturbed.folder))


@pytest.mark.usefixtures("every_step_is_told")
@pytest.mark.parametrize("step", [1, 23, 24, 25, 47, 48])
def test_a_stop_anywhere_and_resuming_give_the_undisturbed_result(
    undisturbed: Trained, step: int, tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 2, "checkpoint_every": 1000, "precision": undisturbed.answer["device"].removeprefix("cpu, ")}
    answer, (checkpoint,) = run_and_stop(step, tokens, encoder, tmp_path / "model", **settings)
    assert (answer["stop_reason"], answer["steps"], checkpoint["step"]) == ("preempted", step, step)
    answer = run(tokens, encoder, tmp_path / "model", resume=Path(checkpoint["folder"]), **settings)
    assert (answer["validation"], answer["best_epoch"]) == (undisturbed.answer["validation"], undisturbed.answer["best_epoch"])
    assert equal(weights(tmp_path / "model"), weights(undisturbed.folder))


def test_interrupted_again_and_again_it_is_still_the_same(
    undisturbed: Trained, tokens: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.compute.channel.PROGRESS_INTERVAL_S", 0.0)
    settings = {"epochs": 2, "precision": undisturbed.answer["device"].removeprefix("cpu, ")}
    resume, step = None, 0
    while (step := step + 9) < 48:
        _, (checkpoint,) = run_and_stop(step, tokens, encoder, tmp_path / "model", resume=resume, **settings)
        resume = Path(checkpoint["folder"])
    answer = run(tokens, encoder, tmp_path / "model", resume=resume, **settings)
    assert answer["validation"] == undisturbed.answer["validation"]
    assert equal(weights(tmp_path / "model"), weights(undisturbed.folder))


@pytest.mark.usefixtures("every_step_is_told")
def test_a_stop_while_a_missed_scoring_is_made_up_for_loses_nothing(
    undisturbed: Trained, tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    # The first stop comes in an epoch's last step, the second before training is under way again.
    settings = {"epochs": 2, "precision": undisturbed.answer["device"].removeprefix("cpu, ")}
    _, (first,) = run_and_stop(24, tokens, encoder, tmp_path / "model", **settings)
    stream = io.StringIO()
    channel = Channel(stream)
    channel.request_stop()
    arguments = train_arguments(tokens, encoder, tmp_path / "other", resume=Path(first["folder"]), **settings)
    assert train(channel, **arguments)["stop_reason"] == "preempted"
    (second,) = [event for event in events(stream) if event["event"] == "checkpoint"]
    answer = run(tokens, encoder, tmp_path / "model", resume=Path(second["folder"]), **settings)
    assert what_counts(answer) == what_counts(undisturbed.answer)
    assert equal(weights(tmp_path / "model"), weights(undisturbed.folder))


@pytest.mark.usefixtures("every_step_is_told")
@pytest.mark.parametrize("step", [30, 47, 48])
def test_early_stopping_is_decided_alike_after_resuming(misleading: Path, decoder: Path, tmp_path: Path, step: int) -> None:
    settings = {"learning_rate": 0.0003, "epochs": 5, "early_stopping_patience": 1}
    whole = run(misleading, decoder, tmp_path / "whole", **settings)
    answer, (checkpoint,) = run_and_stop(step, misleading, decoder, tmp_path / "model", **settings)
    assert answer["stop_reason"] == "preempted"
    resumed = run(misleading, decoder, tmp_path / "model", resume=Path(checkpoint["folder"]), **settings)
    assert (resumed["stop_reason"], resumed["steps"], resumed["best_epoch"]) == ("early_stopping", 48, 1)
    assert resumed["validation"] == whole["validation"]
    assert equal(weights(tmp_path / "model"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_checkpoint_that_is_not_whole_is_refused(
    undisturbed: Trained, name: str, damage: str, tokens: Path, encoder: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "42"
    shutil.copytree(undisturbed.folder.with_name("model-checkpoints") / "42", checkpoint)
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).unlink()
    if damage == "cut":
        (checkpoint / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointUnusable, match=r"^Checkpoint '42' cannot be loaded: "):
        run(tokens, encoder, tmp_path / "model", resume=checkpoint)


@pytest.mark.parametrize("micro_batch", [2, 4])
def test_smaller_parts_of_a_batch_are_the_same_training(
    decoder_tokens: Path, decoder: Path, tmp_path: Path, micro_batch: int
) -> None:
    # 192 rows in batches of 40: the last one, of 32, has fewer parts. The decoder has no dropout.
    settings = {"batch_size": 40, "epochs": 2}
    whole = run(decoder_tokens, decoder, tmp_path / "whole", **settings)
    parts = run(decoder_tokens, decoder, tmp_path / "parts", micro_batch=micro_batch, **settings)
    assert (parts["steps"], parts["planned_steps"]) == (whole["steps"], whole["planned_steps"]) == (10, 10)
    left, right = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=2e-5)


def test_parts_of_unequal_size_weigh_by_their_rows(decoder_tokens: Path, decoder: Path, tmp_path: Path) -> None:
    # One step of all 192 rows, in parts of 100 and 92 rows.
    settings = {"batch_size": 200, "epochs": 1, "warmup_ratio": 0.0}
    whole = run(decoder_tokens, decoder, tmp_path / "whole", **settings)
    parts = run(decoder_tokens, decoder, tmp_path / "parts", micro_batch=100, **settings)
    losses = [[entry["loss"] for entry in answer["history"] if "loss" in entry] for answer in (whole, parts)]
    norms = [[entry["grad_norm"] for entry in answer["history"] if "grad_norm" in entry] for answer in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_a_training_of_one_step_learns(decoder_tokens: Path, decoder: Path, tmp_path: Path) -> None:
    answer = run(decoder_tokens, decoder, tmp_path / "model", batch_size=200, epochs=1, warmup_ratio=0.1)
    assert answer["steps"] == 1
    rates = [entry["learning_rate"] for entry in answer["history"] if "learning_rate" in entry]
    assert rates[0] > 0


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
    ids=["cuda", "cpu"],
)
def test_the_end_of_memory_is_told_with_batch_length_and_remedy(
    decoder_tokens: Path, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("tasks.compute.trainer.KindTrainer.compute_loss", fail)
    with pytest.raises(OutOfMemory, match=r"with 8 rows of up to 16 tokens at once; lower training\.micro_batch or"):
        run(decoder_tokens, decoder, tmp_path / "model")


def test_a_loss_that_is_no_number_ends_training_with_step_and_rate(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"The loss is nan at optimizer step \d+ with learning rate .*lower training\."):
        run(tokens, encoder, tmp_path / "model", learning_rate=1e30)
    assert not (tmp_path / "model").exists()


def test_infinite_weights_end_training_in_the_first_step(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    for path in encoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = {name: torch.full_like(weight, torch.inf) for name, weight in weights(encoder).items()}
    save_file(broken, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingDiverged, match="The loss is nan at optimizer step 1 "):
        run(tokens, tmp_path, tmp_path / "model")


def test_a_decoders_pad_token_is_kept(trained: Trained, decoder: Path) -> None:
    assert AutoTokenizer.from_pretrained(decoder).pad_token is None
    assert AutoTokenizer.from_pretrained(trained.folder).pad_token == "[SEP]"
    assert AutoModelForSequenceClassification.from_pretrained(trained.folder).config.pad_token_id == 3


def test_bf16_trains_and_saves_fp32(decoder_tokens: Path, decoder: Path, tmp_path: Path) -> None:
    answer = run(decoder_tokens, decoder, tmp_path, precision="bf16")
    assert answer["validation"]["accuracy"] > 0.8
    assert answer["device"] == "cpu, bf16"
    assert {weight.dtype for weight in weights(tmp_path).values()} == {torch.float32}


def test_a_model_that_cannot_be_loaded_is_an_error_of_its_own(tokens: Path, encoder: Path, tmp_path: Path) -> None:
    for path in encoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:100] if path.suffix == ".safetensors" else path.read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        run(tokens, tmp_path, tmp_path / "model")
