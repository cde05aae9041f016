"""The house rules: which module may import which, what is imported when, and names that would shadow libraries."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("flows", "tasks", "blocks")
HEAVY = {"torch", "transformers", "evaluate"}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


class Import(NamedTuple):
    """One import of a module; `place` is `module`, `function` or `typing` (under TYPE_CHECKING)."""

    name: str
    place: str


def imports(node: ast.AST, package: str, place: str = "module") -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, place) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
        module = ".".join(part for part in (base, node.module) if part)
        yield from (Import(f"{module}.{alias.name}", place) for alias in node.names)
    elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.body:
            yield from imports(child, package, "typing" if place == "module" else place)
        for child in node.orelse:
            yield from imports(child, package, place)
    else:
        inside = "function" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) else place
        for child in ast.iter_child_nodes(node):
            yield from imports(child, package, inside)


def imports_of(path: Path) -> list[Import]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return list(imports(ast.parse(path.read_bytes()), package))


def is_under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def breaches(path: Path, *forbidden: str) -> list[str]:
    return [found.name for found in imports_of(path) if is_under(found.name, *forbidden)]


def module_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_are_seen_wherever_they_are() -> None:
    source = """
import a
from b import c
from . import d
from ..e import f
if TYPE_CHECKING:
    import g
else:
    import h
class K:
    import i
    async def m(self):
        try:
            from j import k
        finally:
            pass
"""
    assert set(imports(ast.parse(source), "p.q")) == {
        *(Import(name, "module") for name in ("a", "b.c", "p.q.d", "p.e.f", "h", "i")),
        Import("g", "typing"),
        Import("j.k", "function"),
    }


def test_all_packages_are_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_imports_go_one_way(path: Path) -> None:
    above = {"flows": (), "tasks": ("flows",), "blocks": ("flows", "tasks")}[path.relative_to(ROOT).parts[0]]
    assert breaches(path, *above) == []
    assert breaches(path, "tests") == []


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_no_import_is_relative(path: Path) -> None:
    # A step's key covers the modules that its code imports by their full names.
    nodes = ast.walk(ast.parse(path.read_bytes()))
    assert [ast.unparse(node) for node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


@pytest.mark.parametrize("path", sorted((ROOT / "tasks" / "kinds").glob("*.py")), ids=module_id)
def test_no_kind_imports_another(path: Path) -> None:
    found = [found.name for found in imports_of(path) if is_under(found.name, "tasks.kinds")]
    assert [name for name in found if not is_under(name, "tasks.kinds.kind")] == []


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_heavy_libraries_are_imported_at_the_top_in_the_compute_process_only(path: Path) -> None:
    if is_under(".".join(path.relative_to(ROOT).parts), "tasks.compute"):
        return
    heavy = [found for found in imports_of(path) if is_under(found.name, *HEAVY)]
    assert [found.name for found in heavy if found.place == "module"] == []


@pytest.mark.parametrize("path", sorted((ROOT / "blocks").rglob("*.py")), ids=module_id)
def test_blocks_know_nothing_of_machine_learning(path: Path) -> None:
    assert breaches(path, *HEAVY, "datasets", "tokenizers", "huggingface_hub", "numpy", "pandas") == []


@pytest.mark.parametrize("name", ["evaluate", "datasets", "tasks", "blocks", "tokenizers"])
def test_no_flow_file_shadows_a_library(name: str) -> None:
    # A file entrypoint puts the file's folder first on `sys.path`.
    assert not (ROOT / "flows" / f"{name}.py").exists()
    assert not (ROOT / "flows" / name).exists()


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after `code`."""
    report = "import json, sys; sys.stderr.write(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    script = f"try:\n    {code}\nfinally:\n    {report}"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(ended.stderr))


@pytest.mark.parametrize("module", ["tasks.preflight", "tasks.config", "tasks.parsing", "flows.arguments"])
def test_what_runs_before_prefect_is_light(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module.partition(".")[0] in loaded
    assert loaded & {*HEAVY, "prefect", "datasets", "sklearn"} == set()


def test_what_baselines_need_is_loaded_where_they_are_made() -> None:
    assert loaded_by("import tasks.baselines.run") & {*HEAVY, "datasets", "sklearn"} == set()


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_loads_nothing_but_the_standard_library(flag: str) -> None:
    run = "runpy.run_module('flows', run_name='__main__')"
    loaded = loaded_by(f"import runpy, sys; sys.argv = ['flows', '{flag}']; {run}")
    assert "flows" in loaded
    assert loaded & {*HEAVY, "prefect", "pydantic", "numpy", "rich", "yaml", "tasks", "blocks"} == set()
