"""Time and peak memory of `python -m flows run KIND` with its defaults, in an empty store.

`python tests/benchmarks/quickstart.py` runs text-classification, `python tests/benchmarks/quickstart.py summarization` another
kind; further arguments are settings.
"""

import resource
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Run the command and print what it took."""
    kind, *settings = sys.argv[1:] or ["text-classification"]
    with tempfile.TemporaryDirectory() as store:
        started = time.monotonic()
        command = [sys.executable, "-m", "flows", "run", kind, "--store", store, *settings]
        code = subprocess.run(command, check=False).returncode
        seconds = time.monotonic() - started
    # On Linux in KiB: the largest resident size that any one process below this reached.
    largest_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    sys.stdout.write(f"\nexit code {code}, {seconds:.0f} s, largest process {largest_gb:.2f} GB\n")


if __name__ == "__main__":
    main()
