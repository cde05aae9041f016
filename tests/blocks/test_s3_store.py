"""The S3 store against a real server: what it sends, what it refuses, what it never shows."""

import hashlib
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from botocore.exceptions import ConnectionClosedError
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite

import blocks
from blocks import s3_client
from blocks.artifact_store import open_store
from blocks.errors import ArtifactDamaged, StoreConfigError, StoreError, StoreUnavailable
from blocks.s3_store import S3Store
from blocks.s3_upload import PART
from tests.blocks.test_stores import KEY, make_folder, read
from tests.faults import Fault, Proxy, failing, on_requests, recorded
from tests.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "made", {"model/weights": os.urandom(2 * PART + 5), "info.json": b"{}", "empty": b""})


def is_put(request: Any) -> bool:
    return request.method == "PUT"


def is_manifest(request: Any) -> bool:
    return is_put(request) and "/manifest.json" in request.url


def test_the_files_lie_in_a_folder_named_by_their_content(s3_store: S3Store, folder: Path) -> None:
    s3_store.publish(folder, KEY, {})
    manifest = s3_store.inspect(KEY)
    assert manifest is not None
    content = f"{KEY}/{manifest.folder}"
    assert re.fullmatch("[0-9a-f]{16}", manifest.folder)
    assert set(s3_store.objects.list(KEY)) == {f"{content}/{name}" for name in manifest.files} | {f"{KEY}/manifest.json"}
    assert s3_store.locate(KEY) == f"s3://{BUCKET}/{s3_store.prefix}/{content}"
    assert s3_store.locate("steps/none") == f"s3://{BUCKET}/{s3_store.prefix}/steps/none"
    assert s3_store.objects.sha256_of(f"{content}/model/weights") == manifest.files["model/weights"].sha256


def test_a_store_may_be_a_whole_bucket(s3_server: S3Server, cache: Path, folder: Path) -> None:
    store = S3Store.model_validate(s3_server.store().model_dump() | {"prefix": ""})
    key = f"steps/whole/{os.urandom(4).hex()}"
    store.publish(folder, key, {"rows": 1})
    assert store.list("steps/whole") == [key]
    assert read(store.fetch(key)) == read(folder)
    assert str(store) == f"s3://{BUCKET}"
    store.delete(key)


def test_what_is_whole_is_not_sent_or_hashed_again(s3_store: S3Store, folder: Path) -> None:
    s3_store.publish(folder, KEY, {})
    with recorded(s3_store.objects.client) as requests:
        s3_store.publish(folder, KEY, {})
    assert [request.split()[0] for request in requests] == ["GET", "GET"]


def test_files_that_an_interrupted_publish_sent_are_not_sent_again(s3_store: S3Store, folder: Path) -> None:
    client = s3_store.objects.client
    with failing(client, 403, "AccessDenied", matches=is_manifest), pytest.raises(StoreConfigError, match="is denied"):
        s3_store.publish(folder, KEY, {})
    assert s3_store.find(KEY) is None
    with recorded(client) as requests:
        s3_store.publish(folder, KEY, {})
    assert [request for request in requests if request.startswith(("PUT", "POST"))] == [
        f"PUT {BUCKET}/{s3_store.prefix}/{KEY}/manifest.json"
    ]


def test_an_object_with_another_digest_is_sent_again(s3_store: S3Store, folder: Path, cache: Path) -> None:
    files = read(folder)
    s3_store.publish(folder, KEY, {})
    path = f"{s3_store.locate(KEY).removeprefix(f's3://{BUCKET}/{s3_store.prefix}/')}/info.json"
    s3_store.objects.delete([f"{KEY}/manifest.json"])
    s3_store.objects.put(path, b"[]")
    s3_store.publish(folder, KEY, {})
    shutil.rmtree(cache)
    assert read(s3_store.fetch(KEY)) == files


