"""Secrets of URLs stay out of messages, also where the URL is malformed."""

import pytest

from blocks.urls import hide_users, shown


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://host:9000/api", "http://host:9000/api"),
        ("https://me:hush@host/api?key=hush#hush", "https://host/api"),
        ("https://host/api?key=hush", "https://host/api"),
        ("http://me:hu/sh?hu#sh@host", "http://host"),
        ("http://[me:hush@host", "http://host"),
        ("me:hush@host/api", "host/api"),
        ("localhost:4200/api", "localhost:4200/api"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, text: str) -> None:
    assert shown(url) == text


def test_users_of_urls_are_hidden_in_a_text() -> None:
    text = "no https://me:hush@host/x, nor 's3://key:hu/sh@bucket' of me@example.com"
    assert hide_users(text) == "no https://host/x, nor 's3://bucket' of me@example.com"
