"""Tests of the flags of each kind; the rest is tested through the command line."""

import pytest

from flows.arguments import parse_run
from tasks.kinds import kind_names, load_kind


@pytest.mark.parametrize("name", kind_names())
def test_a_flag_changes_one_setting_and_leaves_the_kinds_defaults_of_all_others(name: str) -> None:
    kind = load_kind(name)
    default = kind.config_class().model_dump()
    config, _ = parse_run(kind, ["--training.weight_decay", "0.5", "--data.max_train_rows", "7", "--model.name", "other"])
    assert config.model_dump() == default | {
        "training": default["training"] | {"weight_decay": 0.5},
        "data": default["data"] | {"max_train_rows": 7},
        "model": default["model"] | {"name": "other"},
    }
