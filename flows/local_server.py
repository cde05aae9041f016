"""A Prefect server for as long as one command runs: used where `PREFECT_API_URL` is not set.

Prefect can start such a server itself, but leaves it running when the command is killed; this one ends with its parent, whatever
happens to it. It uses the same database as `prefect server start`, so runs show up there later. On a port of its own choice it
has the API alone; on a given port also the UI, schedules and automations. It listens on the loopback interface only.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import RunError

HOST = "127.0.0.1"
_START_LIMIT_S = 120.0
_READY = "ready "


class ServerProcess:
    """The server's process, started when this is made and ended with `stop`.

    Args:
        port: Where to serve the UI too; without it, the API alone is served on a free port.
    """

    def __init__(self, port: int | None = None) -> None:
        address = {} if port is None else {"PREFECT_UI_API_URL": f"http://{HOST}:{port}/api"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.local_server", *([] if port is None else [str(port)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_API_URL": "", **address},
            start_new_session=True,
        )

    def wait_for_url(self) -> str:
        """Wait until the server answers and return the URL of its API.

        Raises:
            RunError: it does not start.
        """
        assert self._process.stdout is not None
        timer = threading.Timer(_START_LIMIT_S, self._process.kill)
        timer.start()
        try:
            line = next((line for line in self._process.stdout if line.startswith(_READY)), None)
        finally:
            timer.cancel()
        if line is None:
            raise RunError("The temporary Prefect server did not start; run 'prefect server start' to see why.")
        return line.removeprefix(_READY).strip()

    def stop(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def local_server(port: int | None = None) -> Iterator[ServerProcess]:
    """Start a server, to be waited for later, and end it with the context; see `ServerProcess`."""
    server = ServerProcess(port)
    try:
        yield server
    finally:
        server.stop()


def is_free(port: int) -> bool:
    """Tell whether a server can listen on a port of this machine."""
    with socket.socket() as listener:
        # As uvicorn does: what a server that ended has left in the kernel is no hindrance.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def main() -> None:
    """Serve until standard input ends: Prefect's API on a free port, or on the given one with all that belongs to it."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else None
    threading.Thread(target=_leave_at_end_of_input, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            assert sockets
            sys.stdout.write(f"{_READY}http://{HOST}:{sockets[0].getsockname()[1]}/api\n")
            sys.stdout.flush()

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port or 0))
        app = create_app(ephemeral=port is None)
        Server(uvicorn.Config(app, log_level="error", lifespan="on")).run(sockets=[listener])


def _leave_at_end_of_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
