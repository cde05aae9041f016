"""The configuration of an experiment: one frozen model is the YAML file, the flags, a deployment's parameters, the UI's form."""

import math
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator


def _fit_form(schema: dict[str, Any]) -> None:
    """Make the schema one that Prefect draws a plain form of, whose empty fields are sent as nothing.

    Without `position` nested fields are sorted alphabetically; for a field that may be null a switch between two forms is drawn.
    Where there is no default, Prefect's API takes null too.
    """
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position
        if "default" in field and field["default"] is None:
            (kind,) = (choice for choice in field.pop("anyOf") if choice != {"type": "null"})
            field.pop("default")
            field.update(kind)


def _title(name: str, _: object) -> str:
    """Return a field's title: its words, with units and abbreviations as people write them."""
    words = name.removesuffix("_s").replace("_", " ")
    title = words[:1].upper() + words[1:] + (" (seconds)" if name.endswith("_s") else "")
    return title.replace("Gpu", "GPU").replace("Id ", "ID ")


class Settings(BaseModel):
    """Base of all configuration models: frozen, closed, documented by its attribute docstrings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        json_schema_extra=_fit_form,
        field_title_generator=_title,
    )

    verbatim: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields whose texts are kept as they are, beside those of columns."""

    @field_validator("*", mode="before")
    @classmethod
    def _tidied(cls, value: Any, info: ValidationInfo) -> Any:
        """Strip texts, but for those that stand in the data too; take an empty one, as forms give it, for nothing."""
        name = str(info.field_name)
        if isinstance(value, str) and name not in cls.verbatim and not name.endswith("_column"):
            value = value.strip()
        return None if value == "" and cls.model_fields[name].default is None else value


class DataSettings(Settings):
    """Where the rows come from and how they are split; each kind adds its columns."""

    source: str = Field("quickstart", min_length=1)
    """`quickstart` (AWS API documentation out of botocore), a file, folder or glob of CSV, TSV, JSON, JSON Lines or Parquet,
    a `save_to_disk` folder, any of these in S3 such as `s3://bucket/folder`, or a dataset on the Hugging Face Hub such as
    `ag_news`."""
    config_name: str | None = None
    """Configuration of a Hub dataset, e.g. `sst2` of `glue`."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset; empty takes the newest."""
    id_column: str | None = None
    """Column with a unique id of each row; empty takes the row's position in the source."""
    train: str | None = None
    """Train split: a file, folder or glob in the source's folder, a whole path or `s3://` address, or a Hub split's name; empty
    finds it by its name."""
    validation: str | None = None
    """Validation split, given as `train` is; where there is none, a tenth of train by hash."""
    test: str | None = None
    """Test split, given as `train` is; where there is none, a tenth of train by hash."""
    max_train_rows: int | None = Field(None, ge=1)
    """Use at most so many train rows, drawn with the seed; empty uses all."""
    max_test_rows: int | None = Field(None, ge=1)
    """Use at most so many rows each of validation and test, drawn with the seed; empty uses all."""
    duplicates: Literal["drop", "report", "refuse"] = "drop"
    """Rows that train shares with validation or test: drop them from train, only report them, or refuse the dataset."""
    slice_columns: list[str] = Field([], max_length=10)
    """Columns by whose values the report and the gate look at the test rows, beside classes and length: a source, a language."""

    @field_validator("slice_columns")
    @classmethod
    def _slices_are_named_once(cls, names: list[str]) -> list[str]:
        if "" in names or len(set(names)) < len(names):
            raise ValueError("each must be named, and once")
        return names


class ModelSettings(Settings):
    """The model to start from."""

    name: str = Field("quickstart", min_length=1)
    """`quickstart` (all-MiniLM-L6-v2 out of its Python package), a folder, or a model on the Hugging Face Hub such as
    `bert-base-uncased`."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model; empty takes the newest."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose authors you trust."""
    allow_pickle: bool = False
    """Load weights from pickle files where there are no safetensors. Only for models whose authors you trust."""


