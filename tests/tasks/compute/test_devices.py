"""The command `devices`, on this machine."""

import io

import pytest
import torch

from tasks.compute.channel import Channel
from tasks.compute.devices import devices
from tasks.compute.models import Hardware
from tasks.errors import ConfigError


def test_it_answers_what_training_would_choose() -> None:
    chosen = Hardware.choose("auto", "auto")
    answer = devices(Channel(io.StringIO()), device="auto", precision="auto", processes=1)
    assert (answer["device"], answer["precision"]) == (chosen.device, chosen.precision)
    assert answer["name"]
    assert (answer["memory"] is not None) == (chosen.device == "cuda")


def test_processes_without_a_device_each_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"^training.processes is 2, but 1 GPU is there; set it to 1"):
        devices(Channel(io.StringIO()), device="cuda", precision="bf16", processes=2)
