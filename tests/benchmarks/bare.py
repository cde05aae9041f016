"""An experiment's steps as a script without Prefect: `python -m tests.benchmarks.bare KIND [--store FOLDER] [settings]`.

Prefect's modules are replaced by stand-ins, of which decorators return what they decorate and all else does nothing. What remains
is what the project does itself: the same steps, store, compute process and report. See `orchestration.py`.
"""

import functools
import importlib.abc
import importlib.machinery
import logging
import sys
import uuid
from types import ModuleType, SimpleNamespace
from typing import Any


class State:
    """What a step returns that the store had."""

    def __init__(self, data: Any = None, **_: Any) -> None:
        self.data = data

    def __class_getitem__(cls, _: Any) -> type:
        return cls

    def result(self) -> Any:
        """Return what it holds."""
        return self.data


def _decorator(function: Any = None, **_: Any) -> Any:
    return function if function is not None else _decorator


def _nothing(*_: Any, **__: Any) -> None:
    return None


_NAMES: dict[str, Any] = {
    "flow": _decorator,
    "task": _decorator,
    "State": State,
    "Completed": State,
    "get_run_logger": functools.partial(logging.getLogger, "bare"),
    "flow_run": SimpleNamespace(id=uuid.uuid4(), name="bare", flow_name="bare"),
    "deployment": SimpleNamespace(id=None, name=None),
}


def _stand_in(name: str) -> Any:
    if name in _NAMES:
        return _NAMES[name]
    if name.startswith("__"):
        raise AttributeError(name)
    if name[0].islower():
        return _nothing
    if name == "Block":
        from pydantic import BaseModel

        return BaseModel
    bases = (
        (BaseException,) if name == "TerminationSignal" else (Exception,) if name.endswith(("Error", "Abort", "Found")) else ()
    )
    return type(name, bases, {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return (
            importlib.machinery.ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] == "prefect" else None
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        made: dict[str, Any] = {}
        vars(module)["__getattr__"] = lambda name: made.setdefault(name, _stand_in(name))


def without_prefect() -> None:
    """Put stand-ins in the place of Prefect's modules; to be called before the project's are imported."""
    sys.meta_path.insert(0, _StandIns())


def main() -> None:
    """Run the experiment and print the primary metric."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    without_prefect()
    from flows.arguments import parse_run
    from flows.pipeline import run_experiment
    from tasks.kinds import load_kind
    from tasks.preflight import preflight

    kind, *settings = sys.argv[1:]
    config, _ = parse_run(load_kind(kind), settings)
    preflight(kind, config)
    report = run_experiment(kind, config)
    sys.stdout.write(f"{report.primary_metric} {report.after[report.primary_metric]:.4f}\n")


if __name__ == "__main__":
    main()
