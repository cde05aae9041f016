"""The step decorator: a Prefect task whose result is an artifact in the store, found again by the digest of all it depends on."""

import ast
import functools
import hashlib
import importlib
import inspect
import json
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, SerializeAsAny

from blocks.artifact_store import ArtifactStore, open_store
from blocks.errors import StoreUnavailable
from tasks.alive import says_it_uses
from tasks.config import ExperimentConfig
from tasks.errors import ComputeLost, HubUnavailable, TrainingStopped
from tasks.kinds import load_kind
from tasks.kinds.kind import Kind
from tasks.records import Inputs, Record
from tasks.text import one_line

AnyRecord = TypeVar("AnyRecord", bound=Record)

# Modules that move, name or report things but compute nothing: a change to them leaves every artifact valid.
_PLUMBING = (
    "tasks.config",
    "tasks.parsing",
    "tasks.records",
    "tasks.errors",
    "tasks.steps",
    "tasks.preflight",
    "tasks.compute.client",
    "tasks.checkpoints",
    "tasks.alive",
    "tasks.champions",
    "tasks.kinds",
)
LIBRARIES = ("torch", "transformers", "tokenizers", "peft")
RETRY_DELAYS_S = [2.0, 10.0, 30.0]
_PASSING = (StoreUnavailable, HubUnavailable, ComputeLost, TrainingStopped, ConnectionError, TimeoutError)


class Run(BaseModel):
    """What every step of a run is given: the kind's name, the configuration and the pinned inputs."""

    model_config = ConfigDict(frozen=True)

    kind_name: str
    config: SerializeAsAny[ExperimentConfig]
    inputs: Inputs
    id: str = ""
    """Id of the flow run; what it publishes says so."""
    name: str = ""
    """Name of the flow run."""
    refresh: bool = False
    """Compute every step anew, whatever the store has; but not again what this very run has made, in an attempt before this."""

    @property
    def kind(self) -> Kind:
        """The kind, with all settings; within a step see `Step.kind`."""
        return load_kind(self.kind_name)(self.config)

    @functools.cached_property
    def store(self) -> ArtifactStore:
        """The store."""
        return open_store(self.config.store)


class Step(Generic[AnyRecord]):
    """A Prefect task `(run, **inputs) -> record` whose result is an artifact in the store; see `step`."""

    def __init__(self, function: Callable[..., AnyRecord], name: str, reads: tuple[str, ...], modules: tuple[str, ...]) -> None:
        self.name, self.reads, self.modules = name, reads, modules
        self.record_class: type[AnyRecord] = inspect.signature(function).return_annotation
        self._function = function
        self._task = task(name=name, task_run_name=name, description=function.__doc__, **TASK_OPTIONS)(self._run)

    def __call__(self, run: Run, **inputs: Any) -> AnyRecord:
        """Return the record, of the artifact in the store or of one made now."""
        found: Any = self._task(run, **inputs)
        # A task that ends in a state of its own making returns that state.
        return cast(AnyRecord, found.result() if isinstance(found, State) else found)

    def key(self, run: Run, **inputs: Any) -> str:
        """Return the key of what the step would make."""
        return step_key(self.name, self.reads, self.modules, run, inputs)

    def settings(self, run: Run) -> dict[str, Any]:
        """Return the settings that the step reads, nested as in the configuration."""
        found: dict[str, Any] = {}
        for name, value in _read(_settings(run), _prefixes(self.name, self.reads, run.kind_name)).items():
            if name != "kind" and not name.startswith("inputs."):
                *groups, field = name.split(".")
                functools.reduce(lambda group, name: group.setdefault(name, {}), groups, found)[field] = value
        return found

    def kind(self, run: Run, labels: Iterable[str] = ()) -> Kind:
        """Return the kind with the settings that the step reads; all others have their defaults, so that they cannot matter."""
        kind = load_kind(run.kind_name)
        return kind(kind.config_class.model_validate(self.settings(run)), tuple(labels))

    def find(self, run: Run, **inputs: Any) -> AnyRecord | None:
        """Return the record if the store has the artifact whole, and the run may use it."""
        found = run.store.inspect(self.key(run, **inputs))
        if found is None or (run.refresh and not (run.id and found.made_by == run.id)):
            return None
        return self.record_class.model_validate(found.record)

    def _run(self, run: Run, **inputs: Any) -> AnyRecord | State[AnyRecord]:
        key = self.key(run, **inputs)
        says_it_uses(key)
        if (found := self.find(run, **inputs)) is not None:
            return cast("State[AnyRecord]", Completed(name="Cached", data=found))
        with tempfile.TemporaryDirectory(prefix="finetune-flows-") as folder:
            record = self._function(run, Path(folder), **inputs).model_copy(update={"key": key})
            if run.refresh:
                run.store.delete(key)
            used = [value.key for value in inputs.values() if isinstance(value, Record)]
            run.store.publish(Path(folder), key, record.model_dump(mode="json"), inputs=used, made_by=run.id)
        get_run_logger().info("Published %s", run.store.locate(key))
        return record


