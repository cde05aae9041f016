"""Tests of text classification: its metrics against hand-worked cases and scikit-learn, its models and its encoding."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn import metrics as sk

from tasks.config import DataSettings
from tasks.errors import ModelError
from tasks.kinds.text_classification import KIND, TextClassificationConfig
from tests.helpers import make_encoder

LABELS = ["sport", "market", "space"]
LOADING = {"trained": False, "allow_pickle": False, "remote_code": False}


def sums_of(cells: list[list[int]], nats: float = 0.0) -> np.ndarray:
    return np.array([*np.ravel(cells), nats], float)


def certain(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


def test_metrics_of_a_worked_confusion() -> None:
    # Rows are labels, columns predictions:
    #        a  b  c | support        precision   recall   F1 = 2 * right / (support + predicted)
    #   a    4  1  0 | 5          a   4/6         4/5      8/11
    #   b    2  3  0 | 5          b   3/4         3/5      6/9
    #   c    0  0  2 | 2          c   2/2         2/2      4/4
    #        6  4  2 | 12 rows, 9 right
    # Matthews: (9 * 12 - (6*5 + 4*5 + 2*2)) / sqrt(144 - (36+16+4)) / sqrt(144 - (25+25+4)) = 54 / sqrt(88 * 90)
    found = KIND.metrics(sums_of([[4, 1, 0], [2, 3, 0], [0, 0, 2]], nats=6.0), ["a", "b", "c"])
    assert found == pytest.approx(
        {
            "accuracy": 9 / 12,
            "f1_weighted": (5 * 8 / 11 + 5 * 6 / 9 + 2) / 12,
            "f1_macro": (8 / 11 + 6 / 9 + 1) / 3,
            "matthews_correlation": 54 / (88 * 90) ** 0.5,
            "log_loss": 0.5,
            **{"precision/a": 4 / 6, "precision/b": 3 / 4, "precision/c": 1.0},
            **{"recall/a": 4 / 5, "recall/b": 3 / 5, "recall/c": 1.0},
            **{"f1/a": 8 / 11, "f1/b": 6 / 9, "f1/c": 1.0},
        },
        abs=1e-12,
    )


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([[5, 0], [0, 5]], {"accuracy": 1, "f1_macro": 1, "matthews_correlation": 1}),
        ([[0, 5], [5, 0]], {"accuracy": 0, "f1_macro": 0, "matthews_correlation": -1}),
        # One class for every row: nothing is learnt, whatever the accuracy says.
        ([[9, 0], [1, 0]], {"accuracy": 0.9, "matthews_correlation": 0, "precision/b": 0, "recall/b": 0, "f1/b": 0}),
        # A class without rows that was predicted once, and one that neither occurs nor is predicted.
        ([[3, 1], [0, 0]], {"recall/b": 0, "precision/b": 0, "recall/a": 0.75, "precision/a": 1, "f1_weighted": 6 / 7}),
        ([[4, 0], [0, 0]], {"accuracy": 1, "f1/b": 0, "f1_macro": 0.5, "matthews_correlation": 0}),
    ],
)
def test_metrics_at_the_borders(cells: list[list[int]], expected: dict[str, float]) -> None:
    found = KIND.metrics(sums_of(cells), ["a", "b"])
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, rows = int(rng.integers(2, 7)), int(rng.integers(5, 400))
    logits = rng.normal(0, 3, (rows, classes)).astype(np.float32)
    references = rng.integers(0, classes, rows)
    if seed % 4 == 1:
        logits[:, -1] = -50  # a class that is never predicted
    if seed % 4 == 2:
        references %= classes - 1  # a class without rows
    if seed % 4 == 3:
        logits[np.arange(rows), references] += 4  # a good classifier
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    predicted, numbers, labels = scores.argmax(1), list(range(classes)), [f"c{number}" for number in range(classes)]

    found = KIND.metrics(KIND.statistics(scores, references).sum(0), labels)

    options = {"labels": numbers, "zero_division": 0}
    expected = {
        "accuracy": sk.accuracy_score(references, predicted),
        "f1_weighted": sk.f1_score(references, predicted, average="weighted", **options),
        "f1_macro": sk.f1_score(references, predicted, average="macro", **options),
        "matthews_correlation": sk.matthews_corrcoef(references, predicted),
    }
    per_class = sk.precision_recall_fscore_support(references, predicted, **options)[:3]
    for name, values in zip(("precision", "recall", "f1"), per_class, strict=True):
        expected |= {f"{name}/{label}": value for label, value in zip(labels, values, strict=True)}
    assert found.pop("log_loss") == pytest.approx(sk.log_loss(references, scores, labels=numbers), rel=1e-5)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_row_counts_in_its_cell_and_with_its_surprise() -> None:
    found = KIND.statistics(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32), np.array([0, 1]))
    # Label 0 taken for 1: cell 0 * 2 + 1. A tie goes to the first class: label 1 taken for 0 is cell 1 * 2 + 0.
    np.testing.assert_allclose(found, [[0, 1, 0, 0, np.log(4)], [0, 0, 1, 0, np.log(2)]])


def test_certainty_in_the_wrong_class_costs_much_but_not_endlessly() -> None:
    scores = certain([1, 0], 2)
    found = KIND.statistics(scores, np.array([0, 0]))[:, -1]
    assert found[0] == pytest.approx(-np.log(np.finfo(np.float32).eps))
    assert found.mean() == pytest.approx(sk.log_loss([0, 0], scores, labels=[0, 1]), rel=1e-5)


def test_log_loss_alone_is_better_when_lower() -> None:
    assert KIND.lower_is_better == {"log_loss"}
    assert KIND.primary_metric in KIND.metrics(sums_of([[1, 0], [0, 1]]), ["a", "b"])


def test_columns_follow_the_settings() -> None:
    columns = KIND.columns(DataSettings(text_column="body", label_column="class"))
    assert [(column.role, column.name, column.form, column.setting) for column in columns] == [
        ("text", "body", "text", "data.text_column"),
        ("label", "class", "label", "data.label_column"),
    ]
    pair = KIND.columns(DataSettings(pair_column="other"))[1]
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
    model, found = KIND.load_model(classifier, labels, **LOADING)
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
    assert KIND.load_model(folder, LABELS, **LOADING)[1] == "pretrained"


def test_an_encoder_gets_a_fresh_head_that_the_seed_decides(encoder: Path) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model, head = KIND.load_model(encoder, LABELS, **LOADING)
        assert head == "fresh"
        assert model.dtype == torch.float32
        heads.append(model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_renewing_a_head_leaves_the_body_as_it_was(classifier: Path) -> None:
    kept, renewed = (KIND.load_model(classifier, labels, **LOADING)[0] for labels in (LABELS, LABELS[::-1]))
    for name, weight in kept.bert.state_dict().items():
        assert torch.equal(weight, renewed.bert.state_dict()[name]), name


def test_a_trained_model_must_have_all_its_weights(classifier: Path, encoder: Path) -> None:
    trained = LOADING | {"trained": True}
    assert KIND.load_model(classifier, LABELS, **trained)[1] == "trained"
    with pytest.raises(ModelError, match=r"lacks trained weights: .*classifier\.weight"):
        KIND.load_model(encoder, LABELS, **trained)
    with pytest.raises(ModelError, match="lacks trained weights"):
        KIND.load_model(classifier, LABELS[:2], **trained)


def test_pickled_weights_are_refused_unless_allowed(encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = shutil.copytree(encoder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded for text-classification"):
        KIND.load_model(folder, LABELS, **LOADING)
    model, _ = KIND.load_model(folder, LABELS, **LOADING | {"allow_pickle": True})
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
        KIND.load_model(folder, LABELS, **LOADING)
    assert "\n" not in str(caught.value)


def test_a_damaged_pickle_is_a_model_error(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "damaged")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
    with pytest.raises(ModelError, match="cannot be loaded for text-classification"):
        KIND.load_model(folder, LABELS, **LOADING | {"allow_pickle": True})


@pytest.fixture
def tokenizer(encoder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder)


def test_rows_longer_than_the_limit_are_cut_and_counted(tokenizer) -> None:
    # With [CLS] and [SEP] the rows have 4, 5 and 6 tokens.
    batch = {"text": ["match goal", "match goal team", "match goal team coach"], "label": [0, 1, 2]}
    columns, truncated = KIND.encode(tokenizer, batch, 5)
    assert truncated == [False, False, True]
    assert columns["labels"] == [0, 1, 2]
    words = [tokenizer.convert_ids_to_tokens(ids) for ids in columns["input_ids"]]
    assert words[0] == ["[CLS]", "match", "goal", "[SEP]"]
    assert words[1] == words[2] == ["[CLS]", "match", "goal", "team", "[SEP]"]


def test_of_a_pair_the_longer_text_is_cut_first(tokenizer) -> None:
    batch = {"text": ["goal", "goal"], "pair": ["orbit", "orbit rocket planet launch comet"], "label": [0, 1]}
    columns, truncated = KIND.encode(tokenizer, batch, 6)
    assert truncated == [False, True]
    words = [tokenizer.convert_ids_to_tokens(ids) for ids in columns["input_ids"]]
    assert words == [
        ["[CLS]", "goal", "[SEP]", "orbit", "[SEP]"],
        ["[CLS]", "goal", "[SEP]", "orbit", "rocket", "[SEP]"],
    ]


def test_segments_are_kept_where_the_model_takes_them(tokenizer) -> None:
    batch = {"text": ["goal"], "pair": ["orbit"], "label": [0]}
    assert "token_type_ids" not in KIND.encode(tokenizer, batch, 6)[0]
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert KIND.encode(tokenizer, batch, 6)[0]["token_type_ids"] == [[0, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("lengths", "limit", "width"),
    [
        ([3, 5], 64, 8),
        ([8, 2], 64, 8),
        ([9, 2], 64, 16),
        ([9, 2], 12, 12),  # the model takes no multiple of 8
        ([20, 2], 12, 20),  # a row is never cut here
    ],
)
def test_a_batch_is_padded_to_a_multiple_of_8_within_the_limit(tokenizer, lengths: list[int], limit: int, width: int) -> None:
    tokenizer.model_max_length = limit
    rows = [{"input_ids": [7] * length, "labels": number} for number, length in enumerate(lengths)]
    batch = KIND.collator(tokenizer)(rows)
    assert batch["input_ids"].tolist() == [[7] * length + [0] * (width - length) for length in lengths]
    assert batch["attention_mask"].tolist() == [[1] * length + [0] * (width - length) for length in lengths]
    assert batch["labels"].tolist() == [0, 1]


def test_predictions_are_probabilities_in_float32(encoder: Path) -> None:
    model, _ = KIND.load_model(encoder, LABELS, **LOADING)
    model.eval()
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "labels": torch.tensor([0])}
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"]).logits.numpy().astype(float)
        found = KIND.predict(model, batch)
        reduced = KIND.predict(model.to(torch.bfloat16), batch)
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)
    assert found.dtype == reduced.dtype == np.float32
    assert reduced.sum() == pytest.approx(1, abs=1e-5)