def test_an_artifact_is_downloaded_once_and_not_at_all_where_it_was_made(
    s3_store: S3Store, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = read(folder)
    s3_store.publish(folder, KEY, {})
    client = s3_store.objects.client
    manifest_only = [f"GET {BUCKET}/{s3_store.prefix}/{KEY}/manifest.json"]
    with recorded(client) as requests:
        assert read(s3_store.fetch(KEY)) == files
    assert requests == manifest_only
    assert (s3_store.fetch(KEY) / "info.json").samefile(folder / "info.json")
    monkeypatch.setenv("FINETUNE_FLOWS_CACHE", str(tmp_path / "elsewhere"))
    with recorded(client) as requests:
        assert read(s3_store.fetch(KEY)) == files
    # The large file comes in two ranges.
    assert len(requests) == 1 + len(files) + 1
    with recorded(client) as requests:
        assert read(s3_store.fetch(KEY)) == files
    assert requests == manifest_only


def test_many_that_fetch_at_once_download_once(s3_store: S3Store, folder: Path, cache: Path) -> None:
    files = read(folder)
    s3_store.publish(folder, KEY, {})
    shutil.rmtree(cache)
    with recorded(s3_store.objects.client) as requests, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read(s3_store.fetch(KEY)), range(4)))
    assert found == [files] * 4
    assert len([request for request in requests if "manifest.json" not in request]) == len(files) + 1


def test_a_failed_upload_is_aborted(s3_store: S3Store, folder: Path) -> None:
    def is_last_part(request: Any) -> bool:
        return "partNumber=3" in request.url

    with failing(s3_store.objects.client, 403, "AccessDenied", matches=is_last_part), pytest.raises(StoreConfigError):
        s3_store.publish(folder, KEY, {})
    assert s3_store.objects.uploads() == {}
    assert s3_store.find(KEY) is None


def test_every_upload_carries_a_digest_that_the_server_checks(s3_store: S3Store, folder: Path) -> None:
    seen: set[tuple[str, str]] = set()

    def look(request: Any) -> None:
        if is_put(request):
            kinds = [name.lower() for name in request.headers if name.lower().startswith("x-amz-checksum-")]
            seen.update((request.url.partition("?")[0].rpartition("/")[2], kind) for kind in kinds)

    with on_requests(s3_store.objects.client, look):
        s3_store.publish(folder, KEY, {})
    sha256, crc32 = "x-amz-checksum-sha256", "x-amz-checksum-crc32"
    assert seen == {("weights", crc32), ("info.json", sha256), ("empty", sha256), ("manifest.json", crc32)}


