"""The processes of one training: which of them this is, and what they tell each other."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed

from tasks.compute.models import Hardware
from tasks.kinds.kind import Array


@dataclass(frozen=True)
class Ranks:
    """The processes that train together; by default this one alone. Each of them must come to each exchange."""

    rank: int = 0
    """This process's number, from 0; the first speaks, saves and is answered."""
    count: int = 1
    """How many they are."""
    group: Any = None
    """Exchanges on the CPU, also where gradients go from GPU to GPU: those a GPU would have to be waited for."""

    @classmethod
    def join(cls, hardware: Hardware) -> "Ranks":
        """Wait for the other processes, which torch's launcher has started; take the device of this one's number."""
        if hardware.processes == 1:
            return cls()
        rank = int(os.environ["RANK"])
        if hardware.device == "cuda":
            torch.cuda.set_device(rank)
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(hardware.backend)
        return cls(rank, torch.distributed.get_world_size(), torch.distributed.new_group(backend="gloo"))

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks and saves."""
        return self.rank == 0

    def sum(self, values: Array) -> Array:
        """Return the sum over all processes, in float64 and the same to the last bit everywhere."""
        total = torch.tensor(np.asarray(values), dtype=torch.float64)
        if self.count > 1:
            torch.distributed.all_reduce(total, group=self.group)
        found: Array = total.numpy()
        return found

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set anywhere."""
        return flag if self.count == 1 else bool(self.sum(np.array(flag)) > 0)

    def wait(self) -> None:
        """Wait until all have come here."""
        self.any(False)

    def of_first(self, text: str) -> str:
        """Return what the first process passed."""
        shared = [text]
        if self.count > 1:
            torch.distributed.broadcast_object_list(shared, src=0, group=self.group)
        return shared[0]
