"""Stores that Prefect keeps as blocks, with a real Prefect server."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client

from blocks.artifact_store import open_store
from blocks.errors import StoreConfigError, StoreUnavailable
from blocks.s3_store import S3Store
from tests.blocks.test_stores import KEY, make_folder
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def saved(prefect_api: str, s3_server: S3Server, cache: Path) -> S3Store:
    store = s3_server.store("saved")
    store.save("x", overwrite=True)
    return store


def test_a_saved_store_is_opened_by_its_name(saved: S3Store, tmp_path: Path) -> None:
    store = open_store("block:s3-store/x")
    assert isinstance(store, S3Store)
    assert (store.bucket, store.prefix, store.endpoint_url) == (saved.bucket, "saved", saved.endpoint_url)
    store.publish(make_folder(tmp_path / "made", {"a": b"x"}), KEY, {"rows": 3})
    assert saved.find(KEY) == {"rows": 3}
    assert store.objects.client is saved.objects.client


IN_FLOWS = """
import asyncio
from prefect import flow
from blocks.artifact_store import open_store

@flow
def sync_flow():
    return str(open_store("block:s3-store/x"))

@flow
async def async_flow():
    return str(open_store("block:s3-store/x"))

print(sync_flow(), asyncio.run(async_flow()))
"""


@pytest.mark.usefixtures("saved")
def test_it_opens_where_an_event_loop_runs() -> None:
    async def inside() -> Any:
        return open_store("block:s3-store/x")

    assert isinstance(asyncio.run(inside()), S3Store)


@pytest.mark.usefixtures("saved")
def test_it_opens_in_flows_of_both_kinds(prefect_api: str) -> None:
    # In a process of its own: an async flow leaves connections of Prefect's open.
    environment = {**os.environ, "PREFECT_API_URL": prefect_api}
    ended = subprocess.run(
        [sys.executable, "-c", IN_FLOWS], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["s3://artifacts/saved"] * 2


@pytest.mark.usefixtures("saved")
def test_the_server_shows_no_secret(prefect_api: str) -> None:
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("x", "s3-store", include_secrets=False)
    assert document.data["bucket"] == "artifacts"
    for secret in (ACCESS_KEY, SECRET_KEY):
        assert secret not in document.model_dump_json()


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("block:s3-store/none", "Block 's3-store/none' does not exist"),
        ("block:no-such-type/x", "does not exist"),
        ("block:secret/s", "Block 'secret/s' is no artifact store"),
        ("block:", "does not name a block; give block:TYPE/NAME"),
        ("block:s3-store", "does not name a block"),
        ("block:s3-store/", "does not name a block"),
        ("block:a/b/c", "does not name a block"),
    ],
)
def test_what_names_no_store_is_refused(address: str, words: str) -> None:
    Secret(value="hidden").save("s", overwrite=True)  # type: ignore[arg-type]
    with pytest.raises(StoreConfigError, match=words) as caught:
        open_store(address)
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_saved_block_with_wrong_values_is_refused_and_they_are_not_shown(saved: S3Store, prefect_api: str) -> None:
    with get_client(sync_client=True) as client:
        document = client.read_block_document_by_name("x", "s3-store", include_secrets=True)
    data = document.data | {"path_style": "hidden"}
    httpx.patch(f"{prefect_api}/block_documents/{document.id}", json={"data": data, "merge_existing_data": False})
    with pytest.raises(StoreConfigError, match=r"Block 's3-store/x' has wrong values in \['path_style'\]") as caught:
        open_store("block:s3-store/x")
    assert "hidden" not in str(caught.value)


def test_a_prefect_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    settings = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(settings), pytest.raises(StoreUnavailable, match="check PREFECT_API_URL"):
        open_store("block:s3-store/x")


def test_the_block_is_registered_by_the_package(prefect_api: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [str(Path(sys.executable).with_name("prefect")), "block", "register", "-m", "blocks"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "S3 Store" in ended.stdout
    kinds = httpx.get(f"{prefect_api}/block_types/slug/s3-store").json()
    assert kinds["name"] == "S3 Store"
    schemas = httpx.post(
        f"{prefect_api}/block_schemas/filter", json={"block_schemas": {"block_type_id": {"any_": [kinds["id"]]}}}
    )
    fields = schemas.json()[0]["fields"]
    assert fields["required"] == ["bucket"]
    # A form draws one input for each field, and no switch to null.
    assert [name for name, field in fields["properties"].items() if "anyOf" in field] == []
    assert sorted(fields["secret_fields"]) == ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"]
