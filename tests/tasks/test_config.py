"""The configuration: closed, frozen, documented, and its faults told in one line."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.config import PRESETS, ExperimentConfig, did_you_mean, merge, parse_config, preset_names, read_config_file
from tasks.errors import ConfigError
from tasks.kinds import kind_names, load_kind

CLASSES = [ExperimentConfig, *(load_kind(name).config_class for name in kind_names())]
BOUNDS = [
    ("training", "epochs", 1, 0),
    ("training", "epochs", 1000, 1001),
    ("training", "epochs", 2, 1.5),
    ("training", "learning_rate", 1, 1.1),
    ("training", "learning_rate", 1e-9, 0),
    ("training", "learning_rate", "2e-5", "fast"),
    ("training", "learning_rate", 0.1, float("nan")),
    ("training", "batch_size", 65536, 65537),
    ("training", "weight_decay", 0, -0.1),
    ("training", "warmup_ratio", 0, 1),
    ("training", "max_length", 4, 3),
    ("training", "early_stopping_patience", None, 0),
    ("training", "precision", "bf16", "int8"),
    ("training", "device", "cuda", "tpu"),
    ("training", "processes", 1, 0),
    ("training", "processes", 16, 65),
    ("training", "processes", 2, 1.5),
    ("training", "time_limit_s", 0.5, 0),
    ("training", "time_limit_s", 1e9, float("inf")),
    ("data", "source", "x", ""),
    ("data", "revision", " a ", 5),
    ("data", "max_train_rows", None, 0),
    ("data", "max_test_rows", 1, 0),
    ("data", "duplicates", "refuse", "keep"),
    ("model", "name", "x", ""),
    ("model", "trust_remote_code", True, "perhaps"),
]
TOP_BOUNDS = [
    ("name", "a.B-1_", "-a"),
    ("name", "a" * 64, "a" * 65),
    ("name", "a", "a/b"),
    ("name", "a\n", "a\nb"),
    ("seed", 2**32 - 1, 2**32),
    ("seed", 0, -1),
    ("store", "x", ""),
    ("gpu_deployment", "gpu-stage/my gpu", "gpu-stage"),
    ("gpu_deployment", None, "a/b/c"),
    ("gpu_deployment", "a/b", "a/"),
]


def schemas(config_class: type[ExperimentConfig]) -> list[dict[str, Any]]:
    whole = config_class.model_json_schema()
    return [whole, *whole["$defs"].values()]


def schema_of(config_class: type[ExperimentConfig], field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a field refers to; it lends the field its description where both have the same."""
    definitions = config_class.model_json_schema()["$defs"]
    return definitions[field["$ref"].split("/")[-1]] if "$ref" in field else {}


@pytest.mark.parametrize("config_class", CLASSES)
def test_every_field_has_a_default_a_description_and_its_place(config_class: type[ExperimentConfig]) -> None:
    for schema in schemas(config_class):
        assert "required" not in schema
        for place, (name, field) in enumerate(schema["properties"].items()):
            described = {**schema_of(config_class, field), **field}
            assert described["description"].strip(), name
            assert field["position"] == place, name
            assert schema["additionalProperties"] is False


@pytest.mark.parametrize("config_class", CLASSES)
def test_no_field_is_a_union_of_models_or_a_choice_of_one(config_class: type[ExperimentConfig]) -> None:
    for schema in schemas(config_class):
        for name, field in schema["properties"].items():
            assert "const" not in field, name
            assert len(field.get("enum", "ab")) > 1, name
            # For one that may be null Prefect's form would draw a switch between two forms.
            assert "anyOf" not in field, name


def test_what_a_form_leaves_empty_is_nothing() -> None:
    values = {"gpu_deployment": "", "notify": "", "data": {"revision": "", "max_train_rows": ""}}
    assert ExperimentConfig.model_validate(values) == ExperimentConfig()
    with pytest.raises(ValidationError):
        ExperimentConfig.model_validate({"store": ""})


@pytest.mark.parametrize(
    ("group", "field", "title"),
    [
        ("ExperimentConfig", "gpu_wait_s", "GPU wait (seconds)"),
        ("DataSettings", "id_column", "ID column"),
        ("TrainingSettings", "learning_rate", "Learning rate"),
    ],
)
def test_titles_read_as_people_write_them(group: str, field: str, title: str) -> None:
    schema = ExperimentConfig.model_json_schema()
    found = schema if group == "ExperimentConfig" else schema["$defs"][group]
    assert found["properties"][field]["title"] == title


