"""Tests of sending files: what breaks on the way is sent again."""

import hashlib
from pathlib import Path

import pytest

from blocks.manifest import FileEntry
from blocks.s3_upload import PART, Upload, upload
from tests.faults import Fault, Proxy
from tests.s3 import S3Server


@pytest.mark.timeout(30)
@pytest.mark.parametrize("size", [0, 5, PART - 1])
@pytest.mark.parametrize("after", [10, 23, 30])
def test_an_answer_that_breaks_off_in_its_first_lines_is_asked_for_again(
    s3_server: S3Server, tmp_path: Path, size: int, after: int
) -> None:
    content = b"x" * size
    (tmp_path / "file").write_bytes(content)
    entry = FileEntry(size=size, sha256=hashlib.sha256(content).hexdigest())
    with Proxy(s3_server.ports[0], lambda _: Fault("truncate", after), limit=2) as proxy:
        bucket = s3_server.store("upload", endpoint_url=proxy.endpoint).objects
        upload(bucket, [Upload(f"{after}-{size}", tmp_path / "file", entry)])
        found = bucket.get(f"{after}-{size}")
    assert found is not None
    assert found[0] == content
    assert len(proxy.struck) == 2
