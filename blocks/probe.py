"""Whether a store does what runs need of it: tried for real, in a folder of its own that is gone afterwards."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blocks.artifact_store import ArtifactStore, LocalStore
from blocks.disk import PARTIAL
from blocks.errors import PointerChanged, StoreConfigError, StoreError
from blocks.s3_store import S3Store

_KEY, _POINTER = "steps/probe/1", "probe"


def address_of(store: ArtifactStore) -> str:
    """Return a store's address, for a person to read."""
    return str(store.root) if isinstance(store, LocalStore) else str(store)


def probe(store: ArtifactStore) -> None:
    """Write, read, swap and delete; nothing of it stays.

    Raises:
        StoreConfigError: the store cannot be written, or does not keep what it promises.
        StoreUnavailable: it does not answer now.
    """
    store.check_writable()
    with _scratch(store) as scratch, tempfile.TemporaryDirectory(prefix="finetune-flows-") as folder:
        _try_artifact(scratch, Path(folder))
        _try_pointer(scratch)


def _try_artifact(store: ArtifactStore, folder: Path) -> None:
    record = {"probe": uuid.uuid4().hex}
    (folder / "probe.txt").write_text(record["probe"], encoding="utf-8")
    # As one writer's own, so that no cache keeps it.
    store.publish(folder, _KEY, record, own=True)
    if store.find(_KEY) != record:
        raise StoreConfigError(f"Store {address_of(store)!r} does not give back what was just written; use another store.")
    store.delete(_KEY)
    if store.find(_KEY) is not None:
        raise StoreConfigError(f"Store {address_of(store)!r} still gives what was deleted; use another store.")


def _try_pointer(store: ArtifactStore) -> None:
    store.swap_pointer(_POINTER, {"version": 1}, None)
    _must_lose(store, None)
    first = store.read_pointer(_POINTER)
    assert first is not None
    store.swap_pointer(_POINTER, {"version": 2}, first.version)
    _must_lose(store, first.version)
    last = store.read_pointer(_POINTER)
    if last is None or last.value != {"version": 2}:
        raise StoreConfigError(f"Store {address_of(store)!r} does not give back what was just written; use another store.")


def _must_lose(store: ArtifactStore, expected: str | None) -> None:
    """Write with an expectation that is wrong, which the store must refuse: else two runs could both win."""
    with suppress(PointerChanged):
        store.swap_pointer(_POINTER, {"version": "lost"}, expected)
        raise StoreConfigError(f"Store {address_of(store)!r} overwrites what a conditional write must keep; use another store.")


@contextmanager
def _scratch(store: ArtifactStore) -> Iterator[ArtifactStore]:
    """Provide a store within `store`, on the same disk or in the same bucket, that goes with the context."""
    if isinstance(store, LocalStore):
        with _scratch_folder(store.root) as folder:
            yield LocalStore(folder)
        return
    assert isinstance(store, S3Store)
    prefix = "/".join(filter(None, (store.prefix, f".probe-{uuid.uuid4().hex}")))
    scratch = store.model_copy(update={"prefix": prefix})
    try:
        yield scratch
    except BaseException:
        # What went wrong first is what matters.
        with suppress(StoreError):
            _clear(scratch)
        raise
    _clear(scratch)


def _clear(store: S3Store) -> None:
    store.objects.delete(store.objects.scan(""))


@contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    # `sweep` knows such a name, should this process be killed.
    folder = root / f"{PARTIAL}{uuid.uuid4().hex}"
    missing = [path for path in (root, *root.parents) if not path.exists()]
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in missing:
            # Another run may be using it by now.
            with suppress(OSError):
                path.rmdir()
