"""Tests of finding the kinds by their files."""

import pytest

from tasks.errors import ConfigError
from tasks.kinds import kind_names, load_kind, summary


def test_every_file_but_the_protocol_is_a_kind() -> None:
    assert "text-classification" in kind_names()
    assert "kind" not in kind_names()
    assert kind_names() == sorted(kind_names())


@pytest.mark.parametrize("name", kind_names())
def test_a_kind_says_who_it_is_and_what_it_measures(name: str) -> None:
    kind = load_kind(name)
    assert kind.name == name
    assert kind.config_class() == kind.config_class.model_validate({})
    bound = kind(kind.config_class())
    assert bound.primary_metric
    assert len(bound.columns()) >= 1
    assert not summary(name).endswith(".")
    assert summary(name)


@pytest.mark.parametrize("name", ["text_classification", "kind", "text-clasification", ""])
def test_an_unknown_kind_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Unknown kind {name!r}.*Known: .*'text-classification'"):
        load_kind(name)


def test_a_near_miss_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'text-classification'"):
        load_kind("text-clasification")


def test_the_summary_is_the_docstrings_first_line_without_its_title() -> None:
    assert (
        summary("text-classification")
        == "one of several classes, any number of labels, or a number for a text or a pair of texts"
    )
