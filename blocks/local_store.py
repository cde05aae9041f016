"""A store in a folder of this machine, or of a disk that several machines share."""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from blocks.disk import ABSENT, PARTIAL, copy, file_names, is_whole, last_change, replace, store_error, store_errors, walk, write
from blocks.errors import ArtifactDamaged, PointerChanged, StoreConfigError, StoreUnavailable
from blocks.keys import MANIFEST, check_file_names, check_key, is_key
from blocks.manifest import Manifest, Record, dated, make_manifest, parse_manifest, write_manifest
from blocks.pointers import POINTERS, RUNNING, Mark, Pointer, mark_key, pointer_key, read_value, write_value


class LocalStore:
    """A store in a folder; `fetch` returns the published folder itself. See `ArtifactStore` for the methods."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def publish(
        self, folder: Path, key: str, record: Record, *, inputs: Sequence[str] = (), made_by: str = "", own: bool = False
    ) -> None:
        """Copy beside the target, then rename: readers see nothing or all. See `ArtifactStore`."""
        target = self._path(key)
        with store_errors(f"Cannot publish {key!r} in {self.root}"):
            names = file_names(folder)
            check_file_names(names)
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = target.parent / f"{PARTIAL}{uuid.uuid4().hex}"
            try:
                files = {name: copy(folder / name, staging / name) for name in names}
                staging.mkdir(exist_ok=True)
                manifest = make_manifest(files, record, inputs=inputs, made_by=made_by)
                write(staging / MANIFEST, write_manifest(manifest))
                self._put_in_place(staging, key, own=own)
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def _put_in_place(self, staging: Path, key: str, *, own: bool) -> None:
        """Rename `staging` to the place of `key`; what another run published meanwhile stays if it is whole."""
        target = self._path(key)
        for _ in range(5):
            try:
                staging.rename(target)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if not own and self.inspect(key) is not None:
                return
            self.delete(key)
        raise StoreUnavailable(f"Cannot publish {key!r} in {self.root}: other runs keep changing it; try again.")

    def inspect(self, key: str) -> Manifest | None:
        """See `ArtifactStore`."""
        manifest = self._manifest(key)
        if manifest is None:
            return None
        for name, entry in manifest.files.items():
            try:
                status = (self._path(key) / name).stat()
            except OSError as error:
                self._check_absent(error, key)
                return None
            if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
                return None
        return manifest

    def find(self, key: str) -> Record | None:
        """See `ArtifactStore`."""
        manifest = self.inspect(key)
        return None if manifest is None else manifest.record

    def fetch(self, key: str) -> Path:
        """See `ArtifactStore`."""
        folder = self._path(key)
        manifest = self._manifest(key)
        try:
            whole = manifest is not None and is_whole(folder, manifest.files)
        except OSError as error:
            self._check_absent(error, key)
            whole = False
        if not whole:
            self.delete(key)
            raise ArtifactDamaged(f"Artifact {key!r} in {self.root} is missing or damaged; run again to make it anew.")
        return folder

    def delete(self, key: str) -> None:
        """See `ArtifactStore`."""
        folder = self._path(key)
        # In one move it is gone, and what cannot be removed now, or if this is killed, is a leaving that `sweep` knows.
        leaving = folder.parent / f"{PARTIAL}{uuid.uuid4().hex}"
        with store_errors(f"Cannot delete {key!r} in {self.root}"):
            try:
                folder.rename(leaving)
            except FileNotFoundError:
                return
            except OSError:
                (folder / MANIFEST).unlink(missing_ok=True)
                leaving = folder
        shutil.rmtree(leaving, ignore_errors=True)

    def check_writable(self) -> None:
        """Try it for real and leave no trace: permissions say little (root, read-only mounts). See `ArtifactStore`."""
        missing: list[Path] = []
        try:
            missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".probe-", buffering=0) as stream:
                # A full disk may still take the name of a file.
                stream.write(b"probe")
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreConfigError(
                f"Store {str(self.root)!r} cannot be written ({reason}); set store to a folder that can."
            ) from error
        finally:
            for path in missing:
                with suppress(OSError):
                    path.rmdir()

    def manifests(self, prefix: str) -> dict[str, Manifest]:
        """See `ArtifactStore`."""
        found, now = {}, self._now()
        with store_errors(f"Cannot list {prefix!r} in {self.root}"):
            paths = [path for path in walk(self._path(prefix)) if path.name == MANIFEST]
            keys = {path.parent.relative_to(self.root).as_posix(): path for path in paths}
            for key in sorted(filter(is_key, keys)):
                # Another run may delete it meanwhile.
                with suppress(FileNotFoundError):
                    if manifest := self.inspect(key):
                        found[key] = dated(manifest, now - keys[key].stat().st_mtime)
        return found

    def locate(self, key: str) -> str:
        """See `ArtifactStore`."""
        return str(self._path(key))

    def read_pointer(self, name: str) -> Pointer | None:
        """See `ArtifactStore`."""
        path = self._path(pointer_key(name))
        with store_errors(f"Cannot read pointer {name!r} in {self.root}"):
            try:
                text = path.read_bytes()
            except FileNotFoundError:
                return None
        return Pointer(read_value(text, str(path)), _version(text))

    def swap_pointer(self, name: str, value: Record, expected: str | None) -> None:
        """Compare and replace under a lock. See `ArtifactStore`."""
        path = self._path(pointer_key(name))
        with store_errors(f"Cannot write pointer {name!r} in {self.root}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with (self.root / POINTERS / ".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                current = _version(path.read_bytes()) if path.exists() else None
                if current != expected:
                    raise PointerChanged(f"Pointer {name!r} in {self.root} was changed by another run; read it again.")
                replace(path, write_value(value))

    def list_pointers(self) -> list[str]:
        """See `ArtifactStore`."""
        return sorted(self._names(POINTERS))

    def mark(self, name: str, content: Record) -> None:
        """See `ArtifactStore`."""
        path = self._path(mark_key(name))
        with store_errors(f"Cannot write mark {name!r} in {self.root}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(path, write_value(content))

    def unmark(self, name: str) -> None:
        """See `ArtifactStore`."""
        with store_errors(f"Cannot remove mark {name!r} in {self.root}"):
            self._path(mark_key(name)).unlink(missing_ok=True)

    def marks(self) -> dict[str, Mark]:
        """See `ArtifactStore`."""
        marks, now = {}, self._now()
        with store_errors(f"Cannot read the marks in {self.root}"):
            for name, path in sorted(self._names(RUNNING).items()):
                # A run that ends meanwhile takes its mark away.
                with suppress(FileNotFoundError):
                    age_s = max(0.0, now - path.stat().st_mtime)
                    marks[name] = Mark(read_value(path.read_bytes(), str(path)), age_s)
        return marks

    def sweep(self, min_age_s: float, *, delete: bool) -> list[str]:
        """See `ArtifactStore`."""
        now = self._now()
        with store_errors(f"Cannot sweep {self.root}"):
            times = {path: last_change(path) for path in walk(self.root) if path.name.startswith(PARTIAL)}
            old = [path for path, time_s in times.items() if time_s is not None and now - time_s >= min_age_s]
            for path in old if delete else ():
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return sorted(map(str, old))

    # Last, for in the rest of the class the word `list` would mean this method.
    def list(self, prefix: str) -> "list[str]":
        """See `ArtifactStore`."""
        return [*self.manifests(prefix)]

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _names(self, folder: str) -> Mapping[str, Path]:
        paths = ((path.relative_to(self.root / folder), path) for path in (self.root / folder).rglob("*.json"))
        names = {name.with_suffix("").as_posix(): path for name, path in paths}
        return {name: path for name, path in names.items() if is_key(name)}

    def _now(self) -> float:
        """Return the time by the clock of the store's disk, which need not be this machine's."""
        try:
            with tempfile.TemporaryFile(dir=self.root) as stream:
                return os.fstat(stream.fileno()).st_mtime
        except OSError:
            return time.time()

    def _manifest(self, key: str) -> Manifest | None:
        """Return the manifest of `key`, or None if it is absent or not a manifest with plain file names."""
        try:
            return parse_manifest((self._path(key) / MANIFEST).read_bytes())
        except OSError as error:
            self._check_absent(error, key)
            return None

    def _check_absent(self, error: OSError, key: str) -> None:
        """Raise unless `error` means that a file is not there: a disk that does not answer now says nothing of an artifact."""
        if error.errno not in ABSENT:
            raise store_error(error, f"Cannot read {key!r} in {self.root}") from error


def _version(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:32]
