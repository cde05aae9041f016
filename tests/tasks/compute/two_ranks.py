"""Several trainings in two processes, one after another: starting two that import torch takes longer than training tiny models.

As a program, which torch's launcher starts twice, it takes a folder with `runs.json`, a list of arguments of `train`.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.tasks.compute.commands import events


class Told(NamedTuple):
    """What one process answered, or the error that it raised, and what it sent in one training."""

    answer: dict[str, Any]
    events: list[dict[str, Any]]


def train_in_two(folder: Path, runs: dict[str, dict[str, Any]]) -> dict[str, tuple[Told, Told]]:
    """Train each of `runs`, arguments of `train` by a name, in two processes; return what both told of each.

    With `stop_after`, [rank, times], that process alone is asked to stop, when it has looked so many times whether it is.
    """
    (folder / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--log-dir", str(folder)]
    subprocess.run([*launcher, "-m", "tests.tasks.compute.two_ranks", str(folder)], check=True, timeout=150)
    both = [json.loads((folder / f"told-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    return {name: (Told(*both[0][name]), Told(*both[1][name])) for name in runs}


def main(folder: Path) -> None:
    import torch
    from transformers import PreTrainedModel

    from tasks.compute.channel import Channel
    from tasks.compute.process import describe, die_with_parent
    from tasks.compute.train import train

    class Stops(Channel):
        left = 10**9

        @property
        def stop_requested(self) -> bool:
            self.left -= 1
            return self.left < 0

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("only the first process saves")

    die_with_parent(os.getppid())
    rank, told = int(os.environ["RANK"]), {}
    if rank > 0:
        PreTrainedModel.save_pretrained = refuse
    for name, arguments in json.loads((folder / "runs.json").read_text(encoding="utf-8")).items():
        stream = io.StringIO()
        channel = Stops(stream)
        stops, times = arguments.pop("stop_after", (None, 0))
        if stops == rank:
            channel.left = times
        try:
            answer = train(channel, **arguments) | {"threads": torch.get_num_threads()}
        except Exception as error:
            answer = describe(error)
        told[name] = (answer, events(stream))
    (folder / f"told-{rank}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
