"""Whether the installed packages are those that the project's own metadata asks for."""

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flows.doctor.findings import Finding

_PROJECT = "finetune-flows"
_NAME = "versions"
_TOLD = ("prefect", "torch", "transformers", "datasets", "pydantic", "fastapi", "boto3")


def check_versions() -> Iterator[Finding]:
    """Compare Python and every package with the bounds of the installed project."""
    try:
        project = metadata.distribution(_PROJECT)
    except metadata.PackageNotFoundError:
        yield Finding("warn", _NAME, f"{_PROJECT} is not installed, so no bounds are known", "pip install -c constraints.txt .")
        return
    pythons = SpecifierSet(project.metadata["Requires-Python"] or "")
    yield from compare(map(Requirement, project.requires or ()), pythons, installed_version)


def installed_version(package: str) -> str | None:
    """Return a package's version, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def compare(requirements: Iterable[Requirement], pythons: SpecifierSet, version_of: Callable[[str], str | None]) -> list[Finding]:
    """Return one finding per version out of its bounds, or one that tells the versions; extras are not needed for a run."""
    requirements = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    python = platform.python_version()
    versions = {one.name: version_of(one.name) for one in requirements}
    faults = [
        Finding("FAIL", _NAME, _fault(one.name, versions[one.name], one.specifier), f"pip install '{one.name}{one.specifier}'")
        for one in requirements
        if not _is_within(versions[one.name], one.specifier)
    ]
    if not _is_within(python, pythons):
        remedy = "make a virtual environment with another Python"
        faults.insert(0, Finding("FAIL", _NAME, _fault("Python", python, pythons), remedy))
    told = [f"{name} {versions[name]}" for name in _TOLD if versions.get(name)]
    rest = f"and {len(versions) - len(told)} more packages"
    return faults or [Finding("ok", _NAME, f"within their bounds: {', '.join([f'Python {python}', *told, rest])}")]


def _fault(name: str, version: str | None, bounds: SpecifierSet) -> str:
    return f"{name} is missing; {bounds} is needed" if version is None else f"{name} {version} is out of its bounds, {bounds}"


def _is_within(version: str | None, bounds: SpecifierSet) -> bool:
    return version is not None and bounds.contains(version, prereleases=True)
