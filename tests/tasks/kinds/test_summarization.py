"""Tests of summarization: its settings, its metrics, how it writes, and both sorts of models from before to after training."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from tasks.compute.channel import Channel
from tasks.compute.models import bind, load_model, load_tokenizer
from tasks.compute.predict import evaluate
from tasks.compute.tokenize import tokenize
from tasks.compute.train import train
from tasks.errors import ConfigError
from tasks.kinds.summarization import KIND, Summarization, SummarizationConfig
from tests.helpers import TOPICS, make_encoder, topic_rows
from tests.tasks.compute.commands import evaluate_arguments, tokenize_arguments, train_arguments

PROMPT = {"template": "{document} it was"}
LOADING = {"trained": False, "allow_pickle": False, "remote_code": False}
SHORT = {"max_new_tokens": 6, "max_target_length": 6}


def make_kind(**settings: Any) -> Summarization:
    return Summarization(SummarizationConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"min_new_tokens": 9, "max_new_tokens": 8}, r"min_new_tokens is 9, above generation\.max_new_tokens, 8; lower it"),
        ({"length_penalty": 2.0}, r"length_penalty is 2\.0, which matters with several beams only"),
        (
            {"template": "Summarize {text}:"},
            r"template is 'Summarize \{text\}:', which has no place for the text; put \{document\}",
        ),
        ({"template": "{document} TL;DR:", "prefix": "summarize:"}, "are both set"),
        ({"beams": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_agree_are_refused(generation: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_kind(generation=generation)


def test_one_setting_of_training_leaves_the_others_at_the_kinds_defaults() -> None:
    changed, default = make_kind(training={"epochs": 1}).config.training, make_kind().config.training
    assert changed.epochs == 1
    assert changed == default.model_copy(update={"epochs": 1})
    assert (
        default.learning_rate
        == SummarizationConfig.model_json_schema()["$defs"]["SummarizationTraining"]["properties"]["learning_rate"]["default"]
    )


def test_text_and_summary_are_different_columns() -> None:
    with pytest.raises(ValidationError, match="must be different columns, not both 'body'"):
        make_kind(data={"text_column": "body", "summary_column": "body"})
    columns = make_kind(data={"text_column": "article", "summary_column": "highlights"}).columns()
    assert [(column.role, column.name, column.setting, column.target) for column in columns] == [
        ("text", "article", "data.text_column", False),
        ("summary", "highlights", "data.summary_column", True),
    ]


@pytest.mark.parametrize("summary", ["", "  \n "])
def test_a_summary_without_a_word_is_a_fault(summary: str) -> None:
    assert make_kind().fault({"text": "a", "summary": summary}) == ("summary", "so its summary is missing")
    assert make_kind().fault({"text": "a", "summary": "b"}) is None


def test_a_prefix_comes_before_each_text(encoder: Path) -> None:
    tokenizer = load_tokenizer(encoder, remote_code=False)
    encoded = make_kind(training={"max_length": 16}, generation=SHORT | {"prefix": "new "}).encode(
        tokenizer, {"id": ["0"], "text": ["goal"], "summary": ["a"]}, train=True
    )
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in encoded.features["input_ids"]] == [["[CLS]", "new", "goal", "[SEP]"]]


@pytest.mark.parametrize(
    ("prefix", "lead"),
    [(None, ""), ("", ""), ("summarize:", "summarize: "), ("summarize: ", "summarize: "), ("To do:\n", "To do:\n")],
)
def test_a_space_follows_the_prefix_unless_it_ends_in_one(prefix: str | None, lead: str) -> None:
    kind = make_kind(generation={"prefix": prefix})
    assert kind.config.generation.lead == lead
    assert (f"tokenizer({lead!r} + text, " in kind.usage) == bool(lead)


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"max_target_length": 65}, r"generation\.max_target_length is 65, but the model takes at most 64 tokens; lower it"),
        ({"max_new_tokens": 65}, r"generation\.max_new_tokens is 65, but the model takes at most 64"),
        (PROMPT | {"max_target_length": 40}, r"training\.max_length, 32, and generation\.max_target_length, 40, are 72 tokens"),
        (
            PROMPT | {"max_new_tokens": 40},
            r"training\.max_length, 32, and generation\.max_new_tokens, 40, are 72 tokens together",
        ),
    ],
)
def test_a_target_longer_than_the_models_limit_is_refused(encoder: Path, generation: dict[str, Any], message: str) -> None:
    kind = make_kind(training={"max_length": 32}, generation=SHORT | generation)
    with pytest.raises(ConfigError, match=message):
        kind.encode(load_tokenizer(encoder, remote_code=False), {"id": [], "text": [], "summary": []}, train=True)


def make_writer(folder: Path, model_type: str, **sizes: int) -> Path:
    """Save an encoder-decoder of an architecture; `encoder-decoder` is one made of an encoder that takes 16 tokens."""
    if model_type == "encoder-decoder":
        make_encoder(folder, positions=16)
        make_kind(generation=SHORT).load_model(folder, **LOADING)[0].save_pretrained(folder)
        return folder
    layers = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")}
    tokens = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = AutoConfig.for_model(model_type, d_model=32, **layers, **tokens, **sizes)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model_type", "sizes"),
    [
        ("led", {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 16, "attention_window": 8}),
        ("bart", {"max_position_embeddings": 16}),
        ("encoder-decoder", {}),
    ],
)
def test_more_than_the_decoder_has_positions_for_is_refused(model_type: str, sizes: dict[str, int], tmp_path: Path) -> None:
    make_writer(tmp_path, model_type, **sizes)
    longest = {"max_target_length": 16, "max_new_tokens": 16}
    make_kind(generation=longest).load_model(tmp_path, **LOADING)
    for name in longest:
        with pytest.raises(ConfigError, match=rf"^generation\.{name} is 17, but the model writes at most 16 tokens; lower it\.$"):
            make_kind(generation=longest | {name: 17}).load_model(tmp_path, **LOADING)


def test_the_loss_is_a_mean_over_the_tokens_that_are_learnt(encoder: Path) -> None:
    kind, tokenizer = make_kind(training={"max_length": 16}, generation=SHORT), load_tokenizer(encoder, remote_code=False)
    rows = {"id": ["0", "1"], "text": ["goal in match", "orbit"], "summary": ["goal", "new orbit and crew"]}
    features = kind.encode(tokenizer, rows, train=True).features
    model, _ = kind.load_model(encoder, trained=False, allow_pickle=False, remote_code=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    whole, *alone = (
        kind.collator(tokenizer, train=True)([{name: values[row] for name, values in features.items()} for row in chosen])
        for chosen in ([0, 1], [0], [1])
    )
    assert [kind.loss_items(batch) for batch in (whole, *alone)] == [9, 3, 6]
    with torch.no_grad():
        losses = [model.eval()(**batch).loss.item() for batch in (whole, *alone)]
    assert losses[0] == pytest.approx((3 * losses[1] + 6 * losses[2]) / 9, rel=1e-5)


def test_metrics_and_row_scores_are_those_of_the_package() -> None:
    rows = {"text": ["the goal of the match", "orbit"], "summary": ["goal of match", "the orbit"]}
    predictions = {"texts": np.array(["goal match", "bank"], dtype=object)}
    kind = make_kind()
    scores = [RougeScorer(["rougeL"]).score(*pair)["rougeL"] for pair in zip(rows["summary"], predictions["texts"], strict=True)]
    assert kind.row_scores(predictions, rows) == pytest.approx([score.fmeasure for score in scores])
    metrics = kind.metrics(kind.statistics(predictions, rows).sum(0))
    assert metrics[kind.primary_metric] == pytest.approx(np.mean([score.fmeasure for score in scores]))
    assert metrics["length_ratio"] == pytest.approx(3 / 5)
    assert metrics["novel_bigrams"] == 1
    assert {"rouge1", "rouge2", "rougeL", "rougeLsum", "length_ratio", "novel_bigrams"} <= set(metrics)


def test_words_of_all_scripts_count_if_set_and_else_the_report_says_what_is_lost() -> None:
    rows = {"text": ["Вчера был дождь."], "summary": ["Был дождь"]}
    predictions = {"texts": np.array(["был дождь"], dtype=object)}
    told = {}
    for words, score in (("ascii", 0), ("unicode", 1)):
        kind = make_kind(rouge={"words": words})
        assert kind.row_scores(predictions, rows).tolist() == [score]
        table = pd.DataFrame({name: column.to_pylist() for name, column in kind.table(predictions, rows).items()})
        table["score"] = float(score)
        told[words] = " ".join(kind.analysis(table, table)["sources"])
    assert "ROUGE ignores 100% of the references' letters, which are not a-z: set rouge.words to 'unicode'" in told["ascii"]
    assert "ROUGE" not in told["unicode"]


def test_the_report_says_how_long_and_how_alike_texts_are() -> None:
    def table(*predictions: str) -> pd.DataFrame:
        scores = [float(prediction == "a b") for prediction in predictions]
        return pd.DataFrame({"reference": ["a b"] * 3, "prediction": predictions, "score": scores, "lost": 0.0})

    lengths, same, repeated, empty = make_kind().analysis(table("", "x", "x"), table("a b", "a b c d", "y z w"))["sources"]
    assert lengths == "A text has 0.7 words before and 3.0 after, in the mean; a reference has 2.0."
    assert same.endswith("0 before, 1 after.")
    assert repeated == "Texts that more than one row got: 2 before, 0 after; of the references 3 are such."
    assert empty == "Empty texts: 1 before, 0 after."


@pytest.mark.parametrize("generation", [{}, {"prefix": "summarize:"}, PROMPT])
def test_the_model_cards_lines_run(
    generation: dict[str, Any], encoder: Path, decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = make_kind(training={"max_length": 16}, generation=SHORT | generation)
    source = decoder if "template" in generation else encoder
    tokenizer = load_tokenizer(source, remote_code=False)
    model, _ = load_model(kind, source, tokenizer, trained=False, allow_pickle=False, remote_code=False)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = "the new goal"
    rows = {"id": ["0"], "text": [text], "summary": ["a"]}
    features = kind.encode(tokenizer, rows, train=False).features
    batch = kind.collator(tokenizer, train=False)([{"input_ids": features["input_ids"][0]}])
    expected = kind.predict(model.eval(), tokenizer, batch)
    exec(kind.usage.replace("path/to/this/folder", str(tmp_path)), {"text": text})
    assert capsys.readouterr().out.split() == str(expected[0]).split()


@pytest.mark.parametrize(
    ("generation", "shown"),
    [({"beams": 3, "length_penalty": 2.0, "min_new_tokens": 4, "no_repeat_ngram": 1}, True), ({}, False)],
)
def test_how_the_model_writes_is_what_is_set(encoder: Path, generation: dict[str, Any], shown: bool) -> None:
    kind, tokenizer = make_kind(generation=SHORT | generation), load_tokenizer(encoder, remote_code=False)
    model, _ = load_model(kind, encoder, tokenizer, trained=False, allow_pickle=False, remote_code=False)
    batch = kind.collator(tokenizer, train=False)([{"input_ids": [2, 10, 11, 3]}])
    ids = model.eval().generate(**batch)
    assert ids.shape[1] <= 7
    found = model.generation_config
    assert (found.num_beams, found.max_new_tokens) == (generation.get("beams", 1), 6)
    if shown:
        written = ids[0].tolist()[1:]
        assert len(written) >= 4
        assert len(set(written)) == len(written), "no token twice"
        assert found.length_penalty == 2


@pytest.mark.parametrize(("beams", "expected"), [(1, [12]), (4, [4, 4, 4])])
def test_a_cpu_writes_for_more_rows_at_once_than_it_reads(
    beams: int, expected: list[int], rows: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training": {"max_length": 16}, "generation": SHORT | {"beams": beams}}
    common = {"kind_name": "summarization", "labels": [], "settings": settings}
    tokens, at_once = tmp_path / "tokens", []
    tokenize(Channel(io.StringIO()), **tokenize_arguments(rows, encoder, tokens) | common)
    (tokens / "dataset").symlink_to(rows)
    predict = Summarization.predict
    monkeypatch.setattr("tasks.compute.predict._SHORT_TOKENS_PER_BATCH", 32)
    monkeypatch.setattr(Summarization, "predict", lambda *given: at_once.append(len(given[3]["input_ids"])) or predict(*given))
    (tmp_path / "scores").mkdir()
    evaluate(Channel(io.StringIO()), **evaluate_arguments(tokens, encoder, tmp_path / "scores") | common | {"trained": False})
    assert at_once == expected


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset whose summaries are two words that the text's topic decides."""
    folder = tmp_path_factory.mktemp("rows")
    for seed, (split, size) in enumerate({"train": 48, "validation": 12, "test": 12}.items()):
        found = topic_rows(size, seed=seed, words=5)
        columns = {
            "id": [f"{split}-{number}" for number in range(size)],
            "text": [row["text"] for row in found],
            "summary": [" ".join(TOPICS[row["label"]][:2]) for row in found],
        }
        datasets.Dataset.from_dict(columns).save_to_disk(str(folder / split))
    return folder


