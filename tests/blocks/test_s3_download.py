"""Downloads over a network that breaks: resumed, checked, and never taken for damage of what lies in the store."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from blocks import s3_client, s3_download
from blocks.errors import ArtifactDamaged, StoreConfigError, StoreUnavailable
from blocks.s3_download import PART
from blocks.s3_store import S3Store
from tests.blocks.test_artifact_store import no_room_for_bytes
from tests.blocks.test_stores import KEY, make_folder, read
from tests.faults import Fault, Proxy, failing, on_requests, recorded
from tests.s3 import S3Server

FILES = {"model/weights": os.urandom(PART + 1000), "info.json": b"{}", "empty": b""}


@pytest.fixture
def published(s3_store: S3Store, cache: Path, tmp_path: Path) -> S3Store:
    """Return a store with an artifact that is not in the cache."""
    s3_store.publish(make_folder(tmp_path / "made", FILES), KEY, {"rows": 3})
    shutil.rmtree(cache)
    return s3_store


@pytest.mark.parametrize("kind", ["refuse", "reset", "truncate", "stall"])
@pytest.mark.parametrize("after", [0, 100, 300_000])
def test_a_broken_answer_is_taken_up_where_it_broke(
    s3_server: S3Server, published: S3Store, kind: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "_READ_TIMEOUT_S", 1)
    monkeypatch.setattr(s3_download, "_PAUSE_S", 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    # The first three connections are refused, or the first three that get so far break.
    early = (lambda number: number < 3) if kind == "refuse" else (lambda number: True)
    with Proxy(s3_server.ports[0], lambda number: Fault(kind, after) if early(number) else Fault(), limit=3) as proxy:
        store = s3_server.store(published.prefix, endpoint_url=proxy.endpoint)
        assert read(store.fetch(KEY)) == FILES
        assert proxy.struck


@pytest.mark.parametrize("after", [200_000, 700_000])
def test_bytes_that_changed_on_their_way_are_fetched_again(s3_server: S3Server, published: S3Store, after: int) -> None:
    with Proxy(s3_server.ports[0], lambda _: Fault("corrupt", after), limit=1) as proxy:
        store = s3_server.store(published.prefix, endpoint_url=proxy.endpoint)
        assert read(store.fetch(KEY)) == FILES
        assert proxy.struck
    assert published.find(KEY) == {"rows": 3}


def test_a_network_that_changes_bytes_again_and_again_takes_no_artifact_away(s3_server: S3Server, published: S3Store) -> None:
    # Every connection changes a byte, each another one, and none is used twice.
    with Proxy(s3_server.ports[0], lambda number: Fault("corrupt", 100_000 + 7919 * number)) as proxy:
        store = s3_server.store(published.prefix, endpoint_url=proxy.endpoint)

        def hang_up(request: Any) -> None:
            request.headers["Connection"] = "close"

        with on_requests(store.objects.client, hang_up), pytest.raises(StoreUnavailable, match="change on their way"):
            store.fetch(KEY)
        assert len(proxy.struck) > 1
    assert published.find(KEY) == {"rows": 3}


@pytest.mark.parametrize(("status", "code"), [(404, "NoSuchKey"), (416, "InvalidRange")])
def test_one_wrong_answer_takes_no_artifact_away(published: S3Store, status: int, code: str) -> None:
    with failing(published.objects.client, status, code, matches=lambda request: "info.json" in request.url):
        assert read(published.fetch(KEY)) == FILES
    assert published.find(KEY) == {"rows": 3}


def test_damage_in_the_store_is_seen_after_a_second_look(published: S3Store) -> None:
    manifest = published.inspect(KEY)
    assert manifest is not None
    path = f"{KEY}/{manifest.folder}/info.json"
    published.objects.put(path, b"[]")
    with recorded(published.objects.client) as requests, pytest.raises(ArtifactDamaged, match="run again to make it anew"):
        published.fetch(KEY)
    assert len([request for request in requests if request.startswith("GET") and "info.json" in request]) == 2


def test_an_artifact_replaced_while_it_is_read_is_read_anew(
    published: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the manifest and the files, another run replaces them."""
    download, calls = s3_download.download, []

    def replace(*arguments: object) -> None:
        if not calls:
            published.delete(KEY)
            published.publish(make_folder(tmp_path / "other", {"info.json": b"[]"}), KEY, {"rows": 4})
        calls.append(arguments)
        download(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("blocks.s3_fetch.download", replace)
    assert read(published.fetch(KEY)) == {"info.json": b"[]"}
    assert published.find(KEY) == {"rows": 4}


def test_a_full_disk_is_one_clear_line_and_takes_nothing_away(published: S3Store, cache: Path) -> None:
    with no_room_for_bytes(), pytest.raises(StoreConfigError, match=r"Cannot (write|keep) .*File too large; .*\.$") as caught:
        published.fetch(KEY)
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.parent.name != "locks"]
    assert published.find(KEY) == {"rows": 3}
    assert read(published.fetch(KEY)) == FILES