def test_damaged_bytes_with_the_right_digest_in_their_metadata_are_sent_again(
    s3_store: S3Store, folder: Path, cache: Path
) -> None:
    files = read(folder)
    s3_store.publish(folder, KEY, {})
    manifest = s3_store.inspect(KEY)
    assert manifest is not None
    bucket, path = s3_store.objects, f"{KEY}/{manifest.folder}/info.json"
    bucket.client.put_object(
        Bucket=BUCKET, Key=bucket.key(path), Body=b"[]", Metadata={"sha256": manifest.files["info.json"].sha256}
    )
    shutil.rmtree(cache)
    with pytest.raises(ArtifactDamaged):
        s3_store.fetch(KEY)
    s3_store.publish(folder, KEY, {})
    shutil.rmtree(cache)
    assert read(s3_store.fetch(KEY)) == files


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable")])
@pytest.mark.parametrize("first", [1, 3, 5, 7])
def test_a_fault_that_passes_is_overcome(
    s3_store: S3Store, folder: Path, cache: Path, status: int, code: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    files = read(folder)
    with failing(s3_store.objects.client, status, code, first=first):
        s3_store.publish(folder, KEY, {"rows": 3})
    shutil.rmtree(cache)
    with failing(s3_store.objects.client, status, code, first=first):
        assert read(s3_store.fetch(KEY)) == files
    assert s3_store.find(KEY) == {"rows": 3}


def test_a_fault_that_stays_is_unavailable_and_takes_nothing_away(
    s3_store: S3Store, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    s3_store.publish(folder, KEY, {"rows": 3})
    shutil.rmtree(cache)
    uses: list[Callable[[], Any]] = [lambda: s3_store.find(KEY), lambda: s3_store.fetch(KEY), lambda: s3_store.list("steps")]
    uses += [lambda: s3_store.publish(folder, "steps/x/y", {}), lambda: s3_store.swap_pointer("x", {}, None), s3_store.marks]
    uses += [s3_store.check_writable, lambda: s3_store.delete(KEY), lambda: s3_store.sweep(0, delete=True)]
    for use in uses:
        with failing(s3_store.objects.client, 503, "SlowDown", count=1000), pytest.raises(StoreUnavailable, match="SlowDown"):
            use()
    assert s3_store.find(KEY) == {"rows": 3}


@pytest.mark.parametrize("what", ["manifest", "pointer"])
# The client sends the request again after the first of these, not after the other.
@pytest.mark.parametrize(
    "loss", [ConnectionClosedError(endpoint_url="http://x"), ConnectionResetError("lost")], ids=["again", "end"]
)
def test_a_write_whose_answer_was_lost_is_known_as_ones_own(s3_store: S3Store, folder: Path, what: str, loss: Exception) -> None:
    """The server applies the first request, its answer is lost, and a second one would be refused."""
    client, done = s3_store.objects.client, []

    def lose_answer(request: Any) -> None:
        if not done and is_put(request) and ("manifest.json" in request.url or "pointers/" in request.url):
            done.append(request.url)
            assert client._endpoint.http_session.send(request).status_code == 200
            raise loss

    with on_requests(client, lose_answer):
        if what == "manifest":
            s3_store.publish(folder, KEY, {"rows": 3})
            assert s3_store.find(KEY) == {"rows": 3}
        else:
            s3_store.swap_pointer("x", {"rows": 3}, None)
            pointer = s3_store.read_pointer("x")
            assert pointer is not None
            assert pointer.value == {"rows": 3}
    assert done


def test_the_loser_of_a_race_removes_its_own_files(s3_store: S3Store, folder: Path, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", {"info.json": b"[]"})
    done: list[str] = []

    def overtake(request: Any) -> None:
        if is_manifest(request) and not done:
            done.append(request.url)
            s3_store.publish(other, KEY, {"rows": 4})

    with on_requests(s3_store.objects.client, overtake):
        s3_store.publish(folder, KEY, {"rows": 3})
    assert done
    assert s3_store.find(KEY) == {"rows": 4}
    assert {path.rpartition("/")[2] for path in s3_store.objects.list(KEY)} == {"info.json", "manifest.json"}


def test_a_delete_during_a_publish_leaves_it_whole(s3_store: S3Store, folder: Path, cache: Path) -> None:
    files, done = read(folder), []

    def remove(request: Any) -> None:
        if is_manifest(request) and not done:
            done.append(request.url)
            s3_store.delete(KEY)

    with on_requests(s3_store.objects.client, remove):
        s3_store.publish(folder, KEY, {"rows": 3})
    shutil.rmtree(cache)
    assert read(s3_store.fetch(KEY)) == files


def test_what_others_keep_removing_is_given_up(s3_store: S3Store, folder: Path) -> None:
    def remove(request: Any) -> None:
        if is_manifest(request):
            s3_store.objects.delete([path for path in s3_store.objects.list(KEY) if not path.endswith("manifest.json")])

    with on_requests(s3_store.objects.client, remove), pytest.raises(StoreUnavailable, match="keep removing its files"):
        s3_store.publish(folder, KEY, {"rows": 3})


def test_a_sweep_finds_uploads_and_objects_that_nobody_names(s3_store: S3Store, folder: Path) -> None:
    s3_store.publish(folder, KEY, {})
    s3_store.publish(folder, "runs/mine", {}, own=True)
    bucket = s3_store.objects
    bucket.put("steps/load/lost/0123/data", b"x")
    bucket.put(f"{KEY}/0123/data", b"x")
    bucket.put("checkpoints/a/10/data", b"x")
    bucket.put("steps/foreign/1/manifest.json", b'{"schema": 2}')
    bucket.put("steps/foreign/1/data", b"x")
    bucket.put("runs/other/data", b"x")
    upload = bucket.client.create_multipart_upload(Bucket=BUCKET, Key=bucket.key("steps/load/lost/0123/big"))
    bucket.put("specs/a/data", b"x")
    paths = ("checkpoints/a/10/data", "runs/other/data", "specs/a/data", f"{KEY}/0123/data", "steps/load/lost/0123/data")
    stray = [bucket.address(path) for path in paths]
    expected = sorted([*stray, f"{bucket.address('steps/load/lost/0123/big')}?uploadId={upload['UploadId']}"])
    assert s3_store.sweep(3600, delete=True) == []
    assert s3_store.sweep(0, delete=False) == expected
    assert s3_store.sweep(0, delete=True) == expected
    assert s3_store.sweep(0, delete=False) == []
    assert s3_store.list("steps") == [KEY]
    assert set(bucket.list("steps/foreign")) == {"steps/foreign/1/manifest.json", "steps/foreign/1/data"}
    assert s3_store.find("runs/mine") == {}


def test_objects_named_since_the_listing_are_not_swept(s3_store: S3Store, folder: Path) -> None:
    client = s3_store.objects.client
    with failing(client, 403, "AccessDenied", matches=is_manifest), pytest.raises(StoreConfigError):
        s3_store.publish(folder, KEY, {})
    listings: list[str] = []

    def publish_between(request: Any) -> None:
        if "list-type=2" in request.url and "checkpoints" not in request.url:
            listings.append(request.url)
            if len(listings) == 2:
                s3_store.publish(folder, KEY, {"rows": 3})

    with on_requests(client, publish_between):
        assert s3_store.sweep(0, delete=True) == []
    assert s3_store.find(KEY) == {"rows": 3}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"aws_secret_access_key": "wrong" * 8}, "credentials are refused at"),
        ({"aws_access_key_id": "AKIAWRONGWRONGWRONG0"}, "credentials are refused at"),
        ({"bucket": "no-such-bucket"}, "Bucket 'no-such-bucket' does not exist at http://127.0.0.1"),
        ({"aws_access_key_id": None, "aws_secret_access_key": None}, "There are no credentials"),
    ],
)
def test_wrong_settings_are_one_line_with_a_remedy(
    s3_server: S3Server, cache: Path, folder: Path, fields: dict[str, Any], words: str
) -> None:
    store = s3_server.store(**fields)
    uses: list[Callable[[], Any]] = [store.check_writable, lambda: store.find(KEY), lambda: store.publish(folder, KEY, {})]
    uses += [lambda: store.fetch(KEY), lambda: store.swap_pointer("x", {}, None)]
    for use in uses:
        started = time.monotonic()
        with pytest.raises(StoreConfigError, match=words) as caught:
            use()
        assert time.monotonic() - started < 5
        told = "".join(traceback.format_exception(caught.value)) + repr(pickle.dumps(caught.value))
        assert not any(secret in told for secret in (ACCESS_KEY, SECRET_KEY, "wrong" * 8, "AKIAWRONG"))
        assert "\n" not in str(caught.value)
        # The foreign error has the server's whole answer, which may name the access key.
        assert caught.value.__context__ is caught.value.__cause__ is None


