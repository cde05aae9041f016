"""Causal language modelling: every token counted once, documents kept apart, and that it is learnt."""

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tasks.compute.attention import attend
from tasks.compute.loss import vocabulary_loss
from tasks.compute.smoothing import smoothed_loss
from tasks.data.files import Part
from tasks.data.rows import read_split
from tasks.encoding.padding import IGNORED
from tasks.errors import DataError
from tasks.kinds.causal_lm import KIND, CausalLMConfig
from tests.tasks.kinds.language_models import Lab, logits_in_training, texts

SETTINGS: dict[str, Any] = {"training": {"epochs": 3, "learning_rate": 0.01, "batch_size": 8, "max_length": 16}}
LOADING = {"trained": False, "allow_pickle": False, "remote_code": False}
CHAT = [{"role": "user", "content": "goal"}, {"role": "assistant", "content": "team é"}]


def kind(**settings: Any) -> Any:
    return KIND(CausalLMConfig.model_validate({**SETTINGS, **settings}))


def features_of(bound: Any, tokenizer: Any, rows: dict[str, list[Any]], *, train: bool) -> tuple[list[dict[str, Any]], Any]:
    encoded = bound.encode(tokenizer, rows, train=train)
    columns = encoded.features
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)], encoded


def rows_of(count: int) -> dict[str, list[str]]:
    return {"id": [str(number) for number in range(count)], "text": [row["text"] for row in texts(count, 2)]}


