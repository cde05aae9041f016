"""Tests of what may be deleted: on graphs made at random, and rule by rule."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from blocks.pointers import Mark
from tasks.retention import (
    DAY_S,
    MARK_LIMIT_S,
    Artifact,
    Deletion,
    Retention,
    Roots,
    dead_marks,
    find_roots,
    plan_deletions,
    references,
)

OLD = 100 * DAY_S
NONE_YOUNG = Retention(keep=0, older_than_days=0)


def make(key: str, *names: str, age_s: float = OLD, name: str = "", made_by: str = "") -> Artifact:
    return Artifact(key, age_s, 10, references(names), name, made_by)


def keys(plan: Iterable[Deletion]) -> list[str]:
    return [one.key for one in plan]


def random_store(rng: random.Random) -> tuple[list[Artifact], Roots, Retention]:
    """Return artifacts that refer to others at random, to ones that are gone and now and then in rings; roots; a setting."""
    all_keys = [f"runs/r{number}" for number in range(rng.randint(0, 12))]
    all_keys += [f"steps/s{number % 4}/{number:04x}" for number in range(rng.randint(0, 30))]
    all_keys += [f"checkpoints/{number // 2:04x}/{number}" for number in range(rng.randint(0, 6))]
    all_keys += [f"specs/{number:04x}" for number in range(rng.randint(0, 4))]
    targets = [*all_keys, "steps/s0/gone", "runs/gone", "checkpoints/0001"]
    ring = rng.random() < 0.2
    artifacts = []
    for place, key in enumerate(all_keys):
        below = targets if ring else [*all_keys[place + 1 :], *targets[-3:-1]]
        named = rng.sample(below, min(len(below), rng.choice([0, 1, 2, 4])))
        named = [rng.choice([one, f"s3://bucket/runs/{one}/model", f"/data/{one}", f"It lies in {one}."]) for one in named]
        age_s = rng.choice([0, 2, 29, 31, 90, 400]) * DAY_S + rng.random()
        made_by = rng.choice(["", "alive", "dead"])
        artifacts.append(make(key, *named, age_s=age_s, name=rng.choice("ab") if key.startswith("runs") else "", made_by=made_by))
    rng.shuffle(artifacts)
    marks = {
        "alive": Mark({"keys": rng.sample(targets, rng.randint(0, 2))}, 10),
        "dead": Mark({"keys": rng.sample(targets, 2)}, MARK_LIMIT_S + 1),
    }
    pointers = [{"model": {"at": [one]}} for one in rng.sample(targets, rng.randint(0, 2))]
    return artifacts, find_roots(pointers, marks), Retention(rng.choice([0, 1, 3, 10]), rng.choice([0, 0.5, 30, 60]))


def refers(one: Artifact, key: str) -> bool:
    """Tell by other means than the plan's whether an artifact names a key, or a folder that it lies in."""
    return any(f"{key}/".startswith(f"{text}/") or f"{text}/".startswith(f"{key}/") for text in one.references)


@pytest.mark.parametrize("seed", range(300))
def test_nothing_that_is_kept_ever_refers_to_what_is_gone(seed: int) -> None:
    artifacts, roots, retention = random_store(random.Random(seed))
    plan = plan_deletions(artifacts, roots, retention)
    left = {one.key: one for one in artifacts}
    gone = set(keys(plan))
    assert len(gone) == len(plan)
    # Rings apart, this holds after each deletion for all that is left, so a prune may be cut off anywhere.
    has_ring = any(refers(left[after], before) for place, before in enumerate(keys(plan)) for after in keys(plan)[place + 1 :])
    for key in keys(plan):
        del left[key]
        kept = [one for one in left.values() if not has_ring or one.key not in gone]
        assert [one.key for one in kept if refers(one, key)] == []
    if has_ring:
        assert any(key in reachable(artifacts, {key}) for key in gone)
    for one in left.values():
        assert one.key not in gone
    for one in (one for one in artifacts if one.key in gone):
        assert one.age_s >= retention.older_than_days * DAY_S
        assert one.made_by != "alive"
        assert not any(f"{one.key}/".startswith(f"{text}/") for text in roots.named)
        newer = [run for run in artifacts if run.key.startswith("runs/") and run.name == one.name and run.age_s < one.age_s]
        assert not one.key.startswith("runs/") or len(newer) >= retention.keep
    # What is left is all still wanted: the next prune has nothing to do.
    assert plan_deletions([*left.values()], roots, retention) == []


def reachable(artifacts: Iterable[Artifact], start: set[str]) -> set[str]:
    """Return what `start` refers to over one step or more."""
    seen: set[str] = set()
    while new := {two.key for one in artifacts if one.key in start | seen for two in artifacts if refers(one, two.key)} - seen:
        seen |= new
    return seen


