"""Tests of notifications: real blocks of a real Prefect server, and a small service that takes what they send."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.blocks.system import Secret
from prefect.blocks.webhook import Webhook

from blocks.errors import NotificationRefused
from blocks.notification import load_notifier
from tests.webhook import Service

ROOT = Path(__file__).parent.parent.parent


def save(block: Any, name: str) -> None:
    block.save(name, overwrite=True, _sync=True)


@pytest.fixture
def blocks(prefect_api: str, service: Service) -> None:
    save(Webhook(url=service.url), "plain")
    json_data = {"title": "{{subject}}", "words": "{{body}}"}
    save(CustomWebhookNotificationBlock(name="x", url=service.url, json_data=json_data), "custom")


@pytest.mark.usefixtures("blocks")
def test_a_webhook_gets_subject_and_body(service: Service) -> None:
    load_notifier("block:webhook/plain")("topics: completed", "accuracy 0.5")
    load_notifier("block:custom-webhook/custom")("topics: completed", "accuracy 0.5")
    assert service.got == [
        {"text": "topics: completed\naccuracy 0.5"},
        {"title": "topics: completed", "words": "accuracy 0.5"},
    ]


@pytest.mark.usefixtures("blocks")
def test_nothing_in_a_text_mentions_people_or_makes_links(service: Service) -> None:
    load_notifier("block:webhook/plain")("<!channel> @everyone", "<https://x.example|click> `x`")
    assert not set("<>@`") & set(service.got[0]["text"])
    assert "click" in service.got[0]["text"]


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("block", ["webhook/plain", "custom-webhook/custom"])
def test_a_refusal_or_silence_is_an_error_that_does_not_show_the_address(service: Service, block: str) -> None:
    notify = load_notifier(f"block:{block}")
    service.status = 500
    with pytest.raises(NotificationRefused, match=f"Block '{block}' could not send the notification") as refused:
        notify("x", "y")
    service.server.shutdown()
    service.server.server_close()
    with pytest.raises(NotificationRefused) as silent:
        notify("x", "y")
    for error in (refused.value, silent.value):
        assert "secret" not in str(error)
        assert error.__context__ is None


# Prefect's library for chat services looks whether Python still has this module.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_a_slack_block_is_told_through_prefects_own_client(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(SlackWebhook(url="https://hooks.slack.com/services/T000/B000/secretsecret"), "team")
    posted: list[Any] = []

    class Answer:
        status_code = 200
        content = b"ok"

    def request(method: str, url: str, **options: Any) -> Answer:
        posted.append((url, options))
        return Answer()

    # Slack itself cannot be reached here: the call that the library makes is looked at instead.
    monkeypatch.setattr("requests.request", request)
    load_notifier("block:slack-webhook/team")("topics: completed", "accuracy 0.5")
    ((url, options),) = posted
    assert url.startswith("https://hooks.slack.com/services/T000/B000/")
    assert "accuracy 0.5" in str(options)


@pytest.mark.usefixtures("blocks")
def test_a_block_is_loaded_where_nobody_has_imported_its_class(prefect_api: str, service: Service) -> None:
    code = "from blocks.notification import load_notifier; load_notifier('block:custom-webhook/custom')('topics: completed', 'x')"
    environment = {**os.environ, "PREFECT_API_URL": prefect_api}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60)
    assert service.got == [{"title": "topics: completed", "words": "x"}]


def test_a_block_that_is_missing_or_of_another_sort_is_named(prefect_api: str) -> None:
    save(Secret(value="key-that-is-secret"), "other")
    with pytest.raises(NotificationRefused, match=r"^Block 'webhook/none' cannot be loaded .*create it in Prefect or set notify"):
        load_notifier("block:webhook/none")
    with pytest.raises(NotificationRefused, match=r"^Block 'secret/other' cannot send a notification"):
        load_notifier("block:secret/other")
