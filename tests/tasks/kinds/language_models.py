"""What the tests of language models share: tiny models, and the three commands in this process."""

import io
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.helpers import make_encoder

SENTENCES = (
    "the match was after the goal of a team",
    "shares of the bank in a quarter",
    "a rocket with crew in orbit on the next day",
    "the coach said it was a new league",
    "from orbit the probe said planet",
)


def texts(count: int, seed: int) -> list[dict[str, str]]:
    """Return rows of a text in which each word follows from the one before it, so that there is much to learn."""
    rng = random.Random(seed)
    return [{"text": " ".join(rng.choice(SENTENCES) for _ in range(rng.randint(1, 4)))} for _ in range(count)]


def save_rows(folder: Path, **splits: Iterable[Mapping[str, Any]]) -> Path:
    """Save rows per split with the ids `<split>-<position>`, as `load-dataset` leaves them."""
    import datasets

    for split, rows in splits.items():
        columns = [{"id": f"{split}-{number}", **row} for number, row in enumerate(rows)]
        datasets.Dataset.from_list(columns).save_to_disk(str(folder / split))
    return folder


def make_masked(folder: Path) -> Path:
    """Save a two-layer BERT without a head, whose tokenizer has a mask token."""
    from transformers import AutoModel, AutoTokenizer

    make_encoder(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    model = AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


class Lab:
    """A folder with rows, tokens and models of one kind; each command as the compute process has it."""

    def __init__(
        self, root: Path, kind: str, model: Path, settings: Mapping[str, Any], *, labels: Sequence[str] = (), **splits: Any
    ) -> None:
        self.root, self.kind, self.model, self.settings, self.labels = root, kind, model, dict(settings), list(labels)
        self.rows, self.tokens = save_rows(root / "rows", **splits), root / "tokens"
        self._names = (f"output-{number}" for number in itertools.count())

    def tokenize(self) -> dict[str, Any]:
        """Make the features; return what was found."""
        from tasks.compute.channel import Channel
        from tasks.compute.tokenize import tokenize

        return tokenize(Channel(io.StringIO()), **self._common(self.model, self.tokens, tokens=False))

    def evaluate(self, model: Path, *, trained: bool) -> tuple[dict[str, Any], Path]:
        """Score a model; return the answer and the folder of predictions."""
        from tasks.compute.channel import Channel
        from tasks.compute.predict import evaluate

        output = self.root / next(self._names)
        output.mkdir()
        hardware = {"seed": 1, "device": "cpu", "precision": "fp32"}
        common = self._common(model, output)
        return evaluate(Channel(io.StringIO()), **common, **hardware, trained=trained, allow_pickle=False), output

    def train(
        self, *, checkpoints: Path | None = None, resume: Path | None = None, **training: Any
    ) -> tuple[dict[str, Any], Path]:
        """Train a model; return the answer and its folder."""
        from tasks.compute.channel import Channel
        from tasks.compute.train import train

        output = self.root / next(self._names)
        arguments = self.train_arguments(output, checkpoints=checkpoints, resume=resume, **training)
        return train(Channel(io.StringIO()), **arguments), output

    def train_arguments(
        self, output: Path, *, checkpoints: Path | None = None, resume: Path | None = None, **training: Any
    ) -> dict[str, Any]:
        """Return the arguments of the command `train`."""
        from tasks.config import TrainingSettings

        checkpoints = checkpoints or output.with_name(f"{output.name}-checkpoints")
        checkpoints.mkdir(exist_ok=True)
        chosen = {**self.settings.get("training", {}), "device": "cpu", "precision": "fp32", **training}
        return {
            **self._common(self.model, output),
            **{"seed": 1, "training": TrainingSettings.model_validate(chosen).model_dump(), "allow_pickle": False},
            **{"checkpoints": str(checkpoints), "resume": str(resume) if resume else None},
        }

    def _common(self, model: Path, output: Path, *, tokens: bool = True) -> dict[str, Any]:
        folders = {"dataset": str(self.rows), "model": str(model), "output": str(output)}
        folders |= {"tokens": str(self.tokens)} if tokens else {}
        return {"kind_name": self.kind, "settings": self.settings, "labels": self.labels, **folders, "remote_code": False}


def logits_in_training(lab: "Lab", monkeypatch: Any) -> list[tuple[int, int]]:
    """Return, of each step of a training, for how many tokens logits are computed, and for how many they are wanted."""
    from tasks.scoring import logits

    computed: list[tuple[int, int]] = []
    own = logits.logits_at

    def spy(places: Any, model: Any, **inputs: Any) -> Any:
        def count(module: Any, inputs: Any, output: Any) -> None:
            if model.training:
                computed.append((output.shape[:-1].numel(), int(places.sum())))

        hook = model.get_output_embeddings().register_forward_hook(count)
        try:
            return own(places, model, **inputs)
        finally:
            hook.remove()

    monkeypatch.setattr(logits, "logits_at", spy)
    answer, _ = lab.train(epochs=1)
    assert len(computed) == answer["steps"]
    return computed
