"""Answers whose headers or bodies were cut off: no proof of anything, so never taken for one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from blocks.errors import StoreUnavailable
from blocks.s3_bucket import Bucket
from blocks.s3_store import S3Store
from tests.faults import RawBody, on_requests


@pytest.fixture
def bucket(s3_store: S3Store) -> Bucket:
    s3_store.objects.put("there", b"bytes")
    return s3_store.objects


def answering(headers: dict[str, str], body: bytes) -> Any:
    return lambda request: AWSResponse(request.url, 200, headers, RawBody(body))


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        ({"ETag": '"x"'}, b""),
        ({"ETag": '"x"'}, b"bytes"),
        ({"ETag": '"x"', "Content-Length": "5"}, b"byt"),
        ({"ETag": '"x"', "Content-Length": "5", "x-amz-meta-sha256": "0" * 64}, b"bytes"),
        ({"Content-Length": "5"}, b"bytes"),
    ],
)
def test_an_object_that_came_in_part_is_asked_for_again(bucket: Bucket, headers: dict[str, str], body: bytes) -> None:
    with on_requests(bucket.client, answering(headers, body)), pytest.raises(StoreUnavailable):
        bucket.get("there")
    found = bucket.get("there")
    assert found is not None
    assert found[0] == b"bytes"


@pytest.mark.parametrize("body", [b"", b"<ListBucketResult>", b"<ListBucketResult/>", b"no xml"])
def test_a_listing_that_came_in_part_lists_nothing(bucket: Bucket, body: bytes) -> None:
    with on_requests(bucket.client, answering({}, body)), pytest.raises(StoreUnavailable):
        bucket.scan("")
    assert list(bucket.scan("")) == ["there"]


def test_a_listing_of_something_else_is_refused(bucket: Bucket) -> None:
    item = (
        "<Contents><Key>elsewhere/x</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>x</ETag></Contents>"
    )
    body = f"<ListBucketResult><Name>artifacts</Name>{item}</ListBucketResult>".encode()
    with on_requests(bucket.client, answering({}, body)), pytest.raises(StoreUnavailable, match="lists what was not asked for"):
        bucket.scan("steps/")


def test_many_objects_are_listed_and_deleted_page_by_page(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocks.s3_bucket._BATCH", 3)
    names = [f"many/{number}" for number in range(7)]
    for name in names:
        bucket.put(name, b"x")

    def two_a_page(request: Any) -> None:
        if "list-type=2" in request.url:
            pages.append(request.url)

    pages: list[str] = []
    list_objects = bucket.client.list_objects_v2
    monkeypatch.setattr(bucket.client, "list_objects_v2", lambda **arguments: list_objects(MaxKeys=2, **arguments))
    with on_requests(bucket.client, two_a_page):
        assert sorted(bucket.list("many")) == names
    assert len(pages) == 4
    bucket.delete(names)
    assert bucket.list("many") == {}


def test_a_part_whose_range_was_cut_off_is_no_damage(s3_store: S3Store, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "data").write_bytes(b"data")
    s3_store.publish(tmp_path / "made", "steps/a/b", {})

    def cut(request: Any) -> Any:
        if request.url.endswith("/data"):
            return AWSResponse(request.url, 206, {"Content-Length": "2"}, RawBody(b"da"))
        return None

    shutil.rmtree(cache)
    with on_requests(s3_store.objects.client, cut), pytest.raises(StoreUnavailable):
        s3_store.fetch("steps/a/b")
    assert (s3_store.fetch("steps/a/b") / "data").read_bytes() == b"data"
