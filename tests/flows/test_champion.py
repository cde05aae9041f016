"""Champion and challenger over several runs of one name, and the command that looks at them and changes them."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

import flows.pipeline
from blocks.artifact_store import LocalStore
from flows.__main__ import main
from flows.experiments import text_classification
from tasks.champions import read_registry, write_registry
from tasks.errors import ConfigError
from tasks.kinds.text_classification import TextClassificationConfig
from tasks.promotion import promote, standings
from tasks.records import Report
from tasks.runs import champion_of
from tests.helpers import NO_BASELINES, topic_rows, write_csv

pytestmark = pytest.mark.usefixtures("prefect_api", "kept_compute")


class Name:
    """Runs of one name in one store, on rows that are given to each."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.store = LocalStore(folder / "store")

    def run(
        self,
        train: list[dict[str, str]],
        *,
        test: list[dict[str, str]] | None = None,
        validation: list[dict[str, str]] | None = None,
        **values: Any,
    ) -> Report:
        data = self.folder / values.pop("folder", f"data-{zlib.crc32(repr((train, test, validation)).encode()):x}")
        write_csv(data / "train.csv", train)
        write_csv(data / "validation.csv", validation or topic_rows(60, seed=98))
        write_csv(data / "test.csv", test or topic_rows(150, seed=99))
        config = {
            "name": "topics",
            "store": str(self.store.root),
            "data": {"source": str(data), "slice_columns": values.pop("slice_columns", [])},
            "model": {"name": str(self.model)},
            "training": {"epochs": 3, "learning_rate": 0.01, "max_length": 32, **values.pop("training", {})},
            "baselines": NO_BASELINES,
            **values,
        }
        return text_classification(TextClassificationConfig.model_validate(config))

    def registry(self) -> Any:
        return read_registry(self.store, "topics")[0]

    def read(self, report: Report, name: str) -> Any:
        return json.loads((self.store.fetch(report.key) / name).read_text(encoding="utf-8"))

    def page(self, report: Report) -> str:
        return (self.store.fetch(report.key) / "report.html").read_text(encoding="utf-8")


def shuffled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows with each label on another's row."""
    labels = [row["label"] for row in rows]
    return [{**row, "label": label} for row, label in zip(rows, labels[1:] + labels[:1], strict=True)]


@pytest.fixture(scope="module")
def ticks(
    prefect_api: str, kept_compute: Any, tmp_path_factory: pytest.TempPathFactory, encoder: Path
) -> tuple[Name, list[Report]]:
    """Four runs: a fair model, one trained on shuffled labels, the fair one again, and once more from copied files."""
    name = Name(tmp_path_factory.mktemp("ticks"), encoder)
    good = topic_rows(180)
    return name, [name.run(good), name.run(shuffled(good)), name.run(good), name.run(good, folder="copy")]


def test_the_first_model_that_is_not_worse_than_the_untouched_one_is_the_first_champion(ticks: tuple[Name, list[Report]]) -> None:
    name, (first, *_) = ticks
    assert first.promotion.outcome == "first champion"
    assert first.contest is None
    assert "It is the first champion of topics." in first.outcome
    assert name.read(first, "metrics.json")["champion"] is None
    assert name.registry().champions[0].key == first.steps["fine-tune"]


def test_a_model_that_is_worse_than_the_champion_is_held_with_the_reason(ticks: tuple[Name, list[Report]]) -> None:
    name, (first, worse, *_) = ticks
    assert worse.promotion.outcome == "held"
    assert worse.contest is not None
    assert worse.contest.word == "regressed"
    assert worse.contest.champion == first.after
    assert worse.contest.untouched == worse.before
    assert (worse.contest.rows, worse.contest.dropped) == (150, 0)
    assert any(reason.startswith("accuracy: is worse than the champion") for reason in worse.promotion.reasons)
    assert len(name.registry().champions) == 1
    champion = name.read(worse, "metrics.json")["champion"]
    assert champion["champion"]["accuracy"] == first.after["accuracy"]
    low, high = champion["intervals"]["accuracy"]
    assert low <= champion["difference"]["accuracy"] <= high < 0
    page = name.page(worse)
    for told in (
        f"{first.after['accuracy']:.4f}",
        "From champion",
        "It was held",
        "Past runs",
        f"The champion that it met was the model of run {first.flow_run}",
    ):
        assert told in page
    assert (name.store.fetch(worse.key) / "predictions_champion.parquet").is_file()


def test_the_champion_once_more_is_held_and_no_tick(ticks: tuple[Name, list[Report]]) -> None:
    name, (first, _, again, copied) = ticks
    assert again.steps["fine-tune"] == first.steps["fine-tune"] != copied.steps["fine-tune"]
    for report in (again, copied):
        assert report.promotion.outcome == "held"
        assert report.promotion.reasons == ["It is the champion already: nothing has changed since."]
    assert [tick.outcome for tick in name.registry().ticks] == ["first champion", "held"]


