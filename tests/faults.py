"""Faults on purpose: answers that the server never gave, and a network that breaks by a schedule."""

import random
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from botocore.awsrequest import AWSResponse

Matches = Callable[[Any], bool]


class RawBody:
    """The body of an answer as the HTTP library would hand it on."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self._body

    def read(self, *_: object) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        pass


def answer(request: Any, status: int, code: str, message: str = "a fault on purpose") -> AWSResponse:
    """Return an error as S3 would answer it; one to HEAD has no body."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode() if request.method != "HEAD" else b""
    return AWSResponse(request.url, status, {"Content-Type": "application/xml"}, RawBody(body))


@contextmanager
def on_requests(client: Any, handler: Callable[[Any], Any]) -> Iterator[None]:
    """Let `handler` see every request before it is sent; what it returns, if anything, is the answer."""

    def hook(request: Any, **_: object) -> Any:
        return handler(request)

    client.meta.events.register("before-send.s3", hook)
    try:
        yield
    finally:
        client.meta.events.unregister("before-send.s3", hook)


@contextmanager
def recorded(client: Any) -> Iterator[list[str]]:
    """Record the requests of a client as `METHOD /path?query`."""
    seen: list[str] = []
    with on_requests(client, lambda request: seen.append(f"{request.method} {request.url.split('/', 3)[3]}")):
        yield seen


@contextmanager
def failing(
    client: Any, status: int, code: str, *, matches: Matches = lambda _: True, first: int = 1, count: int = 1
) -> Iterator[None]:
    """Answer `count` requests that match, from the `first` on, with an error."""
    lock, number = threading.Lock(), 0

    def handler(request: Any) -> AWSResponse | None:
        nonlocal number
        if not matches(request):
            return None
        with lock:
            number += 1
            now = number
        return answer(request, status, code) if first <= now < first + count else None

    with on_requests(client, handler):
        yield


@dataclass(frozen=True)
class Fault:
    """What happens to a connection, once `after` bytes went in its direction."""

    kind: str = "none"
    """`none`, `refuse`, `reset`, `stall`, `truncate` (hang up) or `corrupt` (change one byte)."""
    after: int = 0
    answers: bool = True
    """Of the two directions, the server's answers; else the requests."""


class Proxy:
    """A relay to a port of this machine; `schedule` says, for each connection by its number, what happens to it.

    No more than `limit` connections are struck in the midst; those that are refused do not count.
    """

    def __init__(
        self, port: int, schedule: Callable[[int], Fault] = lambda _: Fault(), *, stall_s: float = 5.0, limit: int = sys.maxsize
    ) -> None:
        self._target, self.schedule, self._stall_s = port, schedule, stall_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._left, self._striking = limit, threading.Lock()
        self.struck: list[Fault] = []
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for one in list(self._open):
            one.close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            fault = self.schedule(self.connections)
            self.connections += 1
            if fault.kind == "refuse":
                self.struck.append(fault)
                _reset(near)
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            self._open |= {near, far}
            for source, target, answers in ((near, far, False), (far, near, True)):
                mine = fault if fault.answers == answers else Fault()
                thread = threading.Thread(target=self._relay, args=(source, target, mine), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _may_strike(self, fault: Fault) -> bool:
        with self._striking:
            self._left -= 1
            if self._left >= 0:
                self.struck.append(fault)
            return self._left >= 0

    def _relay(self, source: socket.socket, target: socket.socket, fault: Fault) -> None:
        passed, struck = 0, fault.kind == "none"
        with suppress(OSError):
            while block := source.recv(1 << 16):
                if not struck and passed + len(block) > fault.after:
                    struck = True
                    if not self._may_strike(fault):
                        target.sendall(block)
                        continue
                    at = fault.after - passed
                    if fault.kind == "corrupt":
                        block = block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]
                    else:
                        target.sendall(block[:at])
                        if fault.kind == "stall":
                            self._closing.wait(self._stall_s)
                        for end in (source, target):
                            _reset(end) if fault.kind == "reset" else end.shutdown(socket.SHUT_RDWR)
                        return
                target.sendall(block)
                passed += len(block)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        # Closing alone would not wake a thread that reads from it; lingering for no time makes the kernel send a reset.
        connection.shutdown(socket.SHUT_RD)
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def random_schedule(seed: int, *, share: float, up_to: int) -> Callable[[int], Fault]:
    """Return a schedule that strikes a share of the connections somewhere in their first `up_to` bytes."""

    def schedule(number: int) -> Fault:
        rng = random.Random(f"{seed}/{number}")
        if rng.random() >= share:
            return Fault()
        kind = rng.choice(["refuse", "reset", "stall", "truncate", "corrupt"])
        # Half of the faults hit the first kilobyte, where the headers are.
        return Fault(kind, int(rng.choice([1000, up_to]) * rng.random()), rng.random() < 0.6)

    return schedule
