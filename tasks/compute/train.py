"""The command `train`: fine-tune through `Trainer`, score validation each epoch, keep the best epoch, resume if asked to."""

import json
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.trainer_pt_utils import safe_globals

from tasks.compute.callbacks import Checkpoints, StoppedEarly, Watch, best_evaluation, check_state_files
from tasks.compute.channel import Channel
from tasks.compute.methods import Method
from tasks.compute.models import Hardware, bind, load_model, load_tokenizer, set_up
from tasks.compute.predict import Predictor, load_split
from tasks.compute.ranks import Ranks
from tasks.compute.trainer import BestWeights, EvaluationStopped, KindTrainer
from tasks.errors import CheckpointUnusable, OutOfMemory
from tasks.text import one_line

_LOG_POINTS = 100
_SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
# What torch says where a CPU's memory ends; CUDA has a class of its own.
_CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")


def train(
    channel: Channel,
    *,
    kind_name: str,
    settings: dict[str, Any],
    labels: list[str],
    dataset: str,
    tokens: str,
    model: str,
    output: str,
    seed: int,
    training: dict[str, Any],
    allow_pickle: bool,
    remote_code: bool,
    checkpoints: str,
    resume: str | None = None,
    micro_batch: int | None = None,
) -> dict[str, Any]:
    """Fine-tune a model on `tokens` and save the best epoch, with its tokenizer, in `output`.

    With `training["processes"]` above 1 this is one of them, which torch's launcher has started; the first one saves and speaks.
    Every `training["checkpoint_every"]` optimizer steps, and before a stop, an event `checkpoint` hands over a folder in
    `checkpoints` with weights, optimizer, scheduler, random states, Trainer's state and, in `best`, the best epoch so far.

    Args:
        channel: Where events go.
        kind_name: The kind.
        settings: What the step reads of the configuration.
        labels: Class names.
        dataset: Folder of the rows.
        tokens: Folder of their features.
        model: Folder of the model to start from.
        output: Folder to make, with the trained model.
        seed: Seed of everything random.
        training: `TrainingSettings` as a dict.
        allow_pickle: Whether pickled weights may be loaded.
        remote_code: Whether the model's own code may be run.
        checkpoints: Folder for checkpoints; whoever gets the event may move or delete them.
        resume: Checkpoint to go on from.
        micro_batch: Rows that a process computes at once, a divisor of its part of the batch; None computes all of that at once.

    Returns:
        dict: `steps`, `planned_steps`, `stop_reason` (`finished`, `early_stopping` or `preempted`), `best_epoch`, `validation`
        (its metrics), `history` (Trainer's log), `resumed_from` (optimizer step), `rows_per_s`, `tokens_per_s`,
        `padded_tokens_per_s` and `seconds` (since then), `device`. Only the first two reasons leave a model.

    Raises:
        CheckpointUnusable: `resume` cannot be loaded.
        ConfigError: the way of training does not go with the model.
        OutOfMemory: the rows computed at once do not fit into memory.
        TrainingDiverged: the loss is not finite.
    """
    started = time.monotonic()
    kind = bind(kind_name, settings, labels)
    hardware = Hardware.choose(training["device"], training["precision"], training["processes"])
    ranks = Ranks.join(hardware)
    if ranks.count > 1:
        channel.send("log", level=logging.INFO, message=f"Training in {hardware}.")
    resumed_from = _check_checkpoint(Path(resume), ranks.count) if resume else 0
    set_up(seed, ranks.count)
    tokenizer = load_tokenizer(Path(model), remote_code=remote_code)
    network, head = load_model(kind, Path(model), tokenizer, trained=False, allow_pickle=allow_pickle, remote_code=remote_code)
    features = kind.start(network, head, load_split(dataset, tokens, "train")[0])
    method = Method(network, training, head)
    micro_batch = micro_batch or training["batch_size"] // ranks.count
    # Beside the checkpoints, so that they can be moved there.
    with tempfile.TemporaryDirectory(prefix=".trainer-", dir=checkpoints) as own:
        scratch = ranks.of_first(own)
        watch = Watch(channel, training["batch_size"])
        patience = training["early_stopping_patience"]
        keeper = Checkpoints(channel, Path(checkpoints), training["checkpoint_every"], patience, resume)
        best = BestWeights(method, Path(scratch), Path(resume) / "best" if resume and ranks.first else None)
        trainer = KindTrainer(
            predictor=Predictor(kind, tokenizer, hardware),
            method=method,
            label_smoothing=training["label_smoothing"],
            ranks=ranks,
            batch_size=training["batch_size"],
            best=best,
            model=network,
            args=_arguments(training, hardware, seed, len(features), micro_batch, scratch),
            train_dataset=features,
            validation=load_split(dataset, tokens, "validation"),
            data_collator=kind.collator(tokenizer, train=True),
            callbacks=[watch],
        )
        # The log goes out as events.
        trainer.remove_callback(PrinterCallback)
        keeper.watch(trainer)
        if ranks.count > 1:
            set_seed((seed + ranks.rank) % 2**32)  # else all would drop out the same
        _run(trainer, keeper, resume, micro_batch, training["max_length"])
        if ranks.first and keeper.stop_reason != "preempted":
            assert best.folder is not None, "every training ends with an evaluation"
            method.export(network, best.folder, Path(output))
            tokenizer.save_pretrained(output)
        ranks.wait()  # a process that fails fails them all, until the end
        real_tokens, padded_tokens = trainer.tokens_read()
    state, found = trainer.state, best_evaluation(trainer)
    return {
        "steps": state.global_step,
        "planned_steps": state.max_steps,
        "stop_reason": keeper.stop_reason,
        "best_epoch": found.get("epoch", 0.0),
        "validation": {name.removeprefix("eval_"): value for name, value in found.items() if name.startswith("eval_")},
        "history": state.log_history,
        "resumed_from": resumed_from,
        "rows_per_s": watch.rows / watch.elapsed_s,
        "tokens_per_s": real_tokens / watch.elapsed_s,
        "padded_tokens_per_s": padded_tokens / watch.elapsed_s,
        "seconds": time.monotonic() - started,
        "device": str(hardware),
    }


