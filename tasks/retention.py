"""Which artifacts may go: a pure function from what a store holds to what to delete, in which order and why.

Kept are the newest runs of each model, what is young, what pointers and living runs name, and all that these refer to, over any
number of steps. Everything else goes, referrers before what they refer to: wherever a prune is cut off, no artifact that is left
refers to one that it deleted.
"""

import heapq
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from blocks.manifest import Record
from blocks.pointers import Mark

FOLDERS = {"runs": "run", "steps": "step", "checkpoints": "checkpoint", "specs": "spec"}
"""Folder of a store to what an artifact in it is; runs go first."""
_DEPTHS = {"runs": 2, "steps": 3, "checkpoints": 3, "specs": 2}
MARK_LIMIT_S = 3600.0
"""Age from which a mark belongs to a run that died: one that is alive writes its mark again every few minutes."""
DAY_S = 86_400.0

_PART = "[A-Za-z0-9_][A-Za-z0-9_.=-]*"
# Overlapping ones too, since the store itself may lie in a folder such as `runs`.
_REFERENCE = re.compile(rf"(?<![A-Za-z0-9_.=-])(?=((?:{'|'.join(FOLDERS)})(?:/{_PART})+))")
_STEP = re.compile(rf"steps/{_PART}/({_PART})")


@dataclass(frozen=True)
class Retention:
    """What to keep beside what is referred to: the `keep` newest runs of each model, and what is younger than so many days."""

    keep: int = 10
    older_than_days: float = 30


@dataclass(frozen=True)
class Artifact:
    """What is known of an artifact."""

    key: str
    age_s: float
    size: int
    """Bytes."""
    references: frozenset[str] = frozenset()
    """Keys, or their beginnings, that it names; see `references`."""
    name: str = ""
    """Name of the model, of a run."""
    made_by: str = ""
    """Id of the run that made it."""

    @property
    def folder(self) -> str:
        """Return the first part of the key."""
        return self.key.partition("/")[0]

    @property
    def is_in_place(self) -> bool:
        """Tell whether the key is as deep as the project's are; whatever else lies in the store is not ours to delete."""
        return _DEPTHS.get(self.folder) == self.key.count("/") + 1


@dataclass(frozen=True)
class Roots:
    """What pointers and living runs name. Several looks at a store add up: what was named once is kept until the prune ends."""

    named: frozenset[str] = frozenset()
    """Keys, or their beginnings."""
    running: frozenset[str] = frozenset()
    """Ids of the runs that are alive."""

    def __or__(self, other: "Roots") -> "Roots":
        return Roots(self.named | other.named, self.running | other.running)


@dataclass(frozen=True)
class Deletion:
    """What goes, and why."""

    what: str
    """`run`, `step`, `checkpoint`, `spec`, `mark` or `leaving`."""
    key: str
    """Key of an artifact, name of a mark, address of a leaving."""
    reason: str
    age_s: float | None = None
    size: int | None = None
    """Bytes; None where it does not count."""
    name: str = ""
    """Names of the models whose runs lead to it."""


def references(*values: Any) -> frozenset[str]:
    """Return whatever looks like a key of an artifact, or begins with one, in the strings at any depth of `values`.

    Addresses and paths of files count by what they end in: `s3://bucket/steps/a/1/model` names `steps/a/1`.
    """
    found: set[str] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            for match in _REFERENCE.finditer(value):
                # A sentence may end with it.
                found |= {match[1], match[1].rstrip(".")}
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, Iterable):
            waiting += value
    return frozenset(found)


def find_roots(pointers: Iterable[Record], marks: Mapping[str, Mark]) -> Roots:
    """Return what is named by pointers and by the marks of runs that are alive.

    A step that is being made owns the checkpoints of the same digest.
    """
    alive = {name: mark.content for name, mark in marks.items() if not is_dead(mark)}
    named = references(*alive.values())
    owned = {f"checkpoints/{match[1]}" for text in named if (match := _STEP.match(text))}
    return Roots(references(*pointers) | named | owned, frozenset(alive))


def is_dead(mark: Mark) -> bool:
    """Tell whether the run of a mark died without taking it away."""
    return mark.age_s > MARK_LIMIT_S


