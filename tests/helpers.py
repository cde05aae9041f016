"""What several tests share: tiny models, small datasets with something to learn, and parts that must be there in CI."""

import csv
import hashlib
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOPICS = {
    "sport": "match goal team coach league player score season striker keeper".split(),
    "market": "shares profit bank price stock trade investor quarter loan broker".split(),
    "space": "orbit rocket planet launch comet lunar satellite crew probe telescope".split(),
}
NO_BASELINES = dict.fromkeys(("simplest", "linear", "probe", "zero_shot"), False)
"""For tests in which they are beside the point and take their time."""
COMMON = "the a of and on in it was said after with new next day from".split()


def missing(part: str) -> NoReturn:
    """Skip a test whose part is not on this machine; fail it where `REQUIRE_ALL=1` says that all parts are there."""
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"REQUIRE_ALL is set, but {part} is missing", pytrace=False)
    pytest.skip(f"needs {part}")


@contextmanager
def browser() -> "Iterator[Browser]":
    """Start headless Chromium: the one of CHROMIUM, of the system, or of Playwright."""
    from playwright.sync_api import Error, sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    # As root, in containers, Chromium has no sandbox; the others keep it from looking for hosts outside.
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=path, args=[*flags, "--disable-sync"])
        except Error:
            missing("Chromium")
        yield chromium
        chromium.close()


def empty_database() -> Path:
    """Return where the fixture `prefect_api` keeps the database of a Prefect server as it is after its first start."""
    return Path(os.environ["PREFECT_HOME"]) / "empty.db"


def prepare_home(home: Path) -> Path:
    """Give a new Prefect home a database, which takes a server seconds to make. Needs the fixture `prefect_api`."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_database(), home / "prefect.db")
    return home


def topic_rows(count: int, *, seed: int = 0, topics: Sequence[str] = tuple(TOPICS), words: int = 9) -> list[dict[str, str]]:
    """Return rows of `text` and `label`; the label follows from the words, so a model can learn it."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        topic = topics[number % len(topics)]
        length = rng.randint(4, words)
        text = " ".join(rng.choice(TOPICS[topic] if rng.random() < 0.5 else COMMON) for _ in range(length))
        rows.append({"text": f"{rng.choice(TOPICS[topic])} {text}", "label": topic})
    rng.shuffle(rows)
    return rows


def calibration_error(right: Any, confidence: Any) -> float:
    """Return the expected calibration error in 15 bins by scikit-learn's curve."""
    import numpy as np
    from sklearn.calibration import calibration_curve

    shares, means = calibration_curve(right, confidence, n_bins=15)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], confidence), minlength=15)
    return float((np.abs(shares - means) * counts[counts > 0]).sum() / counts.sum())


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as CSV with a header."""
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def digest_files(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of an artifact."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def add_to_hub_cache(cache: Path, repo_type: str, name: str, files: Path, *, commit: str = "a" * 40) -> None:
    """Lay the files of a folder out in a local cache as `huggingface_hub` would after a download of branch `main`."""
    root = cache / f"{repo_type}s--{name.replace('/', '--')}"
    shutil.copytree(files, root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit, encoding="utf-8")


def _tokenizer(folder: Path, *, pad: bool, positions: int) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *COMMON, *(word for topic in TOPICS.values() for word in topic)]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[UNK]", "eos_token": "[SEP]"}
    if pad:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=positions, **names).save_pretrained(folder)
    return len(words)


def make_encoder(folder: Path, *, labels: Sequence[str] | None = None, seed: int = 0, positions: int = 64) -> Path:
    """Save a two-layer BERT with its tokenizer; with `labels`, as a classifier with a head for them."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(seed)
    size = _tokenizer(folder, pad=True, positions=positions)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        # At its default, 0.02, so small a model learns next to nothing from some seeds.
        initializer_range=0.1,
    )
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    (BertForSequenceClassification(config) if labels else BertModel(config)).save_pretrained(folder)
    return folder


def make_decoder(folder: Path) -> Path:
    """Save a two-layer GPT-Neo whose tokenizer has no pad token."""
    import torch
    from transformers import GPTNeoConfig, GPTNeoModel

    torch.manual_seed(0)
    size = _tokenizer(folder, pad=False, positions=64)
    config = GPTNeoConfig(
        vocab_size=size,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
        window_size=16,
        bos_token_id=3,
        eos_token_id=3,
    )
    GPTNeoModel(config).save_pretrained(folder)
    return folder
