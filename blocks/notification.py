"""Notification blocks that Prefect keeps, `block:TYPE/NAME`: Slack, Teams, custom webhooks and the like, or a plain webhook."""

import asyncio
from collections.abc import Callable
from typing import Any

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook

from blocks.errors import NotificationRefused

Notify = Callable[[str, str], None]

# What chat services read as mentions, links and markup, to what looks like it.
_HARMLESS = str.maketrans({"<": "‹", ">": "›", "@": "＠", "`": "ˋ"})


def load_notifier(address: str) -> Notify:
    """Return a function `(subject, body)` that sends plain text through the block at `block:TYPE/NAME`.

    It raises `NotificationRefused` if the text could not be sent. No message says where to: such addresses are secrets.

    Raises:
        NotificationRefused: there is no such block, or it cannot send.
    """
    reference = address.removeprefix("block:")
    # Its types do not know that it can be told not to be a coroutine.
    load: Any = Block.load
    block: Any = None
    try:
        block = load(reference, _sync=True)
    # Whatever is wrong, a text of the library's may show the block's secrets.
    except Exception as error:
        problem = f"Block {reference!r} cannot be loaded ({type(error).__name__}); create it in Prefect or set notify."
    if block is None:
        raise NotificationRefused(problem)
    if not isinstance(block, NotificationBlock | Webhook):
        raise NotificationRefused(f"Block {reference!r} cannot send a notification; name a Slack or webhook block in notify.")

    def notify(subject: str, body: str) -> None:
        subject, body = subject.translate(_HARMLESS), body.translate(_HARMLESS)
        failed = ""
        try:
            _send(block, subject, body)
        except Exception as error:
            failed = type(error).__name__
        if failed:
            raise NotificationRefused(f"Block {reference!r} could not send the notification ({failed}).")

    return notify


def _send(block: Any, subject: str, body: str) -> None:
    if isinstance(block, Webhook):
        # The form that most services take.
        asyncio.run(block.call({"text": f"{subject}\n{body}"})).raise_for_status()
        return
    with block.raise_on_failure():
        block.notify(body, subject)