def test_the_command_shows_promotes_and_rolls_back(
    ticks: tuple[Name, list[Report]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name, (first, worse, *_) = ticks
    store = f"--store={name.store.root}"

    def told(*arguments: str) -> str:
        assert main(["champion", *arguments, store]) == 0
        return capsys.readouterr().out

    shown = told("show", "topics")
    assert f"topics: the model of run {first.flow_run}, champion since " in shown
    assert f"model:  {first.model}" in shown
    assert "text-classification" in told("show")
    history = told("history", "topics", f"--plot={tmp_path / 'trend.png'}")
    assert [line.split()[2] for line in history.splitlines()[1:3]] == ["first", "held"]
    assert (tmp_path / "trend.png").read_bytes().startswith(b"\x89PNG")

    told("promote", "topics", worse.key)
    assert json.loads(told("show", "topics", "--json"))["champion"]["key"] == worse.steps["fine-tune"]
    assert f"back to the model of run {first.flow_run}" in told("rollback", "topics")
    registry = name.registry()
    assert [champion.key for champion in registry.champions] == [first.steps["fine-tune"]]
    assert [tick.outcome for tick in registry.ticks] == ["first champion", "held", "promoted", "rolled back"]
    marks = [line.split()[-1] for line in told("history", "topics").splitlines()[1:5]]
    assert marks == ["*", "o", "*", "x"]
    # What a person took back, no later run may bring back by itself.
    assert registry.rolled_back(champion_of(name.store, worse)) is not None
    assert main(["champion", "rollback", "topics", store]) == 2
    assert "has no champion before this one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "topic"], "The store knows no model 'topic'; did you mean 'topics'?"),
        (["promote", "topics", "nosuch"], "There is no run 'nosuch'; Known: "),
        (["promote", "topics"], "Name the run whose model to promote"),
        (["history"], "Name the model"),
        (["show", "topics", "x"], "takes no run"),
        (["crown", "topics"], "invalid choice: 'crown'"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    arguments: list[str], told: str, ticks: tuple[Name, list[Report]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["champion", *arguments, f"--store={ticks[0].store.root}"]) == 2
    assert told in capsys.readouterr().err


def test_the_name_of_another_kind_of_model_is_refused_before_anything_is_computed(
    ticks: tuple[Name, list[Report]], capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(ticks[0].store.root)
    assert main(["run", "causal-lm", "--name", "topics", "--store", store]) == 2
    assert "keeps a text-classification model, judged by accuracy, under the name 'topics'" in capsys.readouterr().err


def test_a_model_that_was_taken_back_is_held_when_it_is_trained_again_from_copied_files(tmp_path: Path, encoder: Path) -> None:
    name, rows = Name(tmp_path, encoder), topic_rows(180, seed=7)
    name.run(topic_rows(180))
    promoted = name.run(rows, seed=7)
    assert main(["champion", "rollback", "topics", f"--store={name.store.root}"]) == 0
    again = name.run(rows, seed=7, folder="copy")
    assert promoted.promotion.outcome == "promoted"
    assert again.steps["fine-tune"] != promoted.steps["fine-tune"]
    assert again.promotion.outcome == "held"
    (reason,) = again.promotion.reasons
    assert reason.startswith("This very model was rolled back (")


def test_rows_that_one_of_the_two_was_trained_on_are_left_out_and_counted(tmp_path: Path, encoder: Path) -> None:
    name = Name(tmp_path, encoder)
    rows = topic_rows(180)
    first = name.run(rows)
    # Thirty of the champion's train rows are test rows now, which its challenger never saw; in other case.
    test = [{**row, "text": row["text"].upper()} for row in rows[:30]] + topic_rows(120, seed=99)
    second = name.run(topic_rows(180, seed=5), test=test, gate={"mode": "report"})
    assert second.rows == 150
    assert second.contest is not None
    assert (second.contest.rows, second.contest.dropped) == (120, 30)
    assert "30 test rows that one of them has seen in training are left out" in second.outcome
    page = name.page(second)
    assert "<th>Champion</th>" in page
    assert "The champion may have seen some of them in training." in page
    assert name.registry().ticks[0].test != name.registry().ticks[1].test
    assert first.promotion.outcome == "first champion"
    # The gate only says what it would have done.
    assert second.promotion.outcome == "held"
    assert second.promotion.reasons[-1].startswith("It passes the gate, but gate.mode is 'report'")
    assert name.registry().champion.key == first.steps["fine-tune"]


def test_a_class_that_the_champion_does_not_know_is_none_of_its_answers(tmp_path: Path, encoder: Path) -> None:
    name, known = Name(tmp_path, encoder), ("space", "sport")
    test, validation = (topic_rows(100, seed=seed, topics=known) for seed in (99, 98))
    name.run(topic_rows(180, topics=known), test=test, validation=validation)
    second = name.run(topic_rows(240))
    assert second.contest is not None
    assert second.contest.champion["recall/market"] == 0
    assert second.contest.champion["recall/sport"] > 0.8
    assert second.contest.champion["recall/space"] > 0.8
    assert second.promotion.outcome == "promoted"


def test_seeds_measure_how_far_chance_moves_the_score(tmp_path: Path, encoder: Path) -> None:
    name = Name(tmp_path, encoder)
    rows = [{**row, "site": "web" if number % 2 else "print"} for number, row in enumerate(topic_rows(180))]
    test = [{**row, "site": "web" if number % 2 else "print"} for number, row in enumerate(topic_rows(150, seed=99))]
    validation = [{**row, "site": "web"} for row in topic_rows(60, seed=98)]
    found = name.run(rows, test=test, validation=validation, slice_columns=["site"], training={"seeds": 3, "epochs": 1})
    assert found.promotion.noise is not None
    assert found.promotion.noise > 0
    page = name.page(found)
    assert "Over 3 seeds the standard deviation of Accuracy is" in page
    assert "site: web" in page
    slices = name.read(found, "metrics.json")["slices"]
    assert {entry["value"] for entry in slices if entry["by"] == "site"} == {"web", "print"}
    assert sum(entry["rows"] for entry in slices if entry["by"] == "site") == 150


def test_a_gate_that_names_a_class_that_is_not_there_ends_the_run_before_it_trains(tmp_path: Path, encoder: Path) -> None:
    name = Name(tmp_path, encoder)
    with pytest.raises(ConfigError, match="The gate names the metric 'recall/spot'; did you mean 'recall/sport'"):
        name.run(topic_rows(180), gate={"margins": {"recall/spot": 0.1}})
    assert name.store.list("steps/fine-tune") == []


def test_a_gate_that_names_no_metric_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "text-classification", "--store", str(tmp_path), "--gate.margins", '{"acuracy": 0.1}']) == 2
    assert "The gate names the metric 'acuracy'; did you mean 'accuracy'" in capsys.readouterr().err


def test_of_two_runs_that_end_together_the_later_one_meets_the_models_of_both(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, others = Name(tmp_path, encoder), []
    first = name.run(topic_rows(180))
    decide = flows.pipeline.promote

    def late(*arguments: Any, **inputs: Any) -> Any:
        # All is compared; before this run writes what it decides, another one of the same name begins and ends.
        if not others:
            others.append(None)
            others[0] = name.run(topic_rows(180, seed=7), seed=7)
        return decide(*arguments, **inputs)

    write, again = flows.pipeline.report, []

    def lost(run: Any, **inputs: Any) -> Any:
        # What a second attempt of the same flow run does, whose first one died before its report.
        standing = next(standings(run))
        assert standing.champion is None or standing.champion.run_id != run.id
        names = ("dataset", "stage", "verdict", "contest")
        again.append((inputs["promotion"], promote(run, standing, **{name: inputs[name] for name in names})))
        return write(run, **inputs)

    monkeypatch.setattr(flows.pipeline, "promote", late)
    monkeypatch.setattr(flows.pipeline, "report", lost)
    late_one = name.run(topic_rows(180, seed=8), seed=8)
    faster = others[0]
    assert faster is not None
    assert (first.promotion.outcome, faster.promotion.outcome) == ("first champion", "promoted")
    registry = name.registry()
    assert [tick.run_id[:8] for tick in registry.ticks] == [report.key[-8:] for report in (first, faster, late_one)]
    assert [first_time == second_time for first_time, second_time in again] == [True, True]
    # It was compared with the first champion, and then anew with the one that took its place.
    assert registry.ticks[-1].champion == faster.steps["fine-tune"].rpartition("/")[2]
    assert late_one.contest is not None
    assert late_one.contest.champion == faster.after
    assert [champion.key for champion in registry.champions][:2] == [first.steps["fine-tune"], faster.steps["fine-tune"]]


def test_the_report_names_the_champion_that_the_model_met_whoever_is_promoted_before_it_is_written(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Name(tmp_path, encoder)
    first = name.run(topic_rows(180))
    write = flows.pipeline.report

    def overtaken(run: Any, **inputs: Any) -> Any:
        registry, version = read_registry(name.store, "topics")
        assert registry is not None
        another = registry.champions[0].model_copy(update={"run": "another-run", "run_id": "another-id"})
        write_registry(name.store, "topics", registry.model_copy(update={"champions": [*registry.champions, another]}), version)
        return write(run, **inputs)

    monkeypatch.setattr(flows.pipeline, "report", overtaken)
    second = name.run(topic_rows(180, seed=7), seed=7)
    assert name.registry().champion.run == "another-run"
    assert second.contest is not None
    assert second.contest.champion_run == first.flow_run
    page = name.page(second)
    assert f"The champion that it met was the model of run {first.flow_run}, promoted on " in page
    assert "another-run" not in page


def test_the_model_card_says_the_verdict(ticks: tuple[Name, list[Report]]) -> None:
    name, (first, worse, *_) = ticks
    card = (name.store.fetch(worse.key) / "model_card.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "## Verdict" in card
    assert "Worse than the champion" in card
    row = next(line for line in card.splitlines() if line.startswith("| accuracy |"))
    assert row.startswith(
        f"| accuracy | {worse.before['accuracy']:.4f} | {first.after['accuracy']:.4f} | {worse.after['accuracy']:.4f} |"
    )
