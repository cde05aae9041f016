"""Artifacts fetched from afar, kept on this machine by the digest of their content until room is needed.

An entry is a folder below `artifacts/`. Two files in `locks/` belong to it. Every process that has fetched the entry locks
`<digest>.use` in common until it ends, so that nobody removes what is being read. Who puts the entry there locks `<digest>.make`.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blocks.disk import LASTING, is_whole, store_errors
from blocks.errors import StoreConfigError
from blocks.manifest import Manifest

_GB = 10**9
_DEFAULT_GB = 20.0

# Descriptors of the `.use` files that this process holds, by path; the kernel lets go of them when the process ends.
_held: dict[str, int] = {}
_holding = threading.Lock()


class FetchCache:
    """A folder of artifacts of at most `limit` bytes, but for what is in use."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit

    def fetch(self, manifest: Manifest, download: Callable[[Path], None]) -> Path:
        """Return the folder of an artifact, every sha256 verified; `download` fills a folder if it is not there.

        Raises:
            StoreConfigError: the cache's folder cannot be written or is full.
        """
        digest = manifest.digest
        entry = self._entry(digest)
        with store_errors(f"Cannot keep a fetched artifact in {self.root} (FINETUNE_FLOWS_CACHE)"):
            self._hold(digest)
            if not _is_there(entry, manifest):
                with self._locked(digest, "make"):
                    # Another process may have made it while this one waited.
                    if not _is_there(entry, manifest):
                        self._make(digest, manifest.size, download)
            os.utime(self._lock_file(digest, "use"))
        return entry

    def add(self, manifest: Manifest, folder: Path) -> None:
        """Take the files of `folder`, which nobody changes any more, if there is room; it is no fault if that cannot be done."""
        digest = manifest.digest
        if manifest.size > self.limit:
            return

        def link(target: Path) -> None:
            for name in manifest.files:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                _link(folder / name, target / name)

        with suppress(OSError), self._locked(digest, "make"):
            if not self._entry(digest).exists():
                self._make(digest, manifest.size, link)
                self._lock_file(digest, "use").touch()

    def _make(self, digest: str, size: int, fill: Callable[[Path], None]) -> None:
        """Fill a folder beside the entry's place and rename it; its `.make` lock is held."""
        entry, partial = self._entry(digest), self.root / "partial" / digest
        self._make_room(size)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            entry.parent.mkdir(parents=True, exist_ok=True)
            fill(partial)
            if entry.exists():
                # Damaged. Who has opened its files goes on reading them.
                self._remove(entry)
            partial.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Remove the least recently used entries until `size` more bytes fit, and what killed processes left."""
        for leaving in _folders(self.root / "partial"):
            with self._if_free(leaving.name.partition("-")[0], "make") as free:
                if free:
                    shutil.rmtree(leaving, ignore_errors=True)
        sizes = {entry: _size(entry) for entry in _folders(self.root / "artifacts")}
        total = sum(sizes.values()) + size
        for entry in sorted(sizes, key=self._last_use):
            if total <= self.limit:
                return
            with self._if_free(entry.name, "use") as free:
                if free:
                    self._remove(entry)
                    total -= sizes[entry]

    def _remove(self, entry: Path) -> None:
        # Renamed first: no reader finds half an entry.
        leaving = self.root / "partial" / f"{entry.name}-{os.getpid()}-{threading.get_ident()}"
        leaving.parent.mkdir(parents=True, exist_ok=True)
        entry.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)

    def _entry(self, digest: str) -> Path:
        return self.root / "artifacts" / digest

    def _lock_file(self, digest: str, purpose: str) -> Path:
        return self.root / "locks" / f"{digest}.{purpose}"

    def _last_use(self, entry: Path) -> float:
        with suppress(OSError):
            return self._lock_file(entry.name, "use").stat().st_mtime
        return 0.0

    def _open_lock(self, digest: str, purpose: str) -> int:
        path = self._lock_file(digest, purpose)
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _hold(self, digest: str) -> None:
        """Keep others from removing an entry for as long as this process lives."""
        path = str(self._lock_file(digest, "use"))
        with _holding:
            # Somebody may have removed the whole cache by hand; a lock on a file that is gone guards nothing.
            if path in _held and not _is_open_at(_held[path], path):
                os.close(_held.pop(path))
            if path not in _held:
                descriptor = self._open_lock(digest, "use")
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                _held[path] = descriptor

    @contextmanager
    def _locked(self, digest: str, purpose: str) -> Iterator[None]:
        descriptor = self._open_lock(digest, purpose)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _if_free(self, digest: str, purpose: str) -> Iterator[bool]:
        """Lock if nobody else has the lock, and tell whether that is so."""
        descriptor = self._open_lock(digest, purpose)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)


def default_cache() -> FetchCache:
    """Return the cache in `FINETUNE_FLOWS_CACHE`, of at most `FINETUNE_FLOWS_CACHE_GB` (10^9 bytes each).

    Raises:
        StoreConfigError: one of them has a value that cannot be used.
    """
    given = os.environ.get("FINETUNE_FLOWS_CACHE_GB", str(_DEFAULT_GB))
    try:
        limit = int(float(given) * _GB)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise StoreConfigError(f"FINETUNE_FLOWS_CACHE_GB is {given!r}; set it to a number of gigabytes, such as 20.")
    try:
        root = Path(os.environ.get("FINETUNE_FLOWS_CACHE") or "~/.cache/finetune-flows").expanduser().absolute()
    except RuntimeError:
        raise StoreConfigError("There is no home folder for the cache; set FINETUNE_FLOWS_CACHE to a folder.") from None
    return FetchCache(root, limit)


def _is_there(entry: Path, manifest: Manifest) -> bool:
    try:
        return entry.is_dir() and is_whole(entry, manifest.files)
    except OSError as error:
        if error.errno in LASTING:
            raise
        return False


def _is_open_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        # Another process may be removing it.
        with suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where that cannot be done: another disk, or a symbolic link."""
    if not source.is_symlink():
        with suppress(OSError):
            target.hardlink_to(source)
            return
    shutil.copyfile(source, target)
