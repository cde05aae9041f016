"""Training in two processes against training in one: the same batches, weights and scores, and exact resuming."""

import io
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tasks.compute.channel import Channel
from tasks.compute.train import train
from tests.helpers import topic_rows
from tests.tasks.compute.commands import LABELS, save_rows, save_tokens, train_arguments
from tests.tasks.compute.two_ranks import Told, train_in_two
from tests.tasks.kinds.cases import CASES, TRAINING
from tests.tasks.kinds.language_models import Lab

# In fp32 without dropout, weights and losses differ by the order of sums alone; measured: 2e-7.
TOLERANCE = 1e-5
# 77 rows: the last batch has 5 of 8, or 1 of 4, and then none for the second process.
BATCHES: dict[str, dict[str, Any]] = {
    "whole": {"batch_size": 8},
    "parts": {"batch_size": 8, "micro_batch": 2},
    # With the others' learning rate the loss leaps for so few rows, and on some CPUs differences grow to 2e-5.
    "one-row": {"batch_size": 4, "learning_rate": 0.002},
    "one-batch": {"batch_size": 96, "micro_batch": 20},
    "adapters": {"batch_size": 8, "micro_batch": 2, "method": "lora", "label_smoothing": 0.2, "gradient_checkpointing": True},
}
# Rows of several windows, of which a process has all; losses over tokens; a threshold that is chosen on all of validation.
KINDS = ["causal-lm", "question-answering", "summarization"]
EARLY = {"learning_rate": 0.0003, "epochs": 5, "early_stopping_patience": 1, "batch_size": 8}


class Trainings(NamedTuple):
    """What trainings in two processes told, and the folder with what they made."""

    folder: Path
    told: dict[str, tuple[Told, Told]]

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / name / "model.safetensors")

    def answer(self, name: str) -> dict[str, Any]:
        return self.told[name][0].answer

    def sent(self, name: str, event: str) -> list[dict[str, Any]]:
        return [sent for sent in self.told[name][0].events if sent["event"] == event]


@pytest.fixture(scope="module")
def odd_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of 77 rows to train, 31 to validate and the same ones with wrong labels to test."""
    validation = topic_rows(31, seed=1)
    turned = dict(zip(LABELS, [*LABELS[1:], LABELS[0]], strict=True))
    wrong = [row | {"label": turned[row["label"]]} for row in validation]
    return save_rows(tmp_path_factory.mktemp("odd-rows"), train=topic_rows(77), validation=validation, test=wrong)


@pytest.fixture(scope="module")
def plain_tokens(odd_rows: Path, decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of their tokens for the decoder, which has no dropout."""
    return save_tokens(tmp_path_factory.mktemp("plain"), odd_rows, decoder)


