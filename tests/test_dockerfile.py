"""Tests of the Dockerfile, as far as they go without building it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
# One instruction each: comments gone, continued lines joined.
STEPS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line.strip()
]


def steps(instruction: str) -> list[str]:
    return [value for name, value in STEPS if name == instruction]


def copied() -> list[str]:
    return [source for step in steps("COPY") for source in step.split()[:-1]]


def test_what_is_copied_is_there_and_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    let_through = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert let_through == set(copied())
    assert [name for name in copied() if not (ROOT / name).exists()] == []


def test_the_project_is_whole() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == {"blocks", "flows", "tasks"}
    files = {"pyproject.toml", "constraints.txt", PROJECT["readme"], *PROJECT["license-files"]}
    assert set(copied()) == packages | files


def test_python_is_one_that_the_project_takes() -> None:
    (base,) = steps("ARG")
    image, _, version = base.removeprefix("BASE=").partition(":")
    assert steps("FROM") == ["${BASE}"]
    assert image == "python"
    assert f"{version.partition('-')[0]}.0" in SpecifierSet(PROJECT["requires-python"])
    # The constraints were made with this one.
    assert f"Python {version.partition('-')[0]} " in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[0]


def test_the_user_is_a_number_and_not_root() -> None:
    (user,) = steps("USER")
    uid, gid = user.split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    (made,) = [step for step in steps("RUN") if "useradd" in step]
    assert f"--uid {uid} " in made
    assert f"--gid {gid} " in made
    # Nothing is installed as that user, so nothing that runs can change the code.
    assert [name for name, _ in STEPS][STEPS.index(["USER", user]) :].count("RUN") == 0


def test_dependencies_come_before_the_code() -> None:
    lines = [" ".join(step) for step in STEPS]
    install = next(number for number, line in enumerate(lines) if "-r requirements.txt" in line)
    assert "-c constraints.txt" in lines[install]
    assert all(number > install for number, line in enumerate(lines) if line.startswith("COPY") and "pyproject" not in line)


def test_the_requirements_are_the_projects(tmp_path: Path) -> None:
    (step,) = [step for step in steps("RUN") if "requirements.txt" in step]
    found = re.match(r'python -c "(.*)" > requirements.txt ', step)
    assert found
    # As the shell would read it inside of double quotes.
    script = found[1].replace("\\\\", "\\")
    printed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [Requirement(line) for line in printed.splitlines()] == [Requirement(line) for line in PROJECT["dependencies"]]


@pytest.mark.parametrize("instruction", ["ENTRYPOINT", "CMD"])
def test_signals_reach_the_command(instruction: str) -> None:
    # A shell in between would keep them.
    (step,) = steps(instruction)
    assert step.startswith("[")
