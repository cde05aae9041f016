"""The Hub: what is pinned, found in the cache or downloaded, and how its refusals are told; against a small Hub of our own."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from tasks.errors import DataError, FlowsError, HubUnavailable, ModelError
from tasks.hub import RepoType, cached_snapshot, download_model, is_offline, resolve_commit

COMMIT, OLDER = "a" * 40, "b" * 40
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "vocab.txt": b"a\nb\n",
    "model.safetensors": b"weights",
    "code.py": b"x = 1",
    "README.md": b"# it",
    "onnx/config.json": b"[]",
    "onnx/model.safetensors": b"others",
}
TOKENIZER = {"config.json", "tokenizer.json", "vocab.txt"}
WEIGHTS = TOKENIZER | {"model.safetensors"}
Answer = tuple[int, dict[str, str]]


class Hub(ThreadingHTTPServer):
    """A Hub with one repository, `me/it`, at `COMMIT`; or one that gives the same `answer` to all, or none if that is None."""

    daemon_threads = True
    files = FILES
    answer: Answer | None = (200, {})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def reply(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.answer is None or self.answer[0] != 200:
            return (*(self.answer or (0, {})), b"")
        if path.startswith("/api/models/me/it/tree/"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": f"{name}-id"} for name, data in self.files.items()]
            return 200, {}, json.dumps(tree).encode()
        if path.startswith("/api/models/me/it"):
            return 200, {}, json.dumps({"id": "me/it", "sha": COMMIT, "siblings": []}).encode()
        if path.startswith("/me/it/resolve/") and (name := path.split("/", 5)[5]) in self.files:
            return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{name.replace("/", "-")}"'}, self.files[name]
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        status, headers, body = self.server.reply(self.path)
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache; the Hub may not be asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(time, "sleep", lambda _: None)


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Start a Hub with an empty cache."""
    with Hub(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with monkeypatch.context() as patch:
            point_to(server.url, patch)
            yield server
        server.shutdown()
        thread.join()


def keep(
    cache: Path, folder: str, commit: str = COMMIT, *, ref: str | None = "main", files: tuple[str, ...] = ("config.json",)
) -> Path:
    """Lay a snapshot out as `huggingface_hub` does and return its folder."""
    snapshot = cache / folder / "snapshots" / commit
    for name in files:
        blob = cache / folder / "blobs" / f"{commit}-{name}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text("{}")
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    if ref:
        (cache / folder / "refs").mkdir(exist_ok=True)
        (cache / folder / "refs" / ref).write_text(commit)
    return snapshot


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- offline, from the cache


@pytest.mark.parametrize(
    ("repo_type", "folder", "name", "file"),
    [
        ("model", "models--me--it", "me/it", "config.json"),
        ("model", "models--bert", "bert", "config.json"),
        ("model", "models--google-bert--bert", "bert", "config.json"),
        ("dataset", "datasets--me--it", "me/it", "README.md"),
        ("dataset", "datasets--fancyzhx--ag_news", "ag_news", "README.md"),
        ("dataset", "datasets--fancyzhx--ag_news", "ag_news", "train.csv"),
        ("model", "models--me--it", "me/it", "tokenizer.json"),
    ],
)
def test_what_is_in_the_cache_is_found_there(cache: Path, repo_type: RepoType, folder: str, name: str, file: str) -> None:
    assert is_offline()
    snapshot = keep(cache, folder, files=(file,))
    assert resolve_commit(repo_type, name, None) == COMMIT
    assert cached_snapshot(repo_type, name, COMMIT) == snapshot


@pytest.mark.parametrize(
    ("revision", "commit"), [(None, COMMIT), ("main", COMMIT), ("v1", OLDER), (OLDER, OLDER), (COMMIT, COMMIT)]
)
def test_a_revision_in_the_cache_stands_for_its_commit(cache: Path, revision: str | None, commit: str) -> None:
    keep(cache, "models--me--it")
    keep(cache, "models--me--it", OLDER, ref="v1")
    assert resolve_commit("model", "me/it", revision) == commit


@pytest.mark.parametrize(
    ("repo_type", "name", "revision"),
    [
        ("model", "me/other", None),
        ("model", "me/it", "v2"),
        ("model", "me/it", "c" * 40),
        ("dataset", "me/it", None),
        ("model", "it", "c" * 40),
        ("model", "two", None),
    ],
)
def test_what_is_not_in_the_cache_is_told_offline(cache: Path, repo_type: RepoType, name: str, revision: str | None) -> None:
    for folder in ("models--me--it", "models--a--two", "models--b--two"):
        keep(cache, folder)
    expected = DataError if repo_type == "dataset" else ModelError
    with pytest.raises(expected, match=r"is not in the local cache and HF_HUB_OFFLINE is set; unset it or run once"):
        resolve_commit(repo_type, name, revision)
    assert cached_snapshot(repo_type, name, revision or COMMIT) is None


@pytest.mark.parametrize("name", ["a/b/c", "me/it--", "-x", "a b"])
@pytest.mark.parametrize(("repo_type", "field"), [("model", "model.name"), ("dataset", "data.source")])
def test_a_name_that_is_no_id_is_told_with_its_setting(cache: Path, repo_type: RepoType, field: str, name: str) -> None:
    with pytest.raises((ModelError, DataError), match=rf"'{name}' is not a Hub id \(.+\); check {field}\.$"):
        resolve_commit(repo_type, name, None)
    assert cached_snapshot(repo_type, name, COMMIT) is None
    assert not cache.exists()


def test_a_model_in_the_cache_needs_no_download(cache: Path) -> None:
    snapshot = keep(cache, "models--google-bert--bert", files=("config.json", "model.safetensors"))
    assert download_model("bert", COMMIT, weights=True, allow_pickle=False, remote_code=False) == snapshot


def test_a_model_that_is_not_in_the_cache_is_told_offline(cache: Path) -> None:
    keep(cache, "models--me--it")
    with pytest.raises(ModelError, match=r"'me/it' is not whole in the local cache and HF_HUB_OFFLINE is set"):
        download_model("me/it", OLDER, weights=True, allow_pickle=False, remote_code=False)


# ---- online


@pytest.mark.parametrize("revision", [None, "main", "v1"])
def test_the_hub_says_what_a_revision_stands_for_and_the_cache_knows_it_later(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    assert resolve_commit("model", "me/it", revision) == COMMIT
    # Undone before the hub's own patches are: else all later tests would be online.
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert resolve_commit("model", "me/it", revision) == COMMIT
    hub.answer = (503, {})
    assert resolve_commit("model", "me/it", revision) == COMMIT


def test_a_repository_without_the_probed_file_has_a_commit_too(hub: Hub) -> None:
    hub.files = {"model.safetensors": b"weights"}
    assert resolve_commit("model", "me/it", None) == COMMIT


ANSWERS: list[tuple[Answer | None, type[FlowsError], str]] = [
    (
        (404, {"X-Error-Code": "RepoNotFound"}),
        ModelError,
        "is neither a path here nor on the Hub, or HF_TOKEN lacks .* model.name",
    ),
    ((401, {"X-Error-Code": "RepoNotFound"}), ModelError, "is neither a path here nor on the Hub"),
    ((403, {"X-Error-Code": "GatedRepo"}), ModelError, "is gated: accept its terms on the Hub and set HF_TOKEN"),
    ((404, {"X-Error-Code": "RevisionNotFound"}), ModelError, "has no revision 'v1'; check model.revision"),
    ((401, {"X-Error-Message": "Invalid credentials in Authorization header"}), ModelError, "refuses HF_TOKEN"),
    ((503, {}), HubUnavailable, "try again"),
    ((500, {}), HubUnavailable, "try again"),
    ((404, {"X-Error-Code": "EntryNotFound"}), HubUnavailable, "could not be looked up: .*try again"),
    (None, HubUnavailable, "could not be looked up: .*try again"),
]


@pytest.mark.parametrize(("answer", "error", "words"), ANSWERS)
def test_a_refusal_of_the_hub_is_told(hub: Hub, answer: Answer | None, error: type[FlowsError], words: str) -> None:
    hub.answer = answer
    with pytest.raises(error, match=f"^Model 'me/it' .*{words}") as caught:
        resolve_commit("model", "me/it", "v1")
    assert "\n" not in str(caught.value)


def test_a_datasets_refusal_names_its_own_settings(hub: Hub) -> None:
    hub.answer = (404, {"X-Error-Code": "RevisionNotFound"})
    with pytest.raises(DataError, match=r"^Dataset 'me/it' has no revision 'v1'; check data\.revision\.$"):
        resolve_commit("dataset", "me/it", "v1")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, TOKENIZER),
        ({"weights": True}, WEIGHTS),
        ({"weights": True, "allow_pickle": True}, WEIGHTS),
        ({"remote_code": True}, TOKENIZER | {"code.py", "onnx/config.json"}),
    ],
)
def test_only_the_files_that_are_needed_are_downloaded(hub: Hub, wanted: dict[str, bool], expected: set[str]) -> None:
    hub.files = FILES | {"pytorch_model.bin": b"pickle"}
    options = {"weights": False, "allow_pickle": False, "remote_code": False} | wanted
    folder = download_model("me/it", COMMIT, **options)
    assert folder.name == COMMIT
    assert names(folder) == expected
    assert (folder / "vocab.txt").read_bytes() == FILES["vocab.txt"]