@pytest.fixture(scope="module")
def misleading_tokens(plain_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return tokens whose validation labels are all wrong: the more is learnt, the lower validation scores."""
    folder = tmp_path_factory.mktemp("misleading")
    (folder / "dataset").mkdir()
    for split, taken in (("train", "train"), ("validation", "test"), ("test", "test")):
        (folder / split).symlink_to(plain_tokens / taken)
        (folder / "dataset" / split).symlink_to(plain_tokens / "dataset" / taken)
    return folder


@pytest.fixture(scope="module")
def labs(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lab]:
    """Return each of the kinds with its rows and their tokens."""
    root, found = tmp_path_factory.mktemp("labs"), {}
    for name in KINDS:
        case = CASES[name]
        settings = {**case.settings_for("gpt_neo"), "training": {**TRAINING, "max_length": 24}}
        splits = {"train": case.rows(29, 0), "validation": case.rows(11, 1), "test": case.rows(3, 2)}
        if name == "question-answering":
            # All questions with an answer fall to one process, all without to the other: each alone would choose an extreme.
            none = json.dumps({"text": [], "answer_start": []})
            with_answers = [row for row in case.rows(11, 1) if row["answers"] != none]
            splits["validation"] = [row | ({"answers": none} if odd else {}) for row in with_answers for odd in (False, True)]
        (root / name).mkdir()
        found[name] = Lab(root / name, name, decoder, settings, **splits)
        found[name].tokenize()
    return found


@pytest.fixture(scope="module")
def trainings(
    odd_rows: Path,
    plain_tokens: Path,
    misleading_tokens: Path,
    labs: dict[str, Lab],
    decoder: Path,
    encoder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trainings:
    folder = tmp_path_factory.mktemp("two")
    tokens = save_tokens(folder / "tokens", odd_rows, encoder)

    def plain(name: str, tokens: Path = plain_tokens, **settings: Any) -> dict[str, Any]:
        return train_arguments(tokens, decoder, folder / name, **{"epochs": 2, "processes": 2, **settings})

    def dropping(name: str, resume: str | None = None, **more: Any) -> dict[str, Any]:
        settings = {"epochs": 2, "batch_size": 8, "processes": 2, "checkpoint_every": 7 if name == "undisturbed" else 1000}
        return train_arguments(tokens, encoder, folder / name, resume=folder / resume if resume else None, **settings) | more

    # 10 steps an epoch. Each step looks once whether it is to stop, each scoring of validation once.
    runs = {name: plain(name, **settings) for name, settings in BATCHES.items()}
    runs |= {
        "early": plain("early", misleading_tokens, **EARLY),
        "undisturbed": dropping("undisturbed"),
        "again": dropping("again"),
        "from-7": dropping("from-7", "undisturbed-checkpoints/7"),
        "stopped": dropping("stopped", stop_after=[1, 12]),
        "from-stop": dropping("from-stop", "stopped-checkpoints/12"),
        "stopped-scoring": dropping("stopped-scoring", stop_after=[1, 10]),
        "from-scoring": dropping("from-scoring", "stopped-scoring-checkpoints/10"),
        "other-number": dropping("other-number", "one-process-checkpoints/7"),
        "diverged": plain("diverged", learning_rate=1e30),
    }
    runs |= {name: lab.train_arguments(folder / name, processes=2, micro_batch=2) for name, lab in labs.items()}
    one = dropping("one-process")
    one["training"] |= {"processes": 1, "checkpoint_every": 7, "epochs": 1}
    train(Channel(io.StringIO()), **one)
    return Trainings(folder, train_in_two(folder, runs))


def alone(folder: Path, tokens: Path, model: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train in this process and return the answer and the weights."""
    answer = train(Channel(io.StringIO()), **train_arguments(tokens, model, folder, **settings))
    return answer, load_file(folder / "model.safetensors")


def logged(answer: dict[str, Any], name: str) -> list[float]:
    return [entry[name] for entry in answer["history"] if name in entry]


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", BATCHES)
def test_two_processes_train_as_one_does(
    trainings: Trainings, name: str, plain_tokens: Path, decoder: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 2, **BATCHES[name], "micro_batch": None}
    expected, weights = alone(tmp_path, plain_tokens, decoder, **settings)
    answer = trainings.answer(name)
    assert (answer["steps"], answer["planned_steps"]) == (expected["steps"], expected["planned_steps"])
    for parameter, values in trainings.weights(name).items():
        torch.testing.assert_close(values, weights[parameter], rtol=0, atol=TOLERANCE)
    for figure in ("loss", "grad_norm", "train_loss"):
        assert logged(answer, figure) == pytest.approx(logged(expected, figure), rel=TOLERANCE, abs=TOLERANCE)
    assert answer["validation"] == pytest.approx(expected["validation"], rel=TOLERANCE)
    assert answer["best_epoch"] == expected["best_epoch"]


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_train_any_kind_as_one_does(trainings: Trainings, labs: dict[str, Lab], name: str) -> None:
    expected, folder = labs[name].train()
    answer, weights = trainings.answer(name), load_file(folder / "model.safetensors")
    assert answer["steps"] == expected["steps"] > 1
    # These move the scores of all starts, or of all ends, alike: their gradients are 0, and AdamW makes anything of the rounding.
    idle = {"qa_outputs.bias", "transformer.ln_f.bias"} if name == "question-answering" else set()
    for parameter in weights.keys() - idle:
        torch.testing.assert_close(trainings.weights(name)[parameter], weights[parameter], rtol=0, atol=TOLERANCE)
    assert logged(answer, "loss") == pytest.approx(logged(expected, "loss"), rel=TOLERANCE, abs=TOLERANCE)
    assert answer["validation"] == pytest.approx(expected["validation"], rel=TOLERANCE, abs=TOLERANCE)


def test_all_agree_on_the_scores_and_on_an_early_stop(
    trainings: Trainings, misleading_tokens: Path, decoder: Path, tmp_path: Path
) -> None:
    expected, weights = alone(tmp_path, misleading_tokens, decoder, **EARLY)
    first, second = (told.answer for told in trainings.told["early"])
    assert expected["stop_reason"] == "early_stopping"
    for name in ("stop_reason", "steps", "best_epoch"):
        assert first[name] == second[name] == expected[name]
    for told in trainings.told.values():
        if "error" not in told[0].answer:
            assert told[0].answer["validation"] == told[1].answer["validation"]
    # The best epoch is kept, not the last.
    for parameter, values in trainings.weights("early").items():
        torch.testing.assert_close(values, weights[parameter], rtol=0, atol=TOLERANCE)


def test_the_device_the_processes_and_how_they_talk_are_told(trainings: Trainings) -> None:
    assert trainings.answer("whole")["device"] == "2 processes, cpu, fp32, gloo"
    assert trainings.sent("whole", "log") == [
        {"event": "log", "level": 20, "message": "Training in 2 processes, cpu, fp32, gloo."}
    ]


def test_each_has_its_share_of_the_cores(trainings: Trainings) -> None:
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert [told.answer["threads"] for told in trainings.told["whole"]] == [share, share]


def test_a_checkpoint_has_the_random_states_of_each(trainings: Trainings) -> None:
    assert [event["step"] for event in trainings.sent("undisturbed", "checkpoint")] == [7, 14]
    folder = trainings.folder / "undisturbed-checkpoints"
    assert {path.name for path in folder.iterdir()} == {"7", "14"}
    names = {path.name for path in (folder / "14").iterdir()}
    states = {"rng_state_0.pth", "rng_state_1.pth"}
    assert names == {*states, "best", "config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"}
    # They differ, else both would drop out the same.
    assert len({(folder / "7" / name).read_bytes() for name in states}) == 2


@pytest.mark.parametrize("name", ["again", "from-7", "from-stop", "from-scoring"])
def test_resuming_two_processes_gives_the_undisturbed_result_bit_for_bit(trainings: Trainings, name: str) -> None:
    for figure in ("steps", "stop_reason", "best_epoch", "validation"):
        assert trainings.answer(name)[figure] == trainings.answer("undisturbed")[figure]
    assert equal(trainings.weights(name), trainings.weights("undisturbed"))


@pytest.mark.parametrize(("name", "step"), [("stopped", 12), ("stopped-scoring", 10)])
def test_a_stop_that_one_is_asked_for_stops_all_at_the_same_step(trainings: Trainings, name: str, step: int) -> None:
    for told in trainings.told[name]:
        assert (told.answer["stop_reason"], told.answer["steps"]) == ("preempted", step)
    assert [event["step"] for event in trainings.sent(name, "checkpoint")] == [step]
    assert not (trainings.folder / name).exists()


def test_a_checkpoint_of_another_number_of_processes_is_refused(trainings: Trainings) -> None:
    for told in trainings.told["other-number"]:
        assert told.answer["error"] == "CheckpointUnusable"
        assert told.answer["message"] == "Checkpoint '7' cannot be loaded: rng_state_0.pth is missing."


def test_a_loss_that_is_no_number_ends_all(trainings: Trainings) -> None:
    for told in trainings.told["diverged"]:
        assert told.answer["error"] == "TrainingDiverged"
        assert "lower training.learning_rate" in told.answer["message"]