def step(name: str, *, reads: Iterable[str], code: Iterable[str] = ()) -> Callable[[Callable[..., AnyRecord]], Step[AnyRecord]]:
    """Make a step of a function `(run, folder, **inputs) -> record` that fills `folder`.

    The step's key is a digest of its code, the settings and pinned inputs that it reads, and the keys of the records among its
    inputs. If the store has the artifact whole, the task ends as *Cached*.

    Args:
        name: The step's and the task run's name.
        reads: Dotted prefixes of the settings that it reads, and of `inputs.data_identity` and `inputs.model_identity`.
        code: Further modules whose code decides the result, with all that they import of `tasks`; the step's own always does.
    """
    return lambda function: Step(function, name, tuple(reads), (function.__module__, *code))


def can_pass(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Tell Prefect whether to retry: faults of networks and disks pass, and training that lost its process resumes."""
    data: Any = state.data
    error = data.exception() if isinstance(data, Future) else data
    if not isinstance(error, BaseException):
        error = state.result(raise_on_failure=False)
    return isinstance(error, _PASSING)


TASK_OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": len(RETRY_DELAYS_S),
    "retry_delay_seconds": RETRY_DELAYS_S,
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": can_pass,
}
"""How every task of a run is retried; Prefect's own caching is off, since the store answers."""


def step_key(name: str, reads: Iterable[str], modules: Iterable[str], run: Run, inputs: dict[str, Any]) -> str:
    """Return the key, `steps/<name>/<digest>`, of what a step would make."""
    parts = {
        "code": code_digest(tuple(sorted({*modules, f"tasks.kinds.{run.kind_name.replace('-', '_')}"}))),
        "libraries": [".".join(version(library).split("+")[0].split(".")[:2]) for library in LIBRARIES],
        "settings": _read(_settings(run), _prefixes(name, tuple(reads), run.kind_name)),
        "inputs": {key: value.key for key, value in inputs.items() if isinstance(value, Record)},
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return f"steps/{name}/{digest[:32]}"


def _prefixes(name: str, reads: tuple[str, ...], kind_name: str) -> tuple[str, ...]:
    """Return the dotted prefixes of the settings that a step reads, with those that the kind reads in it."""
    of_kind = load_kind(kind_name).reads
    steps = [step for step in of_kind if name.startswith(step) or (name == "fine-tune" and step == "evaluate")]
    return (*reads, *(prefix for step in steps for prefix in of_kind[step]))


def _settings(run: Run) -> dict[str, Any]:
    return {
        "kind": run.kind_name,
        **_flatten(run.config.model_dump(mode="json")),
        **_flatten({"inputs": run.inputs.model_dump()}),
    }


def _read(settings: dict[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if f"{key}.".startswith(tuple(f"{prefix}." for prefix in prefixes))}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@functools.cache
def code_digest(modules: tuple[str, ...]) -> str:
    """Return a digest of the syntax trees, without comments and docstrings, of `modules` and all that they import of `tasks`."""
    digest, seen, waiting = hashlib.sha256(), set(), sorted(modules, reverse=True)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path = _path(module)
        if path is None:
            raise ModuleNotFoundError(f"Module {module!r}, named by a step, has no source file.")
        tree = _parse(path.read_bytes())
        waiting.extend(sorted(_imports(tree), reverse=True))
        digest.update(f"{module}\0{ast.dump(_without_docstrings(tree))}\0".encode())
    return digest.hexdigest()


def _parse(source: bytes) -> ast.Module:
    """Parse a module, again where Python says that it went wrong: before 3.11.8 two threads that parse at once upset each other.

    Source: https://github.com/python/cpython/issues/106905
    """
    for _ in range(9):
        with suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


def _imports(tree: ast.AST) -> set[str]:
    """Return the modules of `tasks` that a tree imports, wherever in it, but for plumbing and other kinds."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("tasks.") and name not in _PLUMBING and _path(name)}


@functools.cache
def _path(module: str) -> Path | None:
    """Return the source file of a module; to ask `importlib` would import all packages above it, and with some of them torch."""
    package, *inner = module.split(".")
    for root in importlib.import_module(package).__path__:
        place = Path(root, *inner)
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _is_docstring(item)]  # type: ignore[attr-defined]
    return tree


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def log_info(message: str) -> None:
    """Log a line of a step."""
    get_run_logger().info("%s", one_line(message))


def log_warning(message: str) -> None:
    """Log a warning of a step as one line."""
    get_run_logger().warning("%s", one_line(message))
