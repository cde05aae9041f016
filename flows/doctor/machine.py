"""This machine: where it would compute, and the room on its disks."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.console import say_size
from flows.doctor.findings import Finding, Status
from tasks.compute.client import ComputeProcess, Event
from tasks.config import ExperimentConfig, TrainingSettings

DEVICES_LIMIT_S = 120.0
"""Seconds for the compute process to import torch and look: with cold disks that alone takes half a minute."""

_GB = 10**9
# The quickstart's model has 91 MB: two checkpoints with the optimizer's two moments, a third on its way into the store, the
# trained model, predictions and a fetched copy come to about 1 GB. Half of the room for whatever else happens on the disk.
_TOO_LITTLE = 2 * _GB
# The same for bert-base-uncased, 440 MB, is about 5 GB.
_LITTLE = 10 * _GB


def check_devices(config: ExperimentConfig) -> Iterator[Finding]:
    """Ask the compute process, which alone imports torch, where it would compute."""
    here = config.gpu_deployment is None
    training = config.training if here else TrainingSettings()
    wanted = {name: getattr(training, name) for name in ("device", "precision", "processes")}
    warnings: list[str] = []

    def listen(event: Event) -> None:
        # An old driver makes torch compute on the CPU, and this is all that it says.
        if event["event"] == "log" and "CUDA" in event["message"]:
            warnings.append(event["message"])

    with ComputeProcess() as compute:
        answer = compute.request("devices", wanted, on_event=listen, time_limit_s=DEVICES_LIMIT_S)
    place = "" if here else f"; evaluating and training run where {config.gpu_deployment!r} runs"
    yield Finding("ok", "device", f"{describe(answer)}{place}")
    for warning in warnings:
        yield Finding("warn", "device", warning, "check the GPU's driver")


def describe(answer: dict[str, Any]) -> str:
    """Return what the compute process answered, as a person says it."""
    memory = f", {say_size(answer['memory'])}" if answer["memory"] else ""
    return f"{answer['device']} ({answer['name']}{memory}), {answer['precision']}"


def check_disk(what: str, find: Callable[[], Path], setting: str, worst: Status = "FAIL") -> Iterator[Finding]:
    """Look how much room there is in a folder, which need not be there yet.

    Args:
        what: What the folder is for.
        find: Returns the folder.
        setting: What to set to have another one.
        worst: The status where there is next to no room.
    """
    folder = find()
    free = _free(folder)
    status: Status = worst if free < _TOO_LITTLE else "warn" if free < _LITTLE else "ok"
    remedy = "" if status == "ok" else f"free some space, or set {setting} to a folder on another disk"
    yield Finding(status, f"disk ({what})", f"{say_size(free)} free for {folder}", remedy)


def _free(folder: Path) -> int:
    for path in (folder, *folder.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            return shutil.disk_usage(path).free
    raise FileNotFoundError(f"no folder {str(folder)!r}, nor any above it")