class TrainingSettings(Settings):
    """How the model is fine-tuned."""

    method: Literal["full", "lora", "head"] = "full"
    """What is trained: all weights, low-rank adapters and the head (at a larger learning rate), or the head alone."""
    epochs: int = Field(2, ge=1, le=1000)
    """Passes over the train split; the best one on validation is kept."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Peak learning rate of AdamW, reached after the warm-up."""
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    """What follows on the warm-up: the learning rate falls to zero in a line or half a cosine, or stays."""
    batch_size: int = Field(16, ge=1, le=65536)
    """Rows per optimizer step."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """Weight decay of AdamW."""
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Fraction of the optimizer steps in which the learning rate rises."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Norm to which the gradient is clipped; 0 clips nothing."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the probability that the training loss wants spread over all classes or tokens."""
    max_length: int = Field(128, ge=4, le=1_048_576)
    """Tokens per row; longer rows are truncated, and the report says how many."""
    early_stopping_patience: int | None = Field(None, ge=1)
    """Stop after so many epochs without a better validation score; empty trains all epochs."""
    lora_rank: int = Field(8, ge=1, le=1024)
    """Rank of the adapters, with `method: lora`."""
    lora_alpha: float = Field(16, gt=0)
    """Scale of the adapters: what they add is multiplied by alpha / rank."""
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the adapters' inputs."""
    lora_targets: Literal["architecture", "all-linear"] = "architecture"
    """Which layers get adapters: those usual for the architecture (for most, the attention's queries and values), or all linear
    ones; a head of classes, positions or numbers is trained whole."""
    micro_batch: int | None = Field(None, ge=1)
    """Rows that a process computes at once, a divisor of its part of the batch: saves memory, and changes rounding and the draws
    of dropout alone. Empty computes all at once."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third more time."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the matrix products; `auto` takes bf16 where the hardware is fast at it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; `auto` takes CUDA, else MPS, else the CPU."""
    processes: int = Field(1, ge=1, le=64)
    """Processes on one machine that train together and share each batch, on a GPU each or each on its part of the CPU's cores."""
    seeds: int = Field(1, ge=1, le=100)
    """Trainings, each with another seed; the first one's model is used, the others say how much chance moves its score."""
    checkpoint_every: int = Field(1000, ge=1)
    """Optimizer steps between checkpoints; the last two are kept until training is done, and a new attempt goes on from them."""
    time_limit_s: float = Field(86_400, gt=0)
    """Seconds after which an attempt at training is ended and the run fails."""

    @model_validator(mode="after")
    def _processes_share_a_batch(self) -> "TrainingSettings":
        if self.batch_size % self.processes:
            raise ValueError(
                f"training.batch_size is {self.batch_size}, which training.processes, {self.processes}, does not divide; "
                f"set training.batch_size to {math.ceil(self.batch_size / self.processes) * self.processes}"
            )
        part = self.batch_size // self.processes
        if self.micro_batch is not None and part % self.micro_batch:
            raise ValueError(
                f"training.micro_batch is {self.micro_batch}, which does not divide the {part} rows of a batch that a "
                "process has; set it to a divisor of them"
            )
        return self


class GateSettings(Settings):
    """What a fine-tuned model must show to become the champion: against the champion, or else against the untouched model.

    It must never be worse by the primary metric; neither than the untouched model.
    """

    mode: Literal["promote", "report"] = "promote"
    """Promote a model that passes, or only say whether it would have."""
    margins: dict[str, float] = {}
    """Metric to how much worse it may be at most, and has to be shown to be no worse than: `{accuracy: 0.01}`; a class's is
    `recall/CLASS`, a slice's `accuracy@COLUMN=VALUE`."""
    must_improve: list[str] = []
    """Metrics that have to be significantly better, named as in `margins`."""
    slice_margin: float | None = Field(None, gt=0)
    """How much worse the primary metric may be at most in each class, length and slice; empty asks for nothing there."""

    @field_validator("margins")
    @classmethod
    def _margins_are_above_zero(cls, margins: dict[str, float]) -> dict[str, float]:
        if wrong := [margin for margin in margins.values() if margin <= 0]:
            raise ValueError(f"a margin is above 0, not {wrong[0]!r}; use gate.must_improve to ask for more")
        return margins

    @property
    def metrics(self) -> list[str]:
        """The metrics that it names, each once."""
        return list(dict.fromkeys([*self.margins, *self.must_improve]))


class BaselineSettings(Settings):
    """Cheap baselines that are scored on the same test rows: a fine-tuned model that is no better than these was not needed."""

    simplest: bool = True
    """The simplest guess: the classes' shares of train, the mean, the beginning of the text, how frequent tokens are, or what
    stands beside the question's words."""
    linear: bool = True
    """A linear model on words and pairs of words (TF-IDF); in text classification."""
    probe: bool = True
    """A linear model on what the untouched model makes of a text; in text classification."""
    zero_shot: bool = True
    """How likely the untouched model finds each class's name after the text; in text classification with one class per text and
    names that are words, for causal language models."""
    time_share: float = Field(0.1, gt=0, le=1)
    """Share of the training time that `probe` and `zero_shot` may take together, roughly and on the same hardware: `probe` learns
    from as many train rows as fit, and what does not fit is left out. `linear` learns from 20,000 train rows at most."""


class ExperimentConfig(Settings):
    """What every kind of experiment can be told."""

    name: str = Field("experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the model that this experiment makes, for runs and reports; the store keeps its champion under it."""
    seed: int = Field(42, ge=0, le=2**32 - 1)
    """Seed of everything that is random: row limits, fresh weights, order of rows, dropout."""
    store: str = Field("artifacts", min_length=1)
    """Where artifacts are kept: a folder (an absolute path for runs of a deployment), `s3://bucket/prefix`, or `block:TYPE/NAME`
    for a block that Prefect keeps, e.g. `block:s3-store/prod`."""
    gpu_deployment: str | None = Field(None, pattern=r"^[^/\s][^/]*/[^/]*[^/\s]$")
    """Deployment that runs the GPU stage, e.g. `gpu-stage/gpu-stage`; empty runs it in place."""
    gpu_wait_s: float = Field(300, ge=0)
    """Seconds after which a run says that no worker is online for `gpu_deployment`."""
    gpu_absent: Literal["wait", "fail"] = "wait"
    """What a run does then: go on waiting, or fail."""
    notify: str | None = Field(None, pattern=r"^block:[a-z0-9-]+/[a-z0-9-]+$")
    """Slack, webhook or other notification block of Prefect that is told how a run ended, e.g. `block:slack-webhook/team`; empty
    tells nobody."""
    data: DataSettings = DataSettings()
    """Where the rows come from and how they are split."""
    model: ModelSettings = ModelSettings()
    """The model to start from."""
    training: TrainingSettings = TrainingSettings()
    """How the model is fine-tuned."""
    gate: GateSettings = GateSettings()
    """What a fine-tuned model must show to become the champion of its name."""
    baselines: BaselineSettings = BaselineSettings()
    """What else is scored on the same test rows, to compare with."""
