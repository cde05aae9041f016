"""Delete what a store no longer needs, or say what that would be: `python -m flows prune`."""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from blocks.artifact_store import ArtifactStore, Manifest, Mark
from flows.arguments import Parser
from flows.console import print_line, print_table, say_age, say_size
from flows.stores import open_named
from tasks.config import ExperimentConfig
from tasks.retention import (
    DAY_S,
    FOLDERS,
    Artifact,
    Deletion,
    Retention,
    Roots,
    dead_marks,
    find_roots,
    is_dead,
    plan_deletions,
    references,
)
from tasks.text import one_line

_DESCRIPTION = """\
Say which runs, steps, checkpoints and specs a store no longer needs, and what dead runs and interrupted publishes left in it. A
run is kept if it is among the newest of its model, or young, or if a pointer refers to it; what a kept artifact, a pointer or a
running run refers to is kept too."""
# A publish that takes longer than this was interrupted.
_LEAVING_AGE_S = DAY_S


def prune(argv: Sequence[str]) -> None:
    """Print what goes, and with `--yes` delete it.

    Raises:
        ConfigError: an unknown flag, a wrong value, or no such store.
        StoreError: the store failed; what was deleted by then is no longer in it, and all else is whole.
    """
    options = _parse(argv)
    retention = Retention(keep=options.keep, older_than_days=options.older_than_days)
    store = open_named(options.store)
    stock = take_stock(store)
    plan = plan_deletions(stock.artifacts, stock.roots, retention)
    planned = [*plan, *dead_marks(stock.marks), *_sweep(store, delete=False)]
    if planned:
        _print_plan(planned)
    deleted = [*delete(store, stock, plan, retention)] if options.yes else []
    total = sum(one.size for one in stock.artifacts)
    print_line(_summary(planned, deleted, len(stock.artifacts), total, yes=options.yes))
    if options.json:
        print_line(json.dumps(_as_json(options.store, planned, deleted, total, yes=options.yes)))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m flows prune", description=_DESCRIPTION)
    default, field = Retention(), ExperimentConfig.model_fields["store"]
    parser.add_argument(
        "--store",
        default=field.default,
        help="a folder, s3://bucket/prefix or block:TYPE/NAME (default: %(default)s)",
    )
    parser.add_argument(
        "--older_than_days",
        type=_days,
        default=default.older_than_days,
        metavar="D",
        help="keep what is younger; 0: age protects nothing (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=_count,
        default=default.keep,
        metavar="N",
        help="keep the N newest runs of each model (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print what goes as one JSON object in the last line")
    parser.add_argument("--yes", action="store_true", help="delete it")
    return parser.parse_args(list(argv))


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days, 0 or more")
    return days


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of runs, 0 or more")
    return int(text)


@dataclass(frozen=True)
class Stock:
    """What a store holds."""

    manifests: Mapping[str, Manifest]
    artifacts: Sequence[Artifact]
    marks: Mapping[str, Mark]
    roots: Roots


def take_stock(store: ArtifactStore) -> Stock:
    """Read all manifests, pointers and marks of a store."""
    # A run that ends meanwhile had its mark at the first look; one that starts meanwhile has it at the second, or its folder is
    # seen after that.
    before = _read_roots(store, store.marks())
    manifests = {key: manifest for folder in FOLDERS if folder != "runs" for key, manifest in store.manifests(folder).items()}
    marks = store.marks()
    manifests |= store.manifests("runs")
    now = datetime.now(UTC)
    artifacts = [_artifact(key, manifest, now) for key, manifest in manifests.items()]
    return Stock(manifests, artifacts, marks, before | _read_roots(store, marks))


def _artifact(key: str, manifest: Manifest, now: datetime) -> Artifact:
    return Artifact(
        key=key,
        age_s=_age_s(manifest.published, now),
        size=manifest.size,
        references=references(manifest.inputs, manifest.record),
        name=one_line(manifest.record.get("name") or "", 100),
        made_by=manifest.made_by,
    )


