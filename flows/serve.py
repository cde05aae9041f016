"""The command `serve`: the shortest way to the Prefect UI, without a work pool or a worker.

The deployments are served by a process of its own session, so that Ctrl-C at the terminal reaches this command alone, which ends
them in order: a run stops with a checkpoint and is told to the server as cancelled before the server ends too.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from tasks.errors import ConfigError, RunError

NAME = "served"
"""Name of the deployment that each kind gets."""
TAG = "finetune-flows"
_MOST_PORT = 65_535
# Prefect gives a run 30 s to stop.
_END_LIMIT_S = 45.0


def serve(arguments: Sequence[str]) -> None:
    """Serve one on-demand deployment per kind, and one that predicts, until this command is interrupted.

    Raises:
        ConfigError: a wrong option, a port that is taken, or a `PREFECT_API_URL` where nothing answers.
        StoreConfigError: the store cannot be written.
        RunError: serving ended by itself.
    """
    from blocks.artifact_store import open_store

    options = _parse(arguments)
    is_address = options.store.startswith(("s3://", "block:"))
    store = options.store if is_address else str(Path(options.store).absolute())
    if not store.startswith("block:"):
        open_store(store).check_writable()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _api(options.port) as url, _serving(url, store, options.limit) as process:
            code = process.wait()
    except KeyboardInterrupt:
        return
    raise RunError(f"Serving ended with exit code {code}; see what it logged above.")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    from flows.arguments import Parser

    parser = Parser(
        prog="python -m flows serve",
        description="Serve one deployment per kind, and one that predicts, from this process, to be started from the Prefect UI; "
        "with a Prefect server if PREFECT_API_URL is unset. Ctrl-C ends it with all that it started; a training that it "
        "interrupts goes on when a run with the same settings is started.",
    )
    parser.add_argument("--store", default="artifacts", help="where runs keep their artifacts, if not told otherwise (artifacts)")
    parser.add_argument("--port", type=int, default=4200, help="port of the server that is started, on 127.0.0.1 (4200)")
    parser.add_argument("--limit", type=int, default=1, help="runs at the same time (1)")
    options = parser.parse_args(list(arguments))
    if not 0 < options.port <= _MOST_PORT:
        raise ConfigError(f"--port is {options.port}; give a number from 1 to {_MOST_PORT}.")
    if options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}; give 1 or more.")
    return options


@contextmanager
def _api(port: int) -> Iterator[str]:
    """Provide Prefect's API, by a server on `port` if none is set; yield its URL."""
    from prefect.settings import PREFECT_API_URL

    from flows.console import print_line
    from flows.launch import check_answers
    from flows.local_server import HOST, is_free, local_server

    if url := PREFECT_API_URL.value():
        check_answers(str(url))
        yield str(url)
        return
    if not is_free(port):
        raise ConfigError(
            f"Port {port} is taken; if a Prefect server listens there, set PREFECT_API_URL=http://{HOST}:{port}/api, "
            "else choose another --port."
        )
    print_line("Starting a Prefect server ...")
    with local_server(port) as server:
        yield server.wait_for_url()


@contextmanager
def _serving(url: str, store: str, limit: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Serve in a process of its own; at the end of the context ask it to end, and wait."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.serve", store, str(limit)],
        stdin=subprocess.PIPE,
        env={"DO_NOT_TRACK": "1", **os.environ, "PREFECT_API_URL": url},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdin
        process.stdin.close()


def _say(url: str, store: str) -> None:
    from blocks.urls import shown
    from flows.console import print_line
    from tasks.kinds import kind_names

    url = shown(url)
    ui = url.removesuffix("/api")
    print_line(f"Prefect UI: {ui}\nArtifacts:  {store}\n")
    for kind in kind_names():
        print_line(f"{kind}: open {ui}/deployments, choose '{NAME}' of '{kind}' and press Run; or, in another terminal,")
        # A parameter replaces the deployment's whole, so the store is named again.
        config = shlex.quote(json.dumps({"store": store, "training": {"epochs": 1}}))
        print_line(f"  PREFECT_API_URL={shlex.quote(url)} prefect deployment run {kind}/{NAME} --param config={config}")
    print_line(f"predict: open {ui}/deployments, choose '{NAME}' of 'predict' and press Run; paths there are absolute.")
    print_line("\nCtrl-C ends it.")


def main() -> None:
    """Serve the deployments: the process behind the command, which ends with it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store, limit = sys.argv[1], int(sys.argv[2])
    from prefect.runner import Runner
    from prefect.types.entrypoint import EntrypointType

    from flows.experiments import FLOWS
    from flows.inference import predict

    runner = Runner(limit=limit)
    # A run's process may have another working folder.
    flows: list[tuple[Any, dict[str, Any]]] = [(flow, {"config": {"store": store}}) for flow in FLOWS.values()]
    for flow, parameters in (*flows, (predict, {"store": store})):
        deployment = flow.to_deployment(
            NAME,
            description=flow.description,
            tags=[TAG],
            version=version("finetune-flows"),
            parameters=parameters,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        runner.add_deployment(deployment)
    _say(os.environ["PREFECT_API_URL"], store)
    asyncio.run(runner.start())


def _end_with_parent() -> NoReturn:
    """Wait for the parent's end, then end in order, and at last with force: this process leads its session."""
    # Not through `sys.stdin`, whose lock a thread must not hold when the interpreter ends.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_LIMIT_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)
    raise SystemExit


if __name__ == "__main__":
    main()