@pytest.fixture(scope="module")
def t5(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny T5."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    folder = shutil.copytree(encoder, tmp_path_factory.mktemp("models") / "tiny-t5")
    size = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    tokens = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(
        T5Config(vocab_size=len(load_tokenizer(encoder, remote_code=False)), **size, **tokens)
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "prompt", "head", "training"),
    [
        ("encoder", {}, "warm-started", {}),
        ("encoder", {}, "warm-started", {"label_smoothing": 0.1}),
        ("encoder", {}, "warm-started", {"gradient_checkpointing": True}),
        ("decoder", PROMPT, "pretrained", {}),
        ("decoder", PROMPT, "pretrained", {"label_smoothing": 0.1, "method": "lora", "lora_targets": "all-linear"}),
        ("t5", {}, "pretrained", {}),
        ("t5", {}, "pretrained", {"method": "lora", "lora_targets": "all-linear"}),
    ],
)
def test_from_before_to_after_training(
    name: str,
    prompt: dict[str, Any],
    head: str,
    training: dict[str, Any],
    rows: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    model: Path = request.getfixturevalue(name)
    settings = {"training": {"max_length": 16}, "generation": SHORT | prompt}
    common = {"kind_name": "summarization", "labels": []}
    evaluating = common | {"settings": {"generation": settings["generation"]}}
    channel, tokens, trained = Channel(io.StringIO()), tmp_path / "tokens", tmp_path / "model"
    found = tokenize(channel, **tokenize_arguments(rows, model, tokens) | common | {"settings": settings})
    assert found["train"]["features"] == 48
    (tokens / "dataset").symlink_to(rows)

    def scores(folder: Path, *, trained: bool) -> tuple[dict[str, Any], pd.DataFrame]:
        output = tmp_path / f"scores-{trained}"
        output.mkdir(exist_ok=True)
        answer = evaluate(channel, **evaluate_arguments(tokens, folder, output) | evaluating | {"trained": trained})
        return answer, pd.read_parquet(output / "predictions.parquet")

    before, _ = scores(model, trained=False)
    # Adapters learn slowly here: the embeddings beside them are random, and stay so.
    slowly = "method" in training
    how = {"epochs": 16, "learning_rate": 0.02} if slowly else {"epochs": 8, "learning_rate": 0.01}
    arguments = train_arguments(tokens, model, trained, **how, **training)
    answer = train(channel, **arguments | evaluating)
    after, table = scores(trained, trained=True)
    assert (before["head"], after["head"]) == (head, "trained")
    assert before["metrics"]["rougeL"] < 0.2
    least = 0.15 if slowly else 0.8
    assert after["metrics"]["rougeL"] > before["metrics"]["rougeL"] + least
    assert answer["validation"]["rougeL"] > least
    assert table["score"].mean() == pytest.approx(after["metrics"]["rougeL"])
    assert table["reference"].tolist() == datasets.Dataset.load_from_disk(str(rows / "test"))["summary"][:]
    # What is loaded anew writes what was scored, one by one too: the padding of a batch takes no part in it.
    kind = bind("summarization", settings)
    tokenizer = load_tokenizer(trained, remote_code=False)
    again, _ = load_model(kind, trained, tokenizer, trained=True, allow_pickle=False, remote_code=False)
    test = datasets.Dataset.load_from_disk(str(tokens / "test"))["input_ids"][:]
    collator = kind.collator(tokenizer, train=False)
    assert [kind.predict(again.eval(), tokenizer, collator([{"input_ids": ids}]))[0] for ids in test] == list(table["prediction"])
    assert json.loads((trained / "generation_config.json").read_text(encoding="utf-8"))["max_new_tokens"] == 6


def test_the_card_names_data_metrics_models_and_source() -> None:
    import tasks.kinds.summarization as module

    assert all(re.search(rf"^{word}: ", module.__doc__ or "", re.MULTILINE) for word in ("Data", "Metrics", "Models", "Source"))
    assert KIND is Summarization