def _age_s(published: str, now: datetime) -> float:
    try:
        time = datetime.fromisoformat(published)
        return max(0.0, (now - (time if time.tzinfo else time.replace(tzinfo=UTC))).total_seconds())
    except ValueError:
        # Nobody knows its age, so it counts as new.
        return 0.0


def _read_roots(store: ArtifactStore, marks: Mapping[str, Mark]) -> Roots:
    pointers = [store.read_pointer(name) for name in store.list_pointers()]
    return find_roots((pointer.value for pointer in pointers if pointer), marks)


def delete(store: ArtifactStore, stock: Stock, plan: Sequence[Deletion], retention: Retention) -> Iterator[Deletion]:
    """Delete what is planned and the leavings, and yield each when it is gone.

    Kept after all is what a run or a pointer names by now, and what was made anew since the plan.
    """
    roots, keys = stock.roots, {one.key for one in plan}
    for one in plan:
        if not _is_unchanged(store.inspect(one.key), stock.manifests[one.key]):
            continue
        now = roots | _read_roots(store, store.marks())
        if now != roots:
            roots, keys = now, {again.key for again in plan_deletions(stock.artifacts, now, retention)}
        if one.key in keys:
            store.delete(one.key)
            yield one
    for one in dead_marks(stock.marks):
        mark = store.marks().get(one.key)
        if mark and is_dead(mark):
            store.unmark(one.key)
            yield one
    yield from _sweep(store, delete=True)


def _is_unchanged(now: Manifest | None, then: Manifest) -> bool:
    """Tell whether an artifact is still there, and is the one of the plan."""
    return now is not None and (now.files, now.made_by) == (then.files, then.made_by) and now.published in ("", then.published)


def _sweep(store: ArtifactStore, *, delete: bool) -> list[Deletion]:
    return [Deletion("leaving", one, "left by an interrupted publish") for one in store.sweep(_LEAVING_AGE_S, delete=delete)]


def _print_plan(planned: Sequence[Deletion]) -> None:
    rows = [(one.what, one_line(one.key, 1000), say_age(one.age_s), say_size(one.size), one.name or "-") for one in planned]
    print_table(("what", "key", "age", "size", "model"), rows)


def _summary(planned: Sequence[Deletion], deleted: Sequence[Deletion], count: int, total: int, *, yes: bool) -> str:
    if not planned:
        return f"Nothing to delete: {count} artifacts, {say_size(total)}, are kept."
    told = deleted if yes else planned
    size = f"{say_size(sum(one.size or 0 for one in told))} of {say_size(total)}"
    if not yes:
        return f"{_count_all(told)} can go, {size}; nothing was deleted; add --yes."
    left = len({one.key for one in planned} - {one.key for one in deleted})
    after = f" {left} of the plan left out: gone already, made anew, or named by a run or a pointer by now." if left else ""
    return f"Deleted {_count_all(told) or 'nothing'}, {size}.{after}"


def _count_all(deletions: Sequence[Deletion]) -> str:
    kinds = [one.what for one in deletions]
    return ", ".join(f"{(n := kinds.count(kind))} {kind}{'s' if n > 1 else ''}" for kind in dict.fromkeys(kinds))


def _as_json(address: str, planned: Sequence[Deletion], deleted: Sequence[Deletion], total: int, *, yes: bool) -> dict[str, Any]:
    """Return lists of what was deleted, or would be; `left_out` has the keys of the plan that were not deleted after all."""
    told = deleted if yes else planned
    gone = {one.key for one in deleted}
    return {
        "store": address,
        "deleted": yes,
        **{f"{what}s": [asdict(one) for one in told if one.what == what] for what in (*FOLDERS.values(), "mark", "leaving")},
        "left_out": [one.key for one in planned if one.key not in gone] if yes else [],
        "bytes": sum(one.size or 0 for one in told),
        "total_bytes": total,
    }
