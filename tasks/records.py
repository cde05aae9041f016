"""The records that pass between tasks: references into the store and scores, never tensors or rows."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.text import slug

Split = Literal["train", "validation", "test"]
Head = Literal["fresh", "pretrained", "trained", "warm-started", "made", "none"]
"""Where a model's task head came from: freshly initialised, from the model's files, or from training; or the model as a whole was
made: out of one of another kind (a decoder out of an encoder), or small and at random, on the spot. A baseline has `none`."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Record(BaseModel):
    """A frozen record; `key` is where the store keeps the artifact that it describes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    key: str = ""
    """Key in the store; filled in by the step that publishes the artifact."""


class Inputs(Record):
    """What a run starts from, pinned: the identities of the bytes behind `data.source` and `model.name`."""

    data_identity: str
    """Digest of the data's files, or the commit of a Hub dataset."""
    model_identity: str
    """Digest of the model's files, or the commit of a Hub model."""


class DatasetRef(Record):
    """A dataset in the store: a folder with one `datasets` folder per split, and `info.json`."""

    train: int
    """Rows of the train split."""
    validation: int
    """Rows of the validation split."""
    test: int
    """Rows of the test split."""
    test_digest: str = ""
    """Digest of the test rows, of a dataset: scores of rows with different ones do not compare."""


class Scores(Record):
    """A model's scores on the test split; the artifact holds `predictions.parquet`."""

    metrics: dict[str, float]
    """Flat metric name to value, fractions 0-1."""
    rows: int
    """Rows scored."""
    head: Head
    """Where the task head came from."""
    calibration: dict[str, float] = {}
    """What was chosen on validation and the predictions depend on, e.g. a threshold."""
    device: str
    """Device and precision, e.g. `cpu, bf16`."""
    seconds: float
    """Time that scoring took."""


class Checkpoint(Record):
    """A trained model; the artifact holds `model/` (loads with `from_pretrained`), `training_log.json`, perhaps `adapter/`."""

    steps: int
    """Optimizer steps done."""
    planned_steps: int
    """Optimizer steps planned."""
    stop_reason: Literal["finished", "early_stopping"]
    """Why training ended; any other reason is an error and no checkpoint."""
    resumed_from: int = 0
    """Optimizer step of the checkpoint that the last attempt at training went on from; 0 if it began anew."""
    best_epoch: float
    """Epoch whose weights were kept: the best on validation by the primary metric."""
    validation: dict[str, float]
    """The kept epoch's metrics on the validation split."""
    rows_per_s: float
    """Training rows per second, validation included, of the last attempt."""
    tokens_per_s: float = 0.0
    """Tokens that the model read per second, likewise, in all processes."""
    padded_tokens_per_s: float = 0.0
    """The same with padding."""
    seconds: float
    """Time that the last attempt at training took."""
    lost_s: float = 0.0
    """Seconds that interruptions cost: what was computed twice, and until training went on; from the first checkpoint on, or
    within one process from the start."""


class Stage(Record):
    """What the part of a run made that needs a GPU."""

    before: Scores
    """Of the untouched model."""
    checkpoint: Checkpoint
    after: Scores
    """Of the fine-tuned model."""
    champion: Scores | None = None
    """Of the champion; None where there is none, or the fine-tuned model is the same."""
    others: list[Scores] = []
    """Of the same training with other seeds."""
    others_trained: list[Checkpoint] = []
    """The models of these."""
    baselines: dict[str, Scores] = {}
    """Of the baselines, by name."""
    skipped: dict[str, str] = {}
    """Baselines that there are no scores of, and why."""


Word = Literal["improved", "no evidence", "regressed"]


class Verdict(Record):
    """The comparison of two models; the artifact holds `analysis.json`, of before and after `rows.json` too."""

    word: Word
    """What the primary metric's interval says."""
    difference: dict[str, float]
    """Metric name to after minus before."""
    intervals: dict[str, tuple[float, float]]
    """Metric name to the ends of the difference's 95 % interval; empty where there are too few rows."""
    fixed: int
    """Test rows whose score rose: where a row is right or wrong, those that were wrong before and are right after."""
    broken: int
    """Test rows whose score fell."""


class Lead(Record):
    """The fine-tuned model compared with a baseline by the primary metric."""

    word: Word
    metrics: dict[str, float]
    """Of the baseline."""
    difference: dict[str, float]
    """Fine-tuned less baseline."""
    intervals: dict[str, tuple[float, float]]


class Leads(Record):
    """The comparisons with the baselines, by their names."""

    baselines: dict[str, Lead]


class Contest(Verdict):
    """The comparison of the champion and its challenger, on the test rows that neither was trained on."""

    rows: int
    """These rows."""
    dropped: int
    """Test rows that one of them was trained on, or that chose its epoch."""
    untouched: dict[str, float]
    """Metrics of the untouched model on these rows."""
    champion: dict[str, float]
    challenger: dict[str, float]
    champion_run: str = ""
    """Name of the run whose model the champion was when a run met it; the artifact, which other runs may use, does not say."""
    champion_since: str = ""
    """When it was promoted: ISO 8601, UTC."""


Outcome = Literal["first champion", "promoted", "held", "rolled back"]


def run_key(name: str, run_id: str) -> str:
    """Return the key of a run's folder."""
    return f"runs/{slug(name)}-{run_id[:8]}"


class Promotion(Record):
    """What became of the run's model."""

    outcome: Outcome
    reasons: list[str]
    """Why, a line each."""
    champion: bool = False
    """Whether there was a champion before."""
    noise: float | None = None
    """Standard deviation of the primary metric from seed to seed, where `training.seeds` measured it."""


class Report(Record):
    """The outcome of a run; also written as `run.json`."""

    kind: str
    name: str
    flow_run: str
    """Name of the flow run."""
    report: str
    """Address of `report.html`."""
    model: str
    """Address of the fine-tuned model's folder."""
    before: dict[str, float]
    after: dict[str, float]
    difference: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """Metric name to the ends of the difference's 95 % interval; empty where there are too few rows."""
    verdict: Word
    """Whether the fine-tuned model is better than the untouched one, by the primary metric."""
    outcome: str
    """The verdict in one sentence."""
    primary_metric: str
    rows: int
    """Test rows scored."""
    contest: Contest | None = None
    """The comparison with the champion, if there was one."""
    baselines: dict[str, Lead] = {}
    """Comparisons with the baselines, by their names."""
    promotion: Promotion
    """What became of the model."""
    steps: dict[str, str]
    """Step name to its key in the store."""
    unchanged_since: str = ""
    """Name of the run that made all of it, where this one found it all in the store; else empty."""