@pytest.mark.parametrize("allow_pickle", [True, False])
def test_pickled_weights_are_downloaded_only_where_allowed(hub: Hub, allow_pickle: bool) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    folder = download_model("me/it", COMMIT, weights=True, allow_pickle=allow_pickle, remote_code=False)
    assert names(folder) == ({"config.json", "pytorch_model.bin"} if allow_pickle else {"config.json"})


@pytest.mark.parametrize("answer", [(503, {}), None])
def test_a_download_that_fails_can_be_tried_again(hub: Hub, answer: Answer | None) -> None:
    hub.answer = answer
    with pytest.raises(HubUnavailable, match=r"^Model 'me/it' could not be downloaded: .*; try again\.$"):
        download_model("me/it", COMMIT, weights=True, allow_pickle=False, remote_code=False)


def test_a_hub_that_is_not_there_can_be_tried_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub(("127.0.0.1", 0), Handler) as gone:
        url = gone.url
    point_to(url, monkeypatch)
    types: tuple[RepoType, ...] = "model", "dataset"
    for repo_type in types:
        with pytest.raises(HubUnavailable, match="is not in the local cache and the Hub does not answer; try again"):
            resolve_commit(repo_type, "me/it", None)
    keep(cache, "models--me--it")
    assert resolve_commit("model", "me/it", None) == COMMIT
