"""Clients of S3: set on purpose, and made once for the same settings."""

import hashlib
import os
import threading
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from blocks.errors import StoreError
from blocks.s3_errors import Place, store_error
from blocks.urls import shown

CONNECTIONS = 16
"""Connections of a client that are kept open, and requests of a transfer at the same time."""

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 30
_ATTEMPTS = 4
_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".amazonaws.eu")

_clients: dict[str, Any] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Settings:
    """How to reach S3; what is not set comes from boto3's own chain: environment, profile, role."""

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)


def client_for(settings: Settings) -> Any:
    """Return the client for `settings` and the present environment; clients may be used by several threads.

    Raises:
        StoreConfigError: the settings or the AWS configuration are wrong.
    """
    # A client starts with the credentials of its time and must not outlive a fork: both are part of what it is kept under.
    environment = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_") or name == "HOME")
    secrets = (settings.access_key_id, settings.secret_access_key, settings.session_token)
    key = hashlib.sha256(repr((os.getpid(), settings, secrets, environment)).encode()).hexdigest()
    with _lock:
        if key not in _clients:
            _clients[key] = _make(settings)
        return _clients[key]


def place_of(client: Any, bucket: str) -> Place:
    """Return what messages about a client's bucket name."""
    return Place(bucket, shown(client.meta.endpoint_url), client.meta.region_name or "")


def _make(settings: Settings) -> Any:
    problem: StoreError
    try:
        if settings.path_style is not None:
            return _client(settings, "path" if settings.path_style else "virtual")
        client = _client(settings, "auto")
        # Other servers than AWS's seldom have a host name for every bucket.
        is_aws = (urlsplit(client.meta.endpoint_url).hostname or "").endswith(_AWS_DOMAINS)
        return client if is_aws else _client(settings, "path")
    except (BotoCoreError, ValueError) as error:
        problem = store_error(error, Place("", shown(settings.endpoint_url or "https://s3"), settings.region or ""))
    raise problem


def _client(settings: Settings, style: str) -> Any:
    # A session is not safe for several threads, a client is.
    session = boto3.session.Session(
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key,
        aws_session_token=settings.session_token,
        region_name=settings.region,
    )
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        # The server refuses bytes that changed on their way to it; those on their way back are checked by their sha256.
        request_checksum_calculation="when_supported",
        response_checksum_validation="when_required",
        user_agent_extra=f"finetune-flows/{_version()}",
        s3={"addressing_style": style},
    )
    # Requests need some region to be signed with; servers other than AWS's take any.
    region = settings.region or session.region_name or "us-east-1"
    client = session.client("s3", endpoint_url=settings.endpoint_url, region_name=region, config=config)
    client.meta.events.register("before-send.s3", _send_at_once)
    return client


def _send_at_once(request: Any, **_: object) -> None:
    """Send a body without asking the server first whether it may come.

    Where the answer to that question breaks off, botocore reads on for ever, without a time limit; after an empty file it can
    take the answer to one request for that to the next. The header is not part of the signature.

    Source: `AWSConnection` in botocore/awsrequest.py; https://github.com/boto/botocore/issues/3755
    """
    request.headers.pop("Expect", None)


def _version() -> str:
    try:
        return version("finetune-flows")
    except PackageNotFoundError:
        return "dev"
