"""Tests of the command `setup` against a real server."""

from collections.abc import Iterator

import httpx
import pytest

from flows.__main__ import main
from flows.setup import AUTOMATION


def done(printed: str) -> dict[str, str]:
    """Return what a printed table says was done."""
    rows = [line.split("  ") for line in printed.splitlines()[1:] if "  " in line]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {f"{what} {name}": text for what, name, text in cells}


@pytest.fixture
def bare_server(prefect_api: str) -> Iterator[str]:
    """Yield the URL of a server without work pools, before and after."""

    def clear() -> None:
        for pool in httpx.post(f"{prefect_api}/work_pools/filter", json={}).json():
            httpx.delete(f"{prefect_api}/work_pools/{pool['name']}").raise_for_status()

    clear()
    yield prefect_api
    clear()


def test_it_makes_what_is_missing_and_leaves_alone_what_is_there(bare_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"name": "cpu", "type": "kubernetes", "description": "ours"}
    httpx.post(f"{bare_server}/work_pools/", json=kept).raise_for_status()
    assert main(["setup"]) == 0
    assert done(capsys.readouterr().out) == {
        "work pool cpu": "there already, of type kubernetes",
        "work pool gpu": "made, of type process",
        "limit of pool gpu": "set to 1",
        "block type S3 Store": "registered",
        f"automation {AUTOMATION}": "made",
    }
    assert httpx.get(f"{bare_server}/work_pools/cpu").json()["description"] == "ours"
    assert httpx.get(f"{bare_server}/work_pools/gpu").json()["concurrency_limit"] == 1
    # A process worker must be able to start runs with what was made.
    assert "job_configuration" in httpx.get(f"{bare_server}/work_pools/gpu").json()["base_job_template"]
    assert httpx.get(f"{bare_server}/block_types/slug/s3-store").is_success

    automations = httpx.post(f"{bare_server}/automations/filter", json={}).json()
    (automation,) = [found for found in automations if found["name"] == AUTOMATION]
    assert automation["enabled"]
    assert automation["trigger"]["posture"] == "Proactive"

    assert main(["setup"]) == 0
    again = done(capsys.readouterr().out)
    assert again.pop("block type S3 Store") == "registered"
    assert all(text.startswith("there already") for text in again.values())
    assert len(httpx.post(f"{bare_server}/automations/filter", json={}).json()) == len(automations)

    assert main(["setup", "--gpu_jobs", "3"]) == 0
    assert httpx.get(f"{bare_server}/work_pools/gpu").json()["concurrency_limit"] == 3
    assert main(["setup"]) == 0
    assert httpx.get(f"{bare_server}/work_pools/gpu").json()["concurrency_limit"] == 3, "the limit that was chosen is not kept"

    # An automation of an earlier version is brought up to date.
    automation["trigger"]["within"] = 600
    changed = {key: automation[key] for key in ("name", "description", "enabled", "trigger", "actions")}
    httpx.put(f"{bare_server}/automations/{automation['id']}", json=changed).raise_for_status()
    capsys.readouterr()
    assert main(["setup"]) == 0
    assert done(capsys.readouterr().out)[f"automation {AUTOMATION}"] == "brought up to date"
    assert httpx.get(f"{bare_server}/automations/{automation['id']}").json()["trigger"]["within"] == 90


def test_without_a_server_it_says_what_to_set(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert main(["setup"]) == 2
    assert capsys.readouterr().err.startswith("error: PREFECT_API_URL is not set; set it to your Prefect server's.")


def test_a_wrong_option_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", "--gpu_jobs", "0"]) == 2
    assert capsys.readouterr().err == "error: --gpu_jobs is 0; give 1 or more.\n"
    assert main(["setup", "--gpus", "1"]) == 2