@pytest.mark.parametrize("config_class", CLASSES)
def test_a_config_survives_json_and_cannot_be_changed(config_class: type[ExperimentConfig]) -> None:
    config = config_class()
    assert config_class.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 3


@pytest.mark.parametrize(("group", "field", "good", "bad"), BOUNDS)
def test_the_bounds_of_a_groups_fields(group: str, field: str, good: object, bad: object) -> None:
    parse_config(ExperimentConfig, {group: {field: good}}, "x.yaml")
    with pytest.raises(ConfigError, match=rf"^Field '{group}\.{field}' in x\.yaml is .+: .+\.$"):
        parse_config(ExperimentConfig, {group: {field: bad}}, "x.yaml")


@pytest.mark.parametrize(("field", "good", "bad"), TOP_BOUNDS)
def test_the_bounds_of_the_other_fields(field: str, good: object, bad: object) -> None:
    parse_config(ExperimentConfig, {field: good}, "x.yaml")
    with pytest.raises(ConfigError, match=rf"^Field '{field}' in x\.yaml is .+: .+\.$"):
        parse_config(ExperimentConfig, {field: bad}, "x.yaml")


def test_values_are_stripped_of_space() -> None:
    config = parse_config(ExperimentConfig, {"name": " a\n", "data": {"source": " a.csv", "revision": " "}}, "x")
    assert (config.name, config.data.source, config.data.revision) == ("a", "a.csv", None)


@pytest.mark.parametrize(
    ("kind", "group", "field"),
    [
        ("text-classification", "data", "id_column"),
        ("text-classification", "data", "label_column"),
        ("text-classification", "data", "label_separator"),
        ("summarization", "generation", "prefix"),
        ("causal-lm", "data", "messages_column"),
    ],
)
@pytest.mark.parametrize("value", [" ", "\t", " a\n"])
def test_what_stands_in_the_data_keeps_its_space(kind: str, group: str, field: str, value: str) -> None:
    config = parse_config(load_kind(kind).config_class, {group: {field: value}}, "x")
    assert getattr(getattr(config, group), field) == value
    assert type(config).model_validate(config.model_dump(mode="json")) == config


def test_a_prompt_keeps_its_last_line_break() -> None:
    template = "{document}\n\nTL;DR:\n"
    config = parse_config(load_kind("summarization").config_class, {"generation": {"template": template}}, "x")
    assert config.model_dump()["generation"]["template"] == template


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sed": 1}, "Unknown field 'sed' in x.yaml; did you mean 'seed'? Known: 'name', 'seed', 'store', "),
        (
            {"training": {"epoch": 1}},
            "Unknown field 'training.epoch' in x.yaml; did you mean 'epochs'? Known: 'method', 'epochs', ",
        ),
        ({"qqq": 1}, "Unknown field 'qqq' in x.yaml; Known: 'name', "),
        ({"seed": "x"}, "Field 'seed' in x.yaml is 'x': input should be a valid integer, "),
        ({"seed": "x", "name": "", "store": ""}, "Field 'name' in x.yaml is '': string should match pattern "),
        ({"training": 3}, "Field 'training' in x.yaml is 3: input should be "),
        ({"training": {"precision": "int8"}}, "Field 'training.precision' in x.yaml is 'int8': input should be 'auto', 'fp32', "),
        ({"name": "x\n" * 200}, "Field 'name' in x.yaml is 'x\\nx\\n"),
    ],
)
def test_a_fault_is_told_in_one_line(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(ExperimentConfig, values, "x.yaml")
    message = str(caught.value)
    assert message.startswith(expected)
    assert "\n" not in message
    assert len(message) < 400


def test_further_faults_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"\(2 more faults\)$"):
        parse_config(ExperimentConfig, {"seed": "x", "name": "", "store": ""}, "x.yaml")


def test_fields_that_do_not_go_together_are_named() -> None:
    config_class = load_kind("text-classification").config_class
    with pytest.raises(ConfigError) as caught:
        parse_config(config_class, {"data": {"text_column": "a", "label_column": "a"}}, "x.yaml")
    assert str(caught.value).startswith("The fields in x.yaml do not go together: text, pair and label must be different columns")


