"""The command `devices`: say where this machine would compute, and in which precision."""

from typing import Any

import torch

from tasks.compute.channel import Channel
from tasks.compute.models import Hardware, share_of_cores


def devices(channel: Channel, *, device: str, precision: str, processes: int) -> dict[str, Any]:
    """Resolve a config's `device` and `precision`, for so many processes, as `evaluate` and `train` do.

    Returns:
        `device` and `precision` as chosen; `name` of the device; `memory`, the bytes of a CUDA device, else None.

    Raises:
        ConfigError: the device is not there, not as often as there are processes, or cannot compute in that precision.
    """
    hardware = Hardware.choose(device, precision, processes)
    name, memory = f"{share_of_cores(1)} cores", None
    if hardware.device == "cuda":
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    elif hardware.device == "mps":
        name = "Apple GPU"
    return {"device": hardware.device, "precision": hardware.precision, "name": name, "memory": memory}
