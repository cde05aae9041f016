"""Training in several processes: torch's elastic launcher, and what each process that it starts does.

The client starts `python -m tasks.compute.elastic PARENT` in place of the compute process, for one command `train`. This process
writes the command's arguments into a spec file and launches `python -m tasks.compute.elastic LAUNCHER FOLDER` as often as the
arguments say. The first of those, rank 0, speaks on the protocol's output, which all inherit. Why one failed, each writes into a
file of its own; of these the launcher tells the one that counts, since its exit code is 1 whatever happened.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.compute.channel import Channel
from tasks.compute.process import describe, die_with_parent, end_with_stdin, log_as_events

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_SPEC, _STOP = "spec.json", "stop"


def launch(parent: int) -> None:
    """Read one command `train` from standard input and run it in as many processes as its settings say."""
    die_with_parent(parent)
    arguments = json.loads(sys.stdin.readline())["arguments"]
    folder = Path(tempfile.mkdtemp(prefix=".elastic-", dir=arguments["checkpoints"]))
    # A wish that all can see: a signal might come to one that is not ready for it.
    signal.signal(signal.SIGTERM, lambda *_: (folder / _STOP).touch())
    threading.Thread(target=end_with_stdin, daemon=True).start()
    (folder / _SPEC).write_text(json.dumps(arguments), encoding="utf-8")
    failure = _run(arguments["training"]["processes"], folder)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    shutil.rmtree(folder, ignore_errors=True)
    if failure:
        Channel(sys.stdout).send("error", **failure)
    # Not through the interpreter's end, which would wait for the thread.
    os._exit(1 if failure else 0)


def run_rank(launcher: int, folder: Path) -> None:
    """Do the spec's training as one of its processes."""
    rank = int(os.environ["RANK"])
    channel = Channel.take_over_stdout(speaks=rank == 0, stop_file=folder / _STOP)
    _heed_sigterm(channel, launcher)
    die_with_parent(launcher)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    log_as_events(channel)
    try:
        from tasks.compute.train import train

        answer = train(channel, **json.loads((folder / _SPEC).read_text(encoding="utf-8")))
        channel.send("answer", answer=answer)
    except Exception as error:
        _write_whole(_fault_file(folder, rank), json.dumps(describe(error)))
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _heed_sigterm(channel: Channel, launcher: int) -> None:
    """Stop training at a SIGTERM, but end at the launcher's: another process has failed, and this one may wait for it forever."""
    if sys.platform != "linux":  # who sent it is not told there
        return

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != launcher:
            channel.request_stop()
        os._exit(1)

    # Threads inherit that it is blocked, so it comes to this one, even if the others are deep in the libraries.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait, daemon=True).start()


def _run(processes: int, folder: Path) -> Mapping[str, str] | None:
    """Launch the processes, wait for their end, and return what is to be told if it is not a good one."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from tasks.compute.models import share_of_cores

    # The launcher would set 1. All are on this machine, whatever its name resolves to.
    os.environ["OMP_NUM_THREADS"] = str(share_of_cores(processes))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    # As `torch.distributed.run --standalone` has it.
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=folder.name,
        max_restarts=0,
        local_addr="localhost",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
    )
    config.signals_to_handle = "SIGINT"  # SIGTERM is ours
    config.numa_options = None  # each gets its share of all cores, not of those near a GPU
    try:
        elastic_launch(config, sys.executable)("-m", "tasks.compute.elastic", os.getpid(), folder)
    except ChildFailedError as error:
        return reason(folder, processes, error.failures)
    return None


def reason(folder: Path, processes: int, failures: "Mapping[int, ProcessFailure]") -> Mapping[str, str]:
    """Return the error that counts: one of ours, else that a process died, else what any raised.

    When one process fails, others fail for lack of it: what they raise is then no error of ours. The rest ends at the launcher's
    SIGTERM.
    """
    files = [_fault_file(folder, rank) for rank in range(processes)]
    told: list[dict[str, str]] = [json.loads(path.read_text(encoding="utf-8")) for path in files if path.is_file()]
    if ours := [fault for fault in told if fault["error"] != "ComputeFailed"]:
        return ours[0]
    for rank, failure in failures.items():
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            how = f"was killed by {signal.Signals(-failure.exitcode).name}"
            how += " (out of memory?)" if failure.exitcode == -signal.SIGKILL else ""
            return {"error": "ComputeLost", "message": f"Process {rank} of {processes} {how} during 'train'."}
    if told:
        return told[0]
    rank, failure = next(iter(failures.items()))
    how = f"ended with exit code {failure.exitcode}"
    return {"error": "ComputeLost", "message": f"Process {rank} of {processes} {how} during 'train'."}


def _fault_file(folder: Path, rank: int) -> Path:
    return folder / f"fault-{rank}.json"


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is there with all of the text or not at all."""
    new = path.with_suffix(".new")
    with contextlib.suppress(OSError):  # the launcher may be gone, and the folder with it
        new.write_text(text, encoding="utf-8")
        new.replace(path)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        launch(int(sys.argv[1]))
    else:
        run_rank(int(sys.argv[1]), Path(sys.argv[2]))
