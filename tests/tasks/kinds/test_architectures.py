"""Each kind with each architecture that it supports: before, a few steps of training, after; and a clear line for the others."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from tasks.compute.models import bind, load_model, load_tokenizer
from tasks.errors import InputError
from tasks.kinds import kind_names
from tests.architectures import ARCHITECTURES, DECODERS, make_architecture
from tests.tasks.kinds.cases import CASES, PROBLEMS, Case
from tests.tasks.kinds.language_models import Lab

SUPPORTED = [(kind, name) for kind, case in CASES.items() for name in ARCHITECTURES if name not in case.refused]
REFUSED = [(kind, name) for kind, case in CASES.items() for name in case.refused]


def test_every_kind_is_tried() -> None:
    assert [kind for kind in kind_names() if kind not in CASES] == [], "give it a case in tests/tasks/kinds/cases.py"
    assert sorted(CASES) == kind_names()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of the models by architecture."""
    root = tmp_path_factory.mktemp("architectures")
    return {name: make_architecture(name, root / name) for name in ARCHITECTURES}


def lab(root: Path, kind: str, case: Case, name: str, model: Path) -> Lab:
    """Return a kind's rows, of which the same validate and test, with a model's tokens."""
    # Which tokens are hidden hangs on a row's id too.
    held_out = [{"id": str(number), **row} for number, row in enumerate(case.rows(6, 1))]
    splits = {"train": case.rows(16, 0), "validation": held_out, "test": held_out}
    made = Lab(root, kind, model, case.settings_for(name), labels=case.labels, **splits)
    made.tokenize()
    return made


def predictions(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions.parquet")


@pytest.mark.parametrize(("kind", "name"), SUPPORTED)
def test_a_model_goes_from_before_to_after(
    kind: str, name: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lab(tmp_path, kind, CASES[kind], name, models[name])
    check_before_and_after(made, monkeypatch)


@pytest.mark.parametrize("name", ["deberta-v2", "llama", "t5"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_model_goes_from_before_to_after_with_each_problem(
    problem: str, name: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lab(tmp_path, "text-classification", PROBLEMS[problem], name, models[name])
    check_before_and_after(made, monkeypatch)


def check_before_and_after(made: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    before, batched = made.evaluate(made.model, trained=False)
    assert before["head"] in ("fresh", "pretrained", "warm-started")
    with monkeypatch.context() as patch:
        patch.setattr("tasks.compute.predict._ROWS_PER_BATCH", 1)
        _, alone = made.evaluate(made.model, trained=False)
    # Rows say the same whatever stands beside them in a batch.
    pd.testing.assert_frame_equal(predictions(batched), predictions(alone), rtol=1e-3, atol=1e-4)

    answer, folder = made.train()
    assert (answer["stop_reason"], answer["steps"]) == ("finished", answer["planned_steps"])
    after, scored = made.evaluate(folder, trained=True)
    assert after["head"] == "trained"
    # Validation, which was scored in memory, has the rows of test.
    assert after["metrics"] == pytest.approx(answer["validation"], rel=1e-4, abs=1e-5)
    numbers = predictions(scored).select_dtypes("number").columns.difference(["score"])
    changed = not predictions(scored)[numbers].equals(predictions(batched)[numbers])
    assert changed or made.kind == "summarization", "training changed nothing"


@pytest.mark.parametrize(("kind", "name"), REFUSED)
def test_what_makes_no_sense_is_told_in_one_line(kind: str, name: str, models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=CASES[kind].refused[name]) as caught:
        lab(tmp_path, kind, CASES[kind], name, models[name]).evaluate(models[name], trained=False)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_takes_rows_as_long_as_it_is_said_to_take(name: str, models: dict[str, Path]) -> None:
    case, tokenizer = CASES["text-classification"], load_tokenizer(models[name], remote_code=False)
    # T5 takes any length.
    assert tokenizer.model_max_length == 64 or name == "t5"
    kind = bind("text-classification", {"training": {"max_length": 64}}, case.labels)
    model, _ = load_model(kind, models[name], tokenizer, trained=False, allow_pickle=False, remote_code=False)
    features = kind.encode(tokenizer, {"text": ["goal " * 100], "label": [0]}, train=True).features
    assert len(features["input_ids"][0]) == 64
    batch = kind.collator(tokenizer, train=True)([{key: values[0] for key, values in features.items()}])
    assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_goes_on_with_a_prompt_up_to_its_last_position(name: str, models: dict[str, Path]) -> None:
    case, tokenizer = CASES["summarization"], load_tokenizer(models[name], remote_code=False)
    # So near to the end that the padding cannot go on to a multiple of 8.
    length = 64 - 8 + 3
    settings = {"generation": {"max_target_length": 5, "max_new_tokens": 5, "template": "{document} it was"}}
    kind = bind("summarization", {**case.settings, **settings, "training": {"max_length": length}})
    torch.manual_seed(0)
    model, _ = load_model(kind, models[name], tokenizer, trained=False, allow_pickle=False, remote_code=False)
    rows = {"id": ["0", "1"], "text": ["the goal " * 60, "a rocket"], "summary": ["a", "b"]}
    listed = [{"input_ids": ids} for ids in kind.encode(tokenizer, rows, train=False).features["input_ids"]]
    assert max(len(item["input_ids"]) for item in listed) > length - 3
    collate = kind.collator(tokenizer, train=False)
    with torch.inference_mode():
        together = kind.predict(model.eval(), tokenizer, collate(listed)).tolist()
        alone = [kind.predict(model, tokenizer, collate([item])).tolist()[0] for item in listed]
    assert together == alone