def _run(trainer: KindTrainer, keeper: Checkpoints, resume: str | None, micro_batch: int, max_length: int) -> None:
    try:
        trainer.train(resume_from_checkpoint=resume)
    except StoppedEarly:
        pass
    except EvaluationStopped:
        keeper.save_now()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in _CPU_OUT_OF_MEMORY):
            raise
        raise OutOfMemory(
            f"Out of memory after optimizer step {trainer.state.global_step} with {micro_batch} rows of up to {max_length} "
            "tokens at once; lower training.micro_batch or training.max_length, or set training.gradient_checkpointing."
        ) from error


def _arguments(
    training: dict[str, Any], hardware: Hardware, seed: int, rows: int, micro_batch: int, scratch: str
) -> TrainingArguments:
    steps = math.ceil(rows / training["batch_size"]) * training["epochs"]
    return TrainingArguments(
        output_dir=scratch,
        num_train_epochs=training["epochs"],
        learning_rate=training["learning_rate"],
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=training["batch_size"] // training["processes"] // micro_batch,
        weight_decay=training["weight_decay"],
        # The first step of a warm-up has a learning rate of 0: as the only one it would change nothing.
        warmup_steps=min(math.ceil(steps * training["warmup_ratio"]), steps - 1),
        lr_scheduler_type=_SCHEDULERS[training["scheduler"]],
        max_grad_norm=training["max_grad_norm"],
        optim="adamw_torch_fused" if hardware.device != "mps" else "adamw_torch",
        fp16=hardware.precision == "fp16",
        use_cpu=hardware.device == "cpu",
        dataloader_pin_memory=hardware.device == "cuda",
        eval_strategy="epoch",
        # `Checkpoints` says when.
        save_strategy="no",
        logging_steps=max(1, steps // _LOG_POINTS),
        # Trainer would otherwise replace a NaN in the log by the mean so far.
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
    )


def _check_checkpoint(folder: Path, processes: int) -> int:
    """Return the optimizer step of a checkpoint whose files are all there and can be loaded.

    Trainer would take fresh ones, and say nothing, for an optimizer, a scheduler or random states that are missing.

    Raises:
        CheckpointUnusable: says what is wrong.
    """
    try:
        state, *others = check_state_files(folder, processes)
        if not (weights := list(folder.glob("*.safetensors"))):
            raise FileNotFoundError("the weights are missing")
        for path in weights:
            with safe_open(path, framework="pt"):
                pass  # its header says how long the file must be
        with safe_globals():
            for name in others:
                torch.load(folder / name, map_location="cpu", weights_only=True)
        return int(json.loads((folder / state).read_text(encoding="utf-8"))["global_step"])
    except Exception as error:  # torch, pickle and json each raise what they like for a damaged file
        raise CheckpointUnusable(f"Checkpoint {folder.name!r} cannot be loaded: {one_line(error, 200)}.") from error