@pytest.mark.parametrize(("batch_size", "processes", "remedy"), [(10, 4, 12), (1, 2, 2), (16, 3, 18)])
def test_processes_that_cannot_share_a_batch_are_refused_with_the_remedy(batch_size: int, processes: int, remedy: int) -> None:
    settings = {"batch_size": batch_size, "processes": processes}
    with pytest.raises(ConfigError) as caught:
        parse_config(ExperimentConfig, {"training": settings}, "x.yaml")
    assert str(caught.value) == (
        f"The fields in x.yaml do not go together: training.batch_size is {batch_size}, which training.processes, {processes}, "
        f"does not divide; set training.batch_size to {remedy}."
    )
    assert (
        parse_config(ExperimentConfig, {"training": settings | {"batch_size": remedy}}, "x.yaml").training.processes == processes
    )


def test_the_shipped_presets_are_configs() -> None:
    assert preset_names() == sorted(path.stem for path in PRESETS.iterdir() if path.suffix == ".yaml")
    for name in preset_names():
        assert (PRESETS / f"{name}.yaml").read_text().startswith("# ")
        assert any(fits(config_class, read_config_file(name)) for config_class in CLASSES)


def fits(config_class: type[ExperimentConfig], values: dict[str, Any]) -> bool:
    try:
        config_class.model_validate(values)
    except ValidationError:
        return False
    return True


def test_the_textbook_preset_has_the_textbook_settings() -> None:
    config = parse_config(load_kind("text-classification").config_class, read_config_file("ag-news-bert"), "preset")
    assert (config.data.source, config.model.name) == ("ag_news", "bert-base-uncased")
    assert (config.training.epochs, config.training.learning_rate, config.training.batch_size) == (3, 2e-5, 16)
    assert config.training.max_length == 512


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("", {}),
        ("# nothing\n", {}),
        ("seed: 3\ntraining:\n  epochs: 1\n", {"seed": 3, "training": {"epochs": 1}}),
        ("data: {source: ü.csv}", {"data": {"source": "ü.csv"}}),
    ],
)
def test_a_file_is_read(tmp_path: Path, content: str, values: dict[str, Any]) -> None:
    (tmp_path / "a.yaml").write_text(content, encoding="utf-8")
    assert read_config_file(str(tmp_path / "a.yaml")) == values


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- a\n", "is not a mapping"),
        (b"just words", "is not a mapping"),
        (b"on: 1", "is not a mapping"),
        (b"a: [", "cannot be read"),
        (b"a: 1\n---\nb: 2", "cannot be read"),
        (b"\xff\xfe\xfa", "cannot be read"),
        (b"a: !!python/object/apply:os.getcwd []", "cannot be read"),
        (b"a: 2020-13-45", "cannot be read"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^Config '.*a.yaml' {words}.*[^.]\\.$") as caught:
        read_config_file(str(tmp_path / "a.yaml"))
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .*Is a directory"):
        read_config_file(str(tmp_path))


@pytest.mark.parametrize(("name", "hint"), [("ag-news-bret", "; did you mean 'ag-news-bert'?"), ("zzz", "; Known: ")])
def test_a_config_that_is_not_there_is_told_with_the_presets(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config_file(name)
    assert str(caught.value).startswith(f"Config {name!r} is neither a file nor a preset{hint}")
    assert "'ag-news-bert'" in str(caught.value)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config_file("a\0b")


@pytest.mark.parametrize(
    ("values", "overrides", "merged"),
    [
        ({}, {}, {}),
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}),
        ({"t": {"x": 1, "y": 2}}, {"t": {"y": 3}}, {"t": {"x": 1, "y": 3}}),
        ({"t": None}, {"t": {"y": 3}}, {"t": {"y": 3}}),
        ({"t": {"y": 3}}, {"t": None}, {"t": None}),
    ],
)
def test_overrides_are_laid_over_values_group_by_group(values: Any, overrides: Any, merged: Any) -> None:
    before = repr((values, overrides))
    assert merge(values, overrides) == merged
    assert repr((values, overrides)) == before


def test_a_hint_names_the_closest_and_all() -> None:
    assert did_you_mean("epoch", ["seed", "epochs"]) == "; did you mean 'epochs'? Known: 'seed', 'epochs'"
    assert did_you_mean("zzz", ["seed", "epochs"]) == "; Known: 'seed', 'epochs'"


def test_the_rows_computed_at_once_divide_a_process_s_part_of_the_batch() -> None:
    values = {"training": {"batch_size": 16, "processes": 2, "micro_batch": 4}}
    assert parse_config(ExperimentConfig, values, "x").training.micro_batch == 4
    values["training"]["micro_batch"] = 3
    with pytest.raises(
        ConfigError, match=r"training\.micro_batch is 3, which does not divide the 8 rows of a batch that a process"
    ):
        parse_config(ExperimentConfig, values, "x")
