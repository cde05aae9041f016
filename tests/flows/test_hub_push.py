"""Publishing on the Hub, against a server that speaks its protocol: what is uploaded, and what is said where it is refused."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blocks.artifact_store import LocalStore
from flows.hub_push import push
from tasks.champions import Champion
from tasks.errors import ConfigError, HubUnavailable

CARD = "---\nlibrary_name: transformers\n---\n\n# m\n\n## Verdict\n\nImproved.\n"


class Hub(ThreadingHTTPServer):
    """Takes a model's files as the Hub does; `refuse` is the status that it answers with instead."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuse = 0
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.server.refuse:
            self._answer(self.server.refuse, {"error": "no"})
        elif self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self._answer(200, {"url": f"{self.server.url}/me/model", "id": "me/model"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            self._answer(
                200, {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in wanted]}
            )
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._answer(200, {"commitUrl": f"{self.server.url}/me/model/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self._answer(404, {"error": self.path})

    def do_GET(self) -> None:
        self._answer(404, {"error": self.path})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def champion(tmp_path: Path) -> tuple[LocalStore, Champion]:
    store = LocalStore(tmp_path / "store")
    model = tmp_path / "made" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("without a verdict")
    (model.parent / "seen.npy").write_bytes(b"hashes of rows")
    store.publish(model.parent, "steps/fine-tune/1", {})
    run = tmp_path / "run"
    run.mkdir()
    (run / "model_card.md").write_text(CARD)
    store.publish(run, "runs/first-12345678", {})
    made = {
        "run": "first",
        "run_id": "1",
        "since": "2026",
        "scores": "s",
        "calibration": {},
        "digest": "d",
        "report": "runs/first-12345678",
    }
    return store, Champion(key="steps/fine-tune/1", **made)


def test_the_models_folder_is_uploaded_with_the_card_of_its_run(hub: Hub, champion: tuple[LocalStore, Champion]) -> None:
    store, model = champion
    assert push(store, "m", model, "me/model", private=True) == f"{hub.url}/me/model/commit/1"
    assert hub.files == {"model.safetensors": b"weights", "config.json": b"{}", "README.md": CARD.encode()}
    assert hub.created["visibility"] == "private"
    assert hub.tokens == {"Bearer hf_test"}


@pytest.mark.parametrize("status", [401, 403])
def test_an_account_that_may_not_write_is_told_so(hub: Hub, champion: tuple[LocalStore, Champion], status: int) -> None:
    hub.refuse = status
    with pytest.raises(
        ConfigError, match=rf"does not let this account write to 'me/model' \(status {status}\); set HF_TOKEN"
    ) as error:
        push(*_with_name(champion), "me/model", private=False)
    assert "hf_test" not in str(error.value)


def test_a_repository_that_is_no_name_is_refused(hub: Hub, champion: tuple[LocalStore, Champion]) -> None:
    with pytest.raises(ConfigError, match="Repository 'a/b/c' is not one of the Hub's"):
        push(*_with_name(champion), "a/b/c", private=False)


def test_a_hub_that_is_not_there_is_no_fault_of_the_settings(hub: Hub, champion: tuple[LocalStore, Champion]) -> None:
    hub.refuse = 500
    with pytest.raises(HubUnavailable, match="The Hub did not take the model"):
        push(*_with_name(champion), "me/model", private=False)


def _with_name(champion: tuple[LocalStore, Champion]) -> tuple[LocalStore, str, Champion]:
    return champion[0], "m", champion[1]