def test_the_credentials_may_come_from_the_environment(
    s3_server: S3Server, cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    address = f"s3://{BUCKET}/from-environment"
    with pytest.raises(StoreConfigError, match="no credentials"):
        open_store(address).find(KEY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    with pytest.raises(StoreConfigError, match="incomplete; set both"):
        open_store(address).find(KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    store = open_store(f"{address}/")
    store.publish(folder, KEY, {"rows": 3})
    assert open_store(address).find(KEY) == {"rows": 3}
    assert repr(store) == f"S3Store('{address}')"
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(StoreConfigError, match="AWS_PROFILE names does not exist"):
        open_store(address).find(KEY)


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIAIOSFODNN7EXAMPLE:hidden@bucket/prefix",
        "s3://AKIAIOSFODNN7EXAMPLE:hid/den@bucket",
        "s3://AKIAIOSFODNN7EXAMPLE:hidden/bucket",
        "https://user:hidden@host/bucket",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(StoreConfigError, match="seems to hold credentials; leave them out") as caught:
        open_store(address)
    assert "hid" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3:///x", "s3://B", "s3://a..b/x", "s3://bucket//x", "s3://bucket/../x", "s3://bucket/a b", "s3://bucket/x?y"],
)
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(StoreConfigError, match=r"Bucket name .* is not valid|has the part"):
        open_store(address)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bucket": "x"}, "Bucket name 'x'"),
        ({"bucket": "bucket/prefix"}, "Bucket name"),
        ({"prefix": "a//b"}, "has the part ''"),
        ({"prefix": "../x"}, "has the part '..'"),
        ({"endpoint_url": "ftp://host"}, "endpoint_url is not http"),
        ({"endpoint_url": "host:9000"}, "endpoint_url is not http"),
        ({"endpoint_url": "http://host:port"}, "endpoint_url is not http"),
        ({"endpoint_url": "http://user:hidden@host"}, "endpoint_url is not http"),
        ({"aws_access_key_id": "hidden"}, "only one is set"),
        ({"aws_session_token": "hidden"}, "without aws_access_key_id"),
        ({"kms_key_id": "id"}, "set server_side_encryption to 'aws:kms'"),
    ],
)
def test_fields_of_the_block_are_checked(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(StoreConfigError, match=words) as caught:
        S3Store(**({"bucket": "bucket"} | fields))
    assert "hidden" not in str(caught.value)


def test_fields_that_a_form_left_empty_are_unset() -> None:
    names = ("region", "endpoint_url", "kms_key_id", "aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    for empty in ("", None):
        store = S3Store(bucket="bucket", **dict.fromkeys(names, empty))
        assert store == S3Store(bucket="bucket")
        assert store.objects.put_arguments == {}


def test_no_text_shows_a_secret(s3_server: S3Server, caplog: pytest.LogCaptureFixture, folder: Path, cache: Path) -> None:
    store = s3_server.store()
    with caplog.at_level(logging.INFO):
        store.publish(folder, KEY, {})
        store.fetch(KEY)
    manifest = store.objects.get(f"{KEY}/manifest.json")
    texts = [repr(store), str(store), f"{store.objects}", repr(store.model_dump()), store.model_dump_json(), caplog.text]
    texts += [repr(manifest), store.locate(KEY), repr(s3_client._clients), repr(store.objects.place)]
    for text in texts:
        assert SECRET_KEY not in text
        assert ACCESS_KEY not in text


def test_clients_are_made_once_for_the_same_settings(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    first = s3_server.store("a").objects.client
    with ThreadPoolExecutor(8) as pool:
        others = list(pool.map(lambda number: s3_server.store(f"p{number}").objects.client, range(8)))
    assert all(other is first for other in others)
    assert s3_server.store(region="eu-central-1").objects.client is not first
    monkeypatch.setenv("AWS_CA_BUNDLE", "x")
    assert s3_server.store("a").objects.client is not first


def test_the_client_is_set_on_purpose(s3_server: S3Server) -> None:
    config = s3_server.store().objects.client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (5, 30)
    assert config.retries == {"mode": "standard", "total_max_attempts": 4}
    assert config.request_checksum_calculation == "when_supported"
    assert config.s3["addressing_style"] == "path"
    assert "finetune-flows/" in config.user_agent_extra
    assert S3Store(bucket="bucket").objects.client.meta.config.s3["addressing_style"] == "auto"
    assert S3Store(bucket="bucket", path_style="on").objects.client.meta.config.s3["addressing_style"] == "path"


def test_encryption_is_asked_for_with_every_write(s3_server: S3Server, tmp_path: Path, cache: Path) -> None:
    store = s3_server.store(server_side_encryption="aws:kms", kms_key_id="key-1")
    seen: list[tuple[str, Any]] = []

    def look(request: Any) -> Any:
        if request.method in ("PUT", "POST") and "partNumber" not in request.url and "uploadId" not in request.url:
            seen.append((request.url, request.headers.get("x-amz-server-side-encryption-aws-kms-key-id")))
            for name in [name for name in request.headers if "server-side-encryption" in name]:
                del request.headers[name]

    bucket = store.objects
    assert bucket.put_arguments == {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}
    with on_requests(bucket.client, look), pytest.raises(StoreError):
        # The test server has no keys, and the signature covers the headers: it is enough to see them go out.
        store.publish(make_folder(tmp_path / "small", {"a": b"x"}), KEY, {})
    assert seen
    assert all(key in (b"key-1", "key-1") for _, key in seen)


def test_the_server_refuses_bytes_that_changed_on_their_way(
    s3_server: S3Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"x" * 200_000
    with Proxy(s3_server.ports[0], lambda _: Fault("corrupt", 150_000, answers=False)) as proxy:
        store = s3_server.store(endpoint_url=proxy.endpoint)
        with pytest.raises(StoreError):
            store.publish(make_folder(tmp_path / "made", {"data": content}), KEY, {})
        assert proxy.struck
    clean = s3_server.store(store.prefix)
    assert clean.find(KEY) is None
    assert clean.objects.list(KEY) == {}


def test_a_server_that_does_not_answer_is_given_up_in_time(
    s3_server: S3Server, cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "_READ_TIMEOUT_S", 0.5)
    with Proxy(s3_server.ports[0], lambda _: Fault("stall", 0)) as proxy:
        store = s3_server.store(endpoint_url=proxy.endpoint)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=rf"{proxy.endpoint} does not answer \(ReadTimeoutError\)"):
            store.find(KEY)
        assert 1.9 < time.monotonic() - started < 15
    gone = s3_server.store(endpoint_url=proxy.endpoint)
    with pytest.raises(StoreUnavailable, match="EndpointConnectionError"):
        gone.check_writable()


def test_a_bucket_that_overwrites_what_it_must_keep_is_refused(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocks.s3_bucket.Bucket.put_if", lambda *_: True)
    with pytest.raises(StoreConfigError, match="overwrites what a conditional write must keep"):
        s3_store.check_writable()


def test_a_key_longer_than_s3_allows_is_refused(s3_server: S3Server, cache: Path, tmp_path: Path) -> None:
    store = s3_server.store("/".join(["p" * 200] * 4))
    folder = make_folder(tmp_path / "made", {"/".join(["x" * 200] * 2): b"x"})
    with pytest.raises(StoreConfigError, match="longer than 1024 bytes"):
        store.publish(folder, KEY, {})


def test_nothing_is_lost_when_the_server_is_killed(tmp_path: Path, cache: Path, folder: Path) -> None:
    files = read(folder)
    server = S3Server(tmp_path / "server")
    server.start()
    try:
        store = server.store("killed")
        store.publish(folder, KEY, {"rows": 3})
        server.restart()
        shutil.rmtree(cache)
        assert read(store.fetch(KEY)) == files
        server.kill()
        with pytest.raises(StoreUnavailable):
            store.find(KEY)
    finally:
        server.stop()


class TestTheBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return S3Store

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        try:
            super().test_has_a_valid_image(block)
        except URLError:
            pytest.skip("needs the internet")


def test_the_package_offers_the_block_when_it_is_asked_for() -> None:
    assert blocks.S3Store is S3Store
    assert "S3Store" in dir(blocks)
    with pytest.raises(AttributeError):
        _ = blocks.Nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["blocks", "blocks.artifact_store", "blocks.errors"])
def test_importing_the_store_is_light(module: str) -> None:
    code = f"import sys, {module}; assert not {{'prefect', 'boto3', 'pydantic'}} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(blocks.__file__).parent.parent)


def test_the_digest_kept_with_an_object_is_its_own(s3_store: S3Store) -> None:
    s3_store.objects.put("x", b"data")
    assert s3_store.objects.sha256_of("x") == hashlib.sha256(b"data").hexdigest()
    assert s3_store.objects.sha256_of("none") == ""


def test_threads_may_share_a_store(s3_store: S3Store, tmp_path: Path) -> None:
    start = threading.Barrier(6)

    def publish(number: int) -> dict[str, bytes]:
        folder = make_folder(tmp_path / str(number), {"data": bytes([number]) * 1000})
        start.wait()
        s3_store.publish(folder, f"steps/many/{number}", {"number": number})
        return read(s3_store.fetch(f"steps/many/{number}"))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(publish, range(6))) == [{"data": bytes([number]) * 1000} for number in range(6)]
    assert len(s3_store.list("steps")) == 6