@pytest.mark.parametrize("seed", range(100))
def test_all_goes_that_nothing_wants(seed: int) -> None:
    artifacts, roots, retention = random_store(random.Random(seed))
    gone = set(keys(plan_deletions(artifacts, roots, retention)))
    kept = {one.key: one for one in artifacts if one.key not in gone}
    wanted = {one.key for one in artifacts if one.age_s < retention.older_than_days * DAY_S or one.made_by == "alive"}
    wanted |= {
        one.key for one in artifacts for text in roots.named if refers(replace(one, references=frozenset({text})), one.key)
    }
    for name in "ab":
        runs = sorted((one for one in artifacts if one.key.startswith("runs/") and one.name == name), key=lambda one: one.age_s)
        wanted |= {one.key for one in runs[: retention.keep]}
    assert set(kept) == wanted | reachable(artifacts, wanted)


def test_the_newest_runs_of_each_model_stay_with_all_that_they_refer_to() -> None:
    artifacts = [
        make("runs/a1", "steps/compare/1", age_s=OLD + 2, name="a"),
        make("runs/a2", "steps/compare/2", age_s=OLD + 1, name="a"),
        make("runs/b1", "steps/compare/3", age_s=OLD + 9, name="b"),
        *(make(f"steps/compare/{number}", f"steps/load/{number // 2}") for number in (1, 2, 3)),
        *(make(f"steps/load/{number}") for number in (0, 1)),
    ]
    plan = plan_deletions(artifacts, Roots(), Retention(keep=1))
    assert keys(plan) == ["runs/a1", "steps/compare/1", "steps/load/0"]
    assert [one.name for one in plan] == ["a", "a", "a"]
    assert plan[0].reason.startswith("not among the 1 newest runs of its model, older than 30 days")


def test_what_is_young_stays_unless_age_protects_nothing() -> None:
    artifacts = [make("runs/a", "steps/load/1", age_s=DAY_S), make("steps/load/1"), make("steps/load/2", age_s=0)]
    assert plan_deletions(artifacts, Roots(), Retention(keep=0)) == []
    assert keys(plan_deletions(artifacts, Roots(), NONE_YOUNG)) == ["runs/a", "steps/load/1", "steps/load/2"]
    assert keys(plan_deletions(artifacts, Roots(), Retention(0, 0.5))) == ["runs/a", "steps/load/1"]


@pytest.mark.parametrize(
    "value",
    [
        {"run": "runs/a"},
        {"champions": [{"report": "/srv/runs/store/runs/a/report.html"}]},
        {"model": "s3://bucket/prefix/runs/a"},
        {"runs/a": 1},
        {"said": "It is runs/a."},
    ],
)
def test_a_pointer_keeps_a_run_however_it_names_it(value: dict[str, object]) -> None:
    artifacts = [make("runs/a", "steps/load/1"), make("steps/load/1"), make("runs/ab")]
    assert keys(plan_deletions(artifacts, find_roots([value], {}), NONE_YOUNG)) == ["runs/ab"]


def test_a_word_is_no_reference() -> None:
    assert references({"unit": "steps", "note": "runs/", "path": "/my-steps/a/b", "n": 3, "x": None}) == frozenset()


def test_the_mark_of_a_living_run_keeps_what_it_names_and_what_the_run_made() -> None:
    artifacts = [
        make("steps/load/1"),
        make("steps/fine-tune/2"),
        make("checkpoints/7/100"),
        make("checkpoints/7/200"),
        make("checkpoints/8/100"),
        make("checkpoints/70/100"),
        make("steps/tokenize/3", made_by="run"),
    ]
    content = {"keys": ["steps/load/1", "steps/fine-tune/8", "checkpoints/7"], "refreshed_s": 300}
    alive = find_roots([], {"run": Mark(content, MARK_LIMIT_S)})
    assert keys(plan_deletions(artifacts, alive, NONE_YOUNG)) == ["steps/fine-tune/2", "checkpoints/70/100"]
    dead = {"run": Mark(content, MARK_LIMIT_S + 1)}
    assert len(plan_deletions(artifacts, find_roots([], dead), NONE_YOUNG)) == len(artifacts)
    assert keys(dead_marks(dead | {"other": Mark(content, 5)})) == ["run"]


def test_a_checkpoint_bears_the_name_of_its_steps_model() -> None:
    artifacts = [make("runs/a", "steps/fine-tune/7", name="news"), make("steps/fine-tune/7"), make("checkpoints/7/100")]
    plan = plan_deletions(artifacts, Roots(), Retention(keep=1))
    assert [(one.what, one.key, one.name) for one in plan] == [("checkpoint", "checkpoints/7/100", "news")]


def test_what_lies_deeper_or_elsewhere_is_not_deleted_nor_the_folder_around_it() -> None:
    artifacts = [make("steps"), make("steps/load/1/inner"), make("steps/load/1"), make("runs/a/b"), make("other/a", "specs/1")]
    artifacts += [make("specs/1"), make("specs/2")]
    assert keys(plan_deletions(artifacts, Roots(), NONE_YOUNG)) == ["specs/2"]


def test_rings_go_as_a_whole() -> None:
    artifacts = [make("steps/a/1", "steps/a/2"), make("steps/a/2", "steps/a/1", "steps/a/2"), make("runs/a", "steps/a/2")]
    plan = keys(plan_deletions(artifacts, Roots(), NONE_YOUNG))
    assert plan[0] == "runs/a"
    assert sorted(plan) == ["runs/a", "steps/a/1", "steps/a/2"]
