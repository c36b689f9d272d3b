"""Headless Chromium for the tests of the page, without network.

Chromium comes from the system (`make test` installs it where it can). Without one these tests are
skipped, except in CI.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

WEB = Path(__file__).parents[2] / "web"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def require(tool: str | None, what: str) -> str:
    """Return `tool`, or skip the test if there is none; in CI it fails."""
    if tool is None and os.environ.get("CI"):
        pytest.fail(f"CI has no {what}")
    if tool is None:
        pytest.skip(f"needs {what}")
    return tool


@contextmanager
def chromium() -> Iterator[Browser]:
    path = require(next(filter(None, map(shutil.which, NAMES)), None), "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, address: str, *, width: int = 1280, dark: bool = False
) -> Iterator[Page]:
    """Open a page of a disk; fail if it logs anything, throws, or asks for anything else."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        offline=True,
    )
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    page.on("request", lambda request: heard.append(request.url))
    page.goto(address)
    page.wait_for_selector("main")
    yield page
    assert heard == [address.partition("#")[0]]
    context.close()


def packages(folder: Path) -> Path:
    """Install the page's sources and their packages in a new folder, as the lock file says."""
    npm = require(shutil.which("npm"), "npm")
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder
