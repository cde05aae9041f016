"""Errors of the steps.

FlowsError
├── InputError             what the user gave is wrong: exit code 2, never retried
│   ├── ConfigError        a setting
│   ├── DataError          the dataset
│   └── ModelError         the model's files
└── RunError               the run failed: exit code 1
    ├── HubUnavailable     the Hugging Face Hub does not answer: retried
    ├── ComputeFailed      the compute process raised or spoke nonsense
    │   └── ComputeLost    the compute process died: retried, training resumes
    ├── CheckpointUnusable a checkpoint cannot be loaded: the one before it is tried
    ├── OutOfMemory        training does not fit into memory: tried once more with smaller parts of a batch
    ├── TrainingStopped    training ended before its planned end: retried, training resumes
    ├── Preempted          the run was asked to stop: it goes on when it is started again
    ├── TrainingDiverged   the loss is NaN or infinite
    └── TimeLimitExceeded  training took longer than training.time_limit_s
"""


class FlowsError(Exception):
    """Any error that the project raises on purpose; its message is one line."""


class InputError(FlowsError):
    """What the user gave is wrong; trying again cannot help."""


class ConfigError(InputError):
    """A setting is unknown, out of bounds or does not fit the others."""


class DataError(InputError):
    """The dataset is missing, malformed or unfit for the task."""


class ModelError(InputError):
    """The model's files are missing or of a kind that is not allowed."""


class RunError(FlowsError):
    """The run failed though its input was right."""


class HubUnavailable(RunError):
    """The Hugging Face Hub could not be reached; trying again may help."""


class ComputeFailed(RunError):
    """The compute process raised an error or broke its protocol."""


class ComputeLost(ComputeFailed):
    """The compute process died, or was killed by the system or by somebody."""


class CheckpointUnusable(RunError):
    """A checkpoint's files cannot be loaded."""


class OutOfMemory(RunError):
    """The rows that are computed at once do not fit into the device's memory."""


class Preempted(RunError):
    """The run was asked to stop by a signal, and stopped in an orderly way; nothing that was done is lost."""


class TrainingStopped(RunError):
    """Training ended before its planned end, so its model is not a result."""


class TrainingDiverged(RunError):
    """The training loss became NaN or infinite."""


class TimeLimitExceeded(RunError):
    """Training took longer than its time limit and was ended."""