@pytest.fixture(params=["encoder", "decoder"])
def model_folder(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture
def tokenizer(model_folder: Path):
    from tasks.compute.models import load_tokenizer

    return load_tokenizer(model_folder, remote_code=False)


@pytest.fixture
def model(model_folder: Path):
    torch.manual_seed(0)
    return kind().load_model(model_folder, **LOADING)[0].eval()


def nats_of(model: Any, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    return -logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def test_a_document_costs_what_its_tokens_cost_one_after_the_other(model, tokenizer) -> None:
    bound, rows = kind(training={"max_length": 60}), rows_of(6)
    items, encoded = features_of(bound, tokenizer, rows, train=False)
    assert encoded.rows == list(range(6))
    with torch.inference_mode():
        outputs = bound.predict(model, tokenizer, bound.collator(tokenizer, train=False)(items))
    owners = datasets.Dataset.from_dict({"row": encoded.rows})
    predictions = bound.gather(outputs, owners, datasets.Dataset.from_dict(rows))
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.eos_token_id
    for row, text in enumerate(rows["text"]):
        ids = [first, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        assert predictions["nats"][row] == pytest.approx(nats_of(model, ids).sum(), rel=1e-5)
        assert predictions["tokens"][row] == len(ids) - 1
    statistics = bound.statistics(predictions, rows)
    np.testing.assert_array_equal(statistics[:, 2], [len(text.encode()) for text in rows["text"]])
    nats, tokens, size = statistics.sum(0)
    assert bound.metrics(statistics.sum(0)) == pytest.approx(
        {"bits_per_byte": nats / size / math.log(2), "perplexity": math.exp(nats / tokens), "loss": nats / tokens}
    )
    np.testing.assert_allclose(bound.row_scores(predictions, rows), -statistics[:, 0] / statistics[:, 2] / math.log(2))


@pytest.mark.parametrize("context", [0.0, 0.5, 0.9])
def test_long_documents_are_read_in_windows_and_each_token_is_counted_once(model, tokenizer, context: float) -> None:
    bound = kind(language={"context": context})
    text = " ".join(row["text"] for row in texts(12, 4))
    rows = {"id": ["0", "1"], "text": [text, "goal"]}
    items, encoded = features_of(bound, tokenizer, rows, train=False)
    with torch.inference_mode():
        outputs = bound.predict(model, tokenizer, bound.collator(tokenizer, train=False)(items))
    found = bound.gather(outputs, datasets.Dataset.from_dict({"row": encoded.rows}), datasets.Dataset.from_dict(rows))
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.eos_token_id
    ids = [first, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    assert found["tokens"].tolist() == [len(ids) - 1, 1]
    # By hand: after its first window, each token is predicted out of the window that it is new in.
    repeated = max(1, int(16 * context))
    expected, seen = nats_of(model, ids[:16]).sum(), 16
    while seen < len(ids):
        start = seen - repeated
        expected += nats_of(model, ids[start : start + 16])[repeated - 1 :].sum()
        seen = start + 16
    assert found["nats"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("packing", ["isolated", "none"])
def test_training_reads_each_document_as_if_it_stood_alone(model, tokenizer, packing: str) -> None:
    bound, rows = kind(language={"packing": packing}), rows_of(8)
    items, _ = features_of(bound, tokenizer, rows, train=True)
    batch = bound.collator(tokenizer, train=True)(items)
    with torch.inference_mode():
        loss = model(**batch).loss.item()
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.eos_token_id
    stream = [[first, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in rows["text"]]
    pieces = []
    if packing == "isolated":
        assert [token for item in items for token in item["input_ids"]] == [token for ids in stream for token in ids]
        assert {len(item["input_ids"]) for item in items[:-1]} == {16}
        for item in items:
            ends = np.cumsum(item["parts"])
            pieces += [item["input_ids"][end - size : end] for end, size in zip(ends, item["parts"], strict=True)]
    else:
        pieces = [ids[start : start + 16] for ids in stream for start in range(0, len(ids), 16)]
    costs = np.concatenate([nats_of(model, piece) for piece in pieces if len(piece) > 1])
    assert bound.loss_items(batch) == len(costs)
    assert loss == pytest.approx(costs.mean(), rel=1e-4)


def test_joined_documents_see_those_before_them(tokenizer) -> None:
    items, _ = features_of(kind(language={"packing": "joined"}), tokenizer, rows_of(8), train=True)
    assert {len(item["input_ids"]) for item in items[:-1]} == {16}
    assert set(items[0]) == {"input_ids", "labels"}
    batch = kind().collator(tokenizer, train=True)(items)
    assert batch["attention_mask"].ndim == 2


def test_a_block_belongs_to_the_row_that_its_first_token_is_of(tokenizer) -> None:
    rows = {"id": ["0", "1", "2"], "text": ["goal " * 20, "team", "coach " * 40]}
    items, encoded = features_of(kind(), tokenizer, rows, train=True)
    owners = [row for row, text in enumerate(rows["text"]) for _ in range(len(text.split()) + 2)]
    assert encoded.rows == [owners[number * 16] for number in range(len(items))]


def test_of_a_prompt_nothing_is_learnt_or_counted(tokenizer) -> None:
    rows = {"id": ["0"], "prompt": ["goal team"], "completion": [" coach é"]}
    for train in (True, False):
        (item,), _ = features_of(kind(), tokenizer, rows, train=train)
        labels = [label for label in item["labels"] if label != IGNORED]
        assert tokenizer.convert_ids_to_tokens(labels) == ["coach", "[UNK]", *(["[SEP]"] if train else [])]
    predictions = {"nats": np.array([math.log(2)]), "tokens": np.array([2.0])}
    np.testing.assert_allclose(kind().statistics(predictions, rows), [[math.log(2), 2, len(" coach é".encode())]])


def test_of_a_conversation_the_assistants_messages_are_learnt_and_counted(model, tokenizer) -> None:
    rows = {"id": ["0", "1"], "messages": [json.dumps(CHAT), json.dumps([*CHAT, *CHAT])]}
    items, encoded = features_of(kind(training={"max_length": 60}), tokenizer, rows, train=False)
    predicted = [sum(label != IGNORED for label in item["labels"]) for item in items]
    assert (encoded.rows, predicted) == ([0, 1], [2, 4])
    statistics = kind().statistics({"nats": np.ones(2), "tokens": np.array([2.0, 4.0])}, rows)
    np.testing.assert_array_equal(statistics[:, 2], [len("team é".encode()), 2 * len("team é".encode())])
    (first, _) = kind(language={"sample_tokens": 3}).samples(model, tokenizer, datasets.Dataset.from_dict(rows))
    assert first["prompt"] == "user: goal\nassistant:"


@pytest.fixture(scope="module")
def lab(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    splits = {"train": texts(50, 1), "validation": texts(10, 2), "test": texts(12, 3)}
    made = Lab(tmp_path_factory.mktemp("lab"), "causal-lm", encoder, SETTINGS, **splits)
    made.tokenize()
    return made


def test_on_a_cpu_training_has_its_own_dropout_and_attention(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", sdpa_attention_forward)

    def draw() -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return torch.nn.functional.dropout(torch.ones(64, requires_grad=True), 0.5)

    class See(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
            seen.append((model.config._attn_implementation, ALL_ATTENTION_FUNCTIONS["sdpa"], draw()))

    own, seen = draw(), []
    monkeypatch.setattr("transformers.trainer.DEFAULT_CALLBACKS", [*transformers.trainer.DEFAULT_CALLBACKS, See()])
    answer, _ = lab.train(epochs=1)
    assert len(seen) == answer["steps"]
    for name, attention, drawn in seen:
        assert name == "sdpa"
        assert attention is attend
        assert not torch.equal(drawn, own)
    assert torch.equal(draw(), own)


def test_what_is_learnt_from_is_the_models_own_loss(encoder: Path, tokenizer: Any) -> None:
    torch.manual_seed(0)
    bound = kind()
    model = bound.load_model(encoder, **LOADING)[0].eval()
    features, _ = features_of(bound, tokenizer, rows_of(6), train=True)
    batch = bound.collator(tokenizer, train=True)(features)
    # What a prompt has for labels: it is read, and not learnt from.
    batch["labels"][:, 2:5] = IGNORED
    own, logits, labels = bound.loss(model, batch)
    assert own is None
    loss = vocabulary_loss(logits, labels, keep=True)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    output = model(**batch)
    for one, other in zip(gradients, torch.autograd.grad(output.loss, list(model.parameters()), allow_unused=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-5)
    places = batch["labels"][:, 1:] != IGNORED
    torch.testing.assert_close(logits, output.logits[:, :-1][places])
    assert torch.equal(labels, batch["labels"][:, 1:][places])


def test_what_a_models_own_loss_has_besides_is_learnt_from_too() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    experts = {"num_key_value_heads": 1, "num_local_experts": 2, "output_router_logits": True, "router_aux_loss_coef": 1.0}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **experts)).eval()
    tokens = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    loss, logits, labels = kind().loss(model, batch)
    output = model(**batch)
    assert loss.item() == pytest.approx(output.loss.item())
    told = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    assert loss.item() == pytest.approx(told + output.aux_loss.item(), rel=1e-5)
    assert output.aux_loss.item() > 0.1


def test_in_bf16_logits_are_learnt_from_as_they_are(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(logits: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(logits.dtype)
        return vocabulary_loss(logits, *arguments, **options)

    monkeypatch.setattr("tasks.compute.trainer.vocabulary_loss", spy)
    answer, _ = lab.train(epochs=1, precision="bf16")
    assert seen == [torch.bfloat16] * answer["steps"]


def test_smoothed_labels_are_of_the_logits_that_the_loss_is_of(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        told = torch.nn.functional.cross_entropy(logits.detach(), labels).item()
        seen.append((loss.item(), pytest.approx(told, rel=1e-5), share))
        return smoothed_loss(loss, logits, labels, share)

    monkeypatch.setattr("tasks.compute.trainer.smoothed_loss", spy)
    answer, _ = lab.train(epochs=1, label_smoothing=0.1)
    assert len(seen) == answer["steps"]
    assert all(loss == told and share == 0.1 for loss, told, share in seen)


def test_training_computes_logits_for_the_tokens_to_predict_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(computed == wanted for computed, wanted in logits_in_training(lab, monkeypatch))


def test_it_learns_and_the_saved_model_is_the_one_that_was_scored(lab: Lab) -> None:
    before, old = lab.evaluate(lab.model, trained=False)
    _, folder = lab.train()
    after, new = lab.evaluate(folder, trained=True)
    assert after["metrics"]["bits_per_byte"] < 0.7 * before["metrics"]["bits_per_byte"]
    assert (before["head"], after["head"]) == ("warm-started", "trained")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = datasets.Dataset.load_from_disk(str(lab.rows / "test"))
    documents = [[tokenizer.cls_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in rows["text"]]
    short = [row for row, ids in enumerate(documents) if len(ids) <= 16]
    assert short
    table = datasets.Dataset.from_parquet(str(new / "predictions.parquet"), cache_dir=str(lab.root / "cache"))
    for row in short:
        assert table[row]["nats"] == pytest.approx(nats_of(model.eval(), documents[row]).sum(), rel=1e-4)
        assert table[row]["bytes"] == len(rows[row]["text"].encode())
    samples = [json.loads((folder / "samples.json").read_text(encoding="utf-8")) for folder in (old, new)]
    prompts = [[sample["prompt"] for sample in found] for found in samples]
    assert prompts[0] == prompts[1]
    assert len(prompts[0]) == 4
    assert samples[0] != samples[1]


def test_continuations_are_greedy_and_leave_room_for_the_prompt(model, tokenizer) -> None:
    rows = datasets.Dataset.from_dict({"id": ["0"], "prompt": ["goal " * 80], "completion": ["team"]})
    bound = kind(language={"samples": 3, "sample_tokens": 5})
    first, second = (bound.samples(model, tokenizer, rows) for _ in range(2))
    assert first == second
    assert first[0]["prompt"] == "goal " * 80
    first_token = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.eos_token_id
    ids = ([first_token] + tokenizer("goal " * 80, add_special_tokens=False, verbose=False)["input_ids"])[-59:]
    for _ in range(5):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    assert first[0]["text"] == tokenizer.decode(ids[59:], skip_special_tokens=True)


@pytest.mark.parametrize("tokens", [63, 64, 1000])
def test_continuations_end_where_the_model_does(model, tokenizer, tokens: int) -> None:
    rows = datasets.Dataset.from_dict({"id": ["0"], "text": ["goal " * 80]})
    (found,) = kind(language={"sample_tokens": tokens}).samples(model, tokenizer, rows)
    assert len(tokenizer.tokenize(found["text"])) <= 64 // 2


def test_continuations_take_the_most_probable_token_whatever_the_models_own_settings(model, tokenizer) -> None:
    rows, bound = datasets.Dataset.from_dict(rows_of(3)), kind(language={"sample_tokens": 8})
    expected = bound.samples(model, tokenizer, rows)
    model.generation_config.repetition_penalty, model.generation_config.no_repeat_ngram_size = 9.0, 1
    assert bound.samples(model, tokenizer, rows) == expected


def test_a_conversation_that_the_template_does_not_ask_an_answer_to_shows_none(model, tokenizer, monkeypatch) -> None:
    template = (
        "{% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    rows = {"id": ["0"], "messages": [json.dumps(CHAT)]}
    assert kind().samples(model, tokenizer, datasets.Dataset.from_dict(rows)) == []


def test_a_completion_is_learnt_with_its_whole_prompt(tokenizer) -> None:
    rng = np.random.default_rng(0)
    prompts = ["goal " * count for count in rng.integers(1, 12, 40)]
    rows = {"id": [str(number) for number in range(40)], "prompt": prompts, "completion": ["team"] * 40}
    items, encoded = features_of(kind(), tokenizer, rows, train=True)
    found = []
    for item in items:
        ends = np.cumsum(item["parts"])
        for end, size in zip(ends, item["parts"], strict=True):
            piece = item["input_ids"][end - size : end]
            text = tokenizer.decode(piece, skip_special_tokens=True)
            assert text.endswith("team")
            found.append(text.removesuffix("team").strip())
    assert sorted(found) == sorted(prompt.strip() for prompt in prompts)
    assert all(item["input_ids"][1] for item in items)
    assert set(encoded.rows) <= set(range(40))


def test_blocks_with_nothing_to_learn_are_left_out(tokenizer) -> None:
    rows = {"id": ["0"], "prompt": ["goal " * 60], "completion": ["team"]}
    for packing in ("isolated", "joined", "none"):
        items, _ = features_of(kind(language={"packing": packing}), tokenizer, rows, train=True)
        assert [[label for label in item["labels"] if label != IGNORED] for item in items] == [
            [tokenizer.convert_tokens_to_ids("team"), tokenizer.eos_token_id]
        ]


def test_rows_with_one_prompt_are_different_rows() -> None:
    bound = kind(data={"prompt_column": "p", "completion_column": "c"})
    (batch,) = read(bound, [{"p": "Summarize:", "c": word} for word in ("goal", "team", "goal")])
    assert batch["hash"][0] == batch["hash"][2] != batch["hash"][1]


def read(bound: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    columns = tuple(rows[0])
    part = Part("rows.jsonl", columns, lambda names: iter([{name: [row[name] for row in rows] for name in names}]))
    written: list[dict[str, Any]] = []
    read_split([bound.adapt(part)], bound.columns(), None, {}, written.append, check=bound.fault)
    return written


def test_conversations_are_read_as_json_whatever_the_source_has() -> None:
    bound = kind(data={"messages_column": "turns"})
    (batch,) = read(bound, [{"turns": CHAT, "id": 1}, {"turns": json.dumps(CHAT), "id": 2}, {"turns": None, "id": 3}])
    assert [json.loads(text) if text else None for text in batch["messages"]] == [CHAT, CHAT, None]
    assert "é" in batch["messages"][0]
    assert bound.shown_row({"messages": batch["messages"][0]}) == (["user: goal", "assistant: team é"], "")


@pytest.mark.parametrize(
    ("data", "row", "fault"),
    [
        (
            {"prompt_column": "p", "completion_column": "c"},
            {"p": "goal", "c": " "},
            "column 'c' is ' ', so its completion is missing",
        ),
        ({"messages_column": "m"}, {"m": [{"role": "user"}]}, "of which message 1 has no text as its 'content'"),
        ({"messages_column": "m"}, {"m": "Hello"}, "column 'm' is 'Hello', which is not JSON"),
        ({"messages_column": "m"}, {"m": CHAT[:1]}, "in which no message has the role 'assistant', so there is nothing to learn"),
        ({"text_column": "body"}, {"text": "goal"}, "Column 'body' is not in 'rows.jsonl'; it has 'text'. Set data.text_column."),
        ({}, {"text": " "}, "All texts of 'rows.jsonl' are empty in column 'text'. Set data.text_column."),
    ],
)
def test_wrong_rows_are_a_data_error_of_one_line(data: dict[str, str], row: dict[str, Any], fault: str) -> None:
    with pytest.raises(DataError) as caught:
        read(kind(data=data), [row])
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_conversation_without_an_assistant_can_be_learnt_as_a_whole() -> None:
    bound = kind(data={"messages_column": "m"}, language={"loss_on": "everything"})
    assert len(read(bound, [{"m": CHAT[:1]}])) == 1


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"prompt_column": "p"}, "go together; set both or none"),
        ({"completion_column": "c"}, "go together; set both or none"),
        ({"prompt_column": "p", "completion_column": "p"}, "must be different columns, not both 'p'"),
        ({"prompt_column": "p", "completion_column": "c", "messages_column": "m"}, "exclude each other"),
    ],
)
def test_columns_must_go_together(data: dict[str, str], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        CausalLMConfig.model_validate({"data": data})


def test_what_the_report_says_beside_the_metrics() -> None:
    import pandas as pd

    table = pd.DataFrame({"tokens": [3, 20, 15]})
    assert kind().analysis(table, table) == {"sources": ["2 of 3 test rows are shorter than a block of 16 tokens."]}
    assert kind().shown_prediction({"score": -1.25}) == "1.250 bits per byte"
    assert kind().shown_row({"prompt": "goal", "completion": "team"}) == (["goal"], "team")
