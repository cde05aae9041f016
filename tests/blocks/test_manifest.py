"""Manifests: what is written is read again, and whatever else lies there is none."""

import json
from typing import Any

import pytest

from blocks.errors import StoreConfigError
from blocks.manifest import FileEntry, make_manifest, parse_manifest, write_manifest

SHA = "ab" * 32
FILES = {"model/weights": FileEntry(3, SHA), "info.json": FileEntry(0, SHA)}


def content(**changes: Any) -> bytes:
    whole = {"schema": 1, "record": {}, "files": {"a": {"size": 1, "sha256": SHA}}}
    return json.dumps(whole | changes).encode()


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_written_is_read(shared: bool) -> None:
    made = make_manifest(FILES, {"rows": 3}, inputs=["steps/a/b"], made_by="run", shared=shared)
    assert parse_manifest(write_manifest(made)) == made
    assert parse_manifest(write_manifest(made, nonce="n")) == made
    assert made.published.endswith("+00:00")
    assert made.folder == (made.digest[:16] if shared else "")
    assert made.size == 3


def test_one_without_the_later_fields_is_read() -> None:
    read = parse_manifest(content())
    assert read is not None
    assert (read.inputs, read.made_by, read.published, read.folder) == ((), "", "", "")


def test_the_digest_is_of_the_content_whatever_the_order() -> None:
    first = make_manifest(FILES, {})
    assert make_manifest(dict(reversed(FILES.items())), {"other": 1}).digest == first.digest
    assert make_manifest({**FILES, "info.json": FileEntry(1, SHA)}, {}).digest != first.digest
    assert make_manifest({**FILES, "info.json": FileEntry(0, "0" * 64)}, {}).digest != first.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"record": []},
        {"files": []},
        {"files": {"a": {"size": -1, "sha256": SHA}}},
        {"files": {"a": {"size": True, "sha256": SHA}}},
        {"files": {"a": {"size": "1", "sha256": SHA}}},
        {"files": {"a": {"size": 1, "sha256": SHA[:-1]}}},
        {"files": {"a": {"size": 1, "sha256": SHA.upper()}}},
        {"files": {name: {"size": 1, "sha256": SHA} for name in ("a", "a/b")}},
        {"inputs": ["../x"]},
        {"inputs": 3},
        {"made_by": 3},
        {"published": None},
        {"folder": "../other"},
        {"folder": "0" * 16},
    ],
)
def test_one_with_a_wrong_field_is_none(changes: dict[str, Any]) -> None:
    assert parse_manifest(content(**changes)) is None


@pytest.mark.parametrize("text", [b"", b"\xff", b"[" * 100_000, b"3", b'{"record": {}}'])
def test_other_bytes_are_none(text: bytes) -> None:
    assert parse_manifest(text) is None


ODD = [
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    "a/",
    "./a",
    "a\0b",
    "a\nb",
    "a\\b",
    "x" * 256,
    "é" * 128,
    "a/" * 600 + "a",
    "invoice\u202efdp.exe",
    "a\u200bb",
    "\udcff",
    "cafe\u0301",
    "manifest.json",
]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_an_odd_name_is_refused_and_makes_no_manifest(name: str) -> None:
    with pytest.raises(StoreConfigError, match="cannot be kept in a store; rename"):
        make_manifest({name: FileEntry(1, SHA)}, {})
    assert parse_manifest(content(files={name: {"size": 1, "sha256": SHA}})) is None


@pytest.mark.parametrize("name", ["a", "a b", ".hidden", "café.json", "数据/行.arrow", "x" * 255, "sub/manifest.json"], ids=ascii)
def test_an_usual_name_passes(name: str) -> None:
    assert parse_manifest(content(files={name: {"size": 1, "sha256": SHA}})) is not None
    make_manifest({name: FileEntry(1, SHA)}, {})


def test_the_key_of_an_input_is_checked() -> None:
    with pytest.raises(StoreConfigError, match="has the part"):
        make_manifest({}, {}, inputs=["../x"])
