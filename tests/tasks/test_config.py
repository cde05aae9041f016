"""The configuration: closed, frozen, documented, and what its fields take."""

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.config import ExperimentConfig
from tasks.errors import ConfigError
from tasks.kinds import kind_names, load_kind
from tasks.parsing import parse_config

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


def test_the_rows_computed_at_once_divide_a_process_s_part_of_the_batch() -> None:
    values = {"training": {"batch_size": 16, "processes": 2, "micro_batch": 4}}
    assert parse_config(ExperimentConfig, values, "x").training.micro_batch == 4
    values["training"]["micro_batch"] = 3
    with pytest.raises(
        ConfigError, match=r"training\.micro_batch is 3, which does not divide the 8 rows of a batch that a process"
    ):
        parse_config(ExperimentConfig, values, "x")
