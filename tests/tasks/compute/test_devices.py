"""The command `devices`, on this machine."""

import io

from tasks.compute.channel import Channel
from tasks.compute.devices import devices
from tasks.compute.models import Hardware


def test_it_answers_what_training_would_choose() -> None:
    chosen = Hardware.choose("auto", "auto")
    answer = devices(Channel(io.StringIO()), device="auto", precision="auto")
    assert (answer["device"], answer["precision"]) == (chosen.device, chosen.precision)
    assert answer["name"]
    assert (answer["memory"] is not None) == (chosen.device == "cuda")