def dead_marks(marks: Mapping[str, Mark]) -> list[Deletion]:
    """Return the marks to take away."""
    reason = f"its run has not refreshed it for {MARK_LIMIT_S / 60:.0f} minutes or more"
    return [Deletion("mark", name, reason, mark.age_s) for name, mark in sorted(marks.items()) if is_dead(mark)]


def plan_deletions(artifacts: Collection[Artifact], roots: Roots, retention: Retention) -> list[Deletion]:
    """Return the artifacts to delete, in the order in which to delete them."""
    graph = _Graph(artifacts)
    runs = _newest_first(artifacts)
    kept = {run.key for several in runs.values() for run in several[: retention.keep]}
    kept |= {
        one.key
        for one in artifacts
        if not one.is_in_place or one.age_s < retention.older_than_days * DAY_S or one.made_by in roots.running
    }
    kept = graph.reachable(kept | graph.resolve(roots.named))
    names = {name: graph.reachable(run.key for run in several) for name, several in runs.items()}
    reason = f"older than {retention.older_than_days:g} days, and nothing that is kept refers to it"
    reasons = {"runs": f"not among the {retention.keep} newest runs of its model, {reason}"}
    return [
        Deletion(
            FOLDERS[one.folder],
            one.key,
            reasons.get(one.folder, reason),
            one.age_s,
            one.size,
            ", ".join(sorted(name for name, keys in names.items() if name and keys & {one.key, _owner(one.key)})),
        )
        for one in graph.in_order({one.key for one in artifacts} - kept)
    ]


def _owner(key: str) -> str:
    """Return the key of the step that a checkpoint belongs to; any other key as it is."""
    folder, _, rest = key.partition("/")
    return f"steps/fine-tune/{rest.partition('/')[0]}" if folder == "checkpoints" else key


def _newest_first(artifacts: Iterable[Artifact]) -> Mapping[str, list[Artifact]]:
    """Return the runs of each model."""
    runs: dict[str, list[Artifact]] = defaultdict(list)
    for one in sorted(artifacts, key=lambda one: (one.age_s, one.key)):
        if one.folder == "runs":
            runs[one.name].append(one)
    return runs


class _Graph:
    """Which artifact refers to which."""

    def __init__(self, artifacts: Iterable[Artifact]) -> None:
        self.artifacts = {one.key: one for one in artifacts}
        self._below: dict[str, set[str]] = defaultdict(set)
        for key in self.artifacts:
            for start in _beginnings(key):
                self._below[start].add(key)
        # One that lies in the folder of another would be deleted with it, so it refers to it by its own key.
        self.edges = {key: self.resolve(one.references | {key}) - {key} for key, one in self.artifacts.items()}

    def resolve(self, names: Iterable[str]) -> set[str]:
        """Return the keys of the artifacts that `names` are, begin with or are the beginnings of."""
        found: set[str] = set()
        for name in names:
            found |= self._below.get(name, set())
            found.update(start for start in _beginnings(name) if start in self.artifacts)
        return found

    def reachable(self, keys: Iterable[str]) -> set[str]:
        """Return `keys` and all that they refer to, over any number of steps."""
        seen = set(keys)
        waiting = list(seen)
        while waiting:
            new = self.edges[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    def in_order(self, keys: Collection[str]) -> Iterator[Artifact]:
        """Yield the artifacts of `keys`: referrers first, then by folder, then the oldest first; rings are cut somewhere."""
        left = dict.fromkeys(keys, 0)
        for key in left:
            for other in self.edges[key] & left.keys():
                left[other] += 1
        ranks = list(FOLDERS)
        order = sorted(left, key=lambda key: (ranks.index(self.artifacts[key].folder), -self.artifacts[key].age_s, key))
        places = {key: place for place, key in enumerate(order)}
        ready = [place for place, key in enumerate(order) if not left[key]]
        while left:
            key = order[heapq.heappop(ready)] if ready else next(key for key in order if key in left)
            del left[key]
            yield self.artifacts[key]
            for other in self.edges[key] & left.keys():
                left[other] -= 1
                if not left[other]:
                    heapq.heappush(ready, places[other])


def _beginnings(key: str) -> Iterator[str]:
    """Yield `key` and the folders that it lies in, of two parts or more."""
    parts = key.split("/")
    yield from ("/".join(parts[:depth]) for depth in range(2, len(parts) + 1))
