"""Tests of text classification: its columns, its models and its encoding."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tasks.errors import ModelError
from tasks.kinds.text_classification import KIND, TextClassification, TextClassificationConfig
from tests.helpers import make_encoder

LABELS = ["sport", "market", "space"]
LOADING = {"trained": False, "allow_pickle": False, "remote_code": False}


def kind(labels: list[str] = LABELS, **settings: object) -> TextClassification:
    return KIND(TextClassificationConfig.model_validate(settings), tuple(labels))


def test_losses_and_errors_are_better_when_lower() -> None:
    metrics = kind(["a", "b"]).metrics(np.array([1, 1, 1, 1, 1, 1, 0]))
    assert KIND.lower_is_better & set(metrics) == {"log_loss", "calibration_error"}
    assert KIND.unbounded & set(metrics) == {"log_loss"}
    assert kind().primary_metric in metrics


def test_columns_follow_the_settings() -> None:
    columns = kind(data={"text_column": "body", "label_column": "class"}).columns()
    assert [(column.role, column.name, column.form, column.setting) for column in columns] == [
        ("text", "body", "text", "data.text_column"),
        ("label", "class", "label", "data.label_column"),
    ]
    pair = kind(data={"pair_column": "other"}).columns()[1]
    assert (pair.role, pair.name, pair.form, pair.setting) == ("pair", "other", "text", "data.pair_column")


@pytest.mark.parametrize("data", [{"label_column": "text"}, {"pair_column": "text"}, {"pair_column": "label"}])
def test_one_column_cannot_play_two_parts(data: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="must be different columns"):
        TextClassificationConfig.model_validate({"data": data})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("models") / "classifier", labels=LABELS)


def stored_head(folder: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")["classifier.weight"]


@pytest.mark.parametrize(
    ("labels", "head"),
    [
        (LABELS, "pretrained"),
        (LABELS[::-1], "fresh"),
        (["cat", "dog", "cow"], "fresh"),
        (LABELS[:2], "fresh"),
        ([*LABELS, "more"], "fresh"),
    ],
)
def test_a_head_is_kept_only_for_the_same_labels_in_the_same_order(classifier: Path, labels: list[str], head: str) -> None:
    model, found = kind(labels).load_model(classifier, **LOADING)
    assert found == head
    assert torch.equal(model.classifier.weight, stored_head(classifier)) == (head == "pretrained")
    assert model.classifier.weight.shape == (len(labels), 32)
    assert model.classifier.weight.std() > 0.01
    assert model.classifier.bias.eq(0).all()
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.label2id == {label: number for number, label in enumerate(labels)}


def test_a_head_without_names_fits_as_many_labels(classifier: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(classifier, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"id2label": {number: f"LABEL_{number}" for number in range(3)}}
    config |= {"label2id": {f"LABEL_{number}": number for number in range(3)}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert kind().load_model(folder, **LOADING)[1] == "pretrained"


@pytest.mark.parametrize(
    ("problem_type", "head"),
    [
        (None, "pretrained"),
        ("single_label_classification", "pretrained"),
        # It was trained to decide each label by itself: its logits are not for a choice among them.
        ("multi_label_classification", "fresh"),
        ("regression", "fresh"),
    ],
)
def test_a_head_is_kept_only_if_it_chooses_one_class(
    classifier: Path, tmp_path: Path, problem_type: str | None, head: str
) -> None:
    folder = shutil.copytree(classifier, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"problem_type": problem_type}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model, found = kind().load_model(folder, **LOADING)
    assert found == head
    assert model.config.problem_type == "single_label_classification"


def test_an_encoder_gets_a_fresh_head_that_the_seed_decides(encoder: Path) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model, head = kind().load_model(encoder, **LOADING)
        assert head == "fresh"
        assert model.dtype == torch.float32
        heads.append(model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_renewing_a_head_leaves_the_body_as_it_was(classifier: Path) -> None:
    kept, renewed = (kind(labels).load_model(classifier, **LOADING)[0] for labels in (LABELS, LABELS[::-1]))
    for name, weight in kept.bert.state_dict().items():
        assert torch.equal(weight, renewed.bert.state_dict()[name]), name


def test_a_trained_model_must_have_all_its_weights(classifier: Path, encoder: Path) -> None:
    trained = LOADING | {"trained": True}
    assert kind().load_model(classifier, **trained)[1] == "trained"
    with pytest.raises(ModelError, match=r"lacks trained weights: .*classifier\.weight"):
        kind().load_model(encoder, **trained)
    with pytest.raises(ModelError, match="lacks trained weights"):
        kind(LABELS[:2]).load_model(classifier, **trained)


def test_pickled_weights_are_refused_unless_allowed(encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = shutil.copytree(encoder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded for text-classification"):
        kind().load_model(folder, **LOADING)
    model, _ = kind().load_model(folder, **LOADING | {"allow_pickle": True})
    expected = load_file(encoder / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, expected)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"not tensors"),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no-such-type"}'),
    ],
)
def test_damaged_files_are_a_model_error_of_one_line(encoder: Path, tmp_path: Path, name: str, content: bytes) -> None:
    folder = shutil.copytree(encoder, tmp_path / "damaged")
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be loaded for text-classification") as caught:
        kind().load_model(folder, **LOADING)
    assert "\n" not in str(caught.value)


def test_a_damaged_pickle_is_a_model_error(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "damaged")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
    with pytest.raises(ModelError, match="cannot be loaded for text-classification"):
        kind().load_model(folder, **LOADING | {"allow_pickle": True})


@pytest.fixture
def tokenizer(encoder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder)


def test_rows_longer_than_the_limit_are_cut_and_counted(tokenizer) -> None:
    # With [CLS] and [SEP] the rows have 4, 5 and 6 tokens.
    batch = {"text": ["match goal", "match goal team", "match goal team coach"], "label": [0, 1, 2]}
    encoded = kind(training={"max_length": 5}).encode(tokenizer, batch, train=True)
    assert encoded.truncated == [False, False, True]
    assert encoded.features["labels"] == [0, 1, 2]
    words = [tokenizer.convert_ids_to_tokens(ids) for ids in encoded.features["input_ids"]]
    assert words[0] == ["[CLS]", "match", "goal", "[SEP]"]
    assert words[1] == words[2] == ["[CLS]", "match", "goal", "team", "[SEP]"]


def test_of_a_pair_the_longer_text_is_cut_first(tokenizer) -> None:
    batch = {"text": ["goal", "goal"], "pair": ["orbit", "orbit rocket planet launch comet"], "label": [0, 1]}
    encoded = kind(training={"max_length": 6}).encode(tokenizer, batch, train=True)
    assert encoded.truncated == [False, True]
    words = [tokenizer.convert_ids_to_tokens(ids) for ids in encoded.features["input_ids"]]
    assert words == [
        ["[CLS]", "goal", "[SEP]", "orbit", "[SEP]"],
        ["[CLS]", "goal", "[SEP]", "orbit", "rocket", "[SEP]"],
    ]


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_a_pair_has_the_end_token_between_where_the_tokenizer_puts_nothing(name: str) -> None:
    from tests.tokenizers_made import make_tokenizer

    tokenizer = make_tokenizer(name)
    batch = {
        "text": ["the match", "the match was", "the " * 20],
        "pair": ["was after", "after", "match " * 20],
        "label": [0, 1, 0],
    }
    ids = kind(training={"max_length": 16}).encode(tokenizer, batch, train=True).features["input_ids"]
    assert [row.count(tokenizer.eos_token_id) for row in ids] == [1, 1, 1]
    assert ids[0] != ids[1]
    assert ids[0][: ids[0].index(tokenizer.eos_token_id)] == tokenizer("the match")["input_ids"]
    assert len(ids[2]) == 16
    alone = kind().encode(tokenizer, {"text": ["the match"], "label": [0]}, train=True).features["input_ids"]
    assert alone == [tokenizer("the match")["input_ids"]]


@pytest.mark.parametrize("name", ["roberta", "t5"])
def test_a_pair_is_as_the_tokenizer_has_it_where_that_parts_the_texts(name: str) -> None:
    from tests.tokenizers_made import make_tokenizer

    tokenizer = make_tokenizer(name)
    ids = kind().encode(tokenizer, {"text": ["the match"], "pair": ["goal"], "label": [0]}, train=True).features["input_ids"]
    assert ids == [tokenizer("the match", "goal")["input_ids"]]


def test_segments_are_kept_where_the_model_takes_them(tokenizer) -> None:
    batch = {"text": ["goal"], "pair": ["orbit"], "label": [0]}
    assert "token_type_ids" not in kind().encode(tokenizer, batch, train=True).features
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert kind().encode(tokenizer, batch, train=True).features["token_type_ids"] == [[0, 0, 0, 1, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_where_the_tokenizer_pads_and_has_a_label_a_row(tokenizer, side: str) -> None:
    tokenizer.padding_side = side
    batch = kind().collator(tokenizer, train=True)([{"input_ids": [7] * length, "labels": length} for length in (3, 8)])
    pads, ids = [0] * 5, [7] * 3
    assert batch["input_ids"].tolist() == [[*pads, *ids] if side == "left" else [*ids, *pads], [7] * 8]
    assert batch["labels"].tolist() == [3, 8]


def test_predictions_are_probabilities_in_float32(encoder: Path, tokenizer) -> None:
    model, _ = kind().load_model(encoder, **LOADING)
    model.eval()
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "labels": torch.tensor([0])}
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"]).logits.numpy().astype(float)
        found = kind().predict(model, tokenizer, batch)
        reduced = kind().predict(model.to(torch.bfloat16), tokenizer, batch)
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)
    assert found.dtype == reduced.dtype == np.float32
    assert reduced.sum() == pytest.approx(1, abs=1e-5)


def test_a_row_scores_one_where_its_most_probable_class_is_right() -> None:
    predictions = {"probabilities": np.array([[0.5, 0.2, 0.3], [0.1, 0.2, 0.7]], np.float32)}
    rows = {"label": [0, 1]}
    assert kind().row_scores(predictions, rows).tolist() == [1, 0]
    table = kind().table(predictions, rows)
    assert table["label"].to_pylist() == ["sport", "market"]
    assert table["prediction"].to_pylist() == ["sport", "space"]
    assert table["fine_score"].to_pylist() == pytest.approx([0.5, 0.2])


def test_the_report_shows_texts_label_and_how_sure_the_model_was() -> None:
    assert kind().shown_row({"id": "1", "text": "a", "pair": "b", "label": 2}) == (["a", "b"], "space")
    assert kind().shown_prediction({"prediction": "sport", "probabilities": np.array([0.625, 0.25, 0.125])}) == "sport (0.62)"
