"""Configurations out of files and flags: what is read, what is refused, and how a fault is told."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.config import ExperimentConfig
from tasks.errors import ConfigError
from tasks.kinds import kind_names, load_kind
from tasks.parsing import PRESETS, did_you_mean, merge, parse_config, preset_names, read_config_file


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


def test_the_shipped_presets_are_configs() -> None:
    assert preset_names() == sorted(path.stem for path in PRESETS.iterdir() if path.suffix == ".yaml")
    for name in preset_names():
        assert (PRESETS / f"{name}.yaml").read_text().startswith("# ")
        assert any(fits(load_kind(kind).config_class, read_config_file(name)) for kind in kind_names())


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
