"""Make the pictures of the documentation: `python docs/screenshots.py`.

Starts `python -m flows serve` in a temporary folder, runs the quickstart from the form in headless Chromium, and takes pictures
of the form, the run and its summary. It needs the `test` extra, Chromium (or its path in CHROMIUM) and a few minutes.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
_ROOT = Path(__file__).parent.parent
_LIMIT_S = 900.0


def start_run(page: Page, url: str, deployment: str) -> dict[str, Any]:
    """Take a picture of the form, submit it as it is, and return the run that is over."""
    page.goto(f"{url}/deployments/deployment/{deployment}/run")
    page.get_by_text("Passes over the train split").wait_for()
    page.wait_for_timeout(1000)
    page.screenshot(path=IMAGES / "form.png")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile(rf"/deployments/deployment/{deployment}(\?.*)?$"))
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        (run,) = httpx.post(f"{url}/api/flow_runs/filter", json={"limit": 1}).json()
        if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED"):
            return dict(run)
        time.sleep(2)
    raise TimeoutError(f"the run did not end within {_LIMIT_S:g} s")


def take(url: str) -> None:
    """Take the pictures, smaller than the screen."""
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    deployment = httpx.get(f"{url}/api/deployments/name/text-classification/served").json()["id"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(60_000)
        run = start_run(page, url, deployment)
        page.goto(f"{url}/runs/flow-run/{run['id']}")
        page.get_by_text("fine-tune").first.wait_for()
        page.wait_for_timeout(3000)
        page.screenshot(path=IMAGES / "run.png")
        artifacts = {found["key"]: found["id"] for found in httpx.post(f"{url}/api/artifacts/filter", json={}).json()}
        page.goto(f"{url}/artifacts/artifact/{artifacts['text-classifier-summary']}")
        page.locator("img[src^='data:image/png']").first.wait_for()
        page.wait_for_timeout(1000)
        page.screenshot(path=IMAGES / "summary.png")
        browser.close()


def main() -> None:
    """Serve, take the pictures, and end what was started."""
    IMAGES.mkdir(exist_ok=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", "serve", "--port", str(port)],
            env={**os.environ, "PREFECT_HOME": f"{folder}/prefect", "PYTHONPATH": str(_ROOT)},
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            next(line for line in process.stdout if "Ctrl-C" in line)
            take(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()
