"""JupyterLab itself, in Chromium: the widgets live, and the kernel's side follows the hand."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Page, expect

from tests.browser import browser, open_page

TOKEN = "for-this-test-only"
CELLS = [
    """
import pathlib
import mcbook as mc
data = mc.load_data("digits")
a, b = (mc.build_model("mlp", data, width=8, seed=s) for s in (0, 1))
prof = mc.profile(mc.LinearPath(a, b), data, points=21, progress=False)
w = mc.PathSlider(prof)
w.observe(lambda change: pathlib.Path("t.txt").write_text(str(change["new"])), "t")
w
""",
    "mc.RetrainControl(data, width=8, points=5, epochs=1, profile=prof)",
    "w.t = 0.25",
]


@contextmanager
def jupyterlab(folder: Path, log: Path) -> Iterator[str]:
    """A JupyterLab server of the test's own; its kernels end with it.

    Args:
        folder: what it shows; its settings and everything it writes stay in there.
        log: where its messages go.

    Yields:
        Its address, without the token.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    private = folder / ".jupyter"
    (private / "labconfig").mkdir(parents=True, exist_ok=True)
    # no question about news, which would come from elsewhere
    disabled = {"@jupyterlab/apputils-extension:announcements": True}
    (private / "labconfig" / "page_config.json").write_text(
        json.dumps({"disabledExtensions": disabled}), encoding="utf-8"
    )
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")
    own = {f"JUPYTER{'' if name.startswith('LAB') else '_'}{name}": str(private) for name in names}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}",
    ]  # fmt: skip
    environment = {**os.environ, **own, "IPYTHONDIR": str(private), "MCBOOK_PROGRESS": "0"}
    with open(log, "wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, cwd=folder, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, server, log)
            yield address
        finally:
            stop(server)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    """Wait until the server answers; fail with its log when it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not answer at {address}:\n{log.read_text()[-3000:]}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server, which ends its kernels; by force what does not go."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def follows(file: Path, value: float, page: Page, seconds: float = 10) -> None:
    """Wait until the kernel has heard this t."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if file.exists() and file.read_text() == str(value):
            return
        page.wait_for_timeout(50)
    raise AssertionError(
        f"expected the kernel to hear t = {value}, "
        f"found {file.read_text() if file.exists() else 'nothing'}"
    )


def run_all(page: Page) -> None:
    """Run all cells by the menu, as a reader does."""
    # before the kernel is there, running would only ask which one to take
    expect(page.get_by_role("button", name="| Idle")).to_be_visible(timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def test_widgets_live_in_jupyterlab(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    notebook = new_notebook(cells=[new_code_cell(source.strip()) for source in CELLS])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "sliders.ipynb")
    heard = folder / "t.txt"
    with jupyterlab(folder, tmp_path / "lab.log") as address, browser() as running:
        url = f"{address}/lab/tree/sliders.ipynb?token={TOKEN}"
        hosts = frozenset({"127.0.0.1"})
        with open_page(running, url, width=1200, allowed=hosts) as (page, record):
            run_all(page)
            outputs = page.locator(".jp-Cell .jp-OutputArea-output")
            slider = outputs.first.get_by_role("slider", name="the position on the path")
            # the kernel moves the slider: the last cell sets t
            expect(slider).to_have_attribute(
                "aria-valuetext", re.compile("^t 0.25:"), timeout=120_000
            )
            # and the reader's keys move the kernel's t
            slider.focus()
            for _ in range(3):
                page.keyboard.press("ArrowRight")
            expect(slider).to_have_attribute("aria-valuetext", re.compile("^t 0.28:"))
            follows(heard, 0.28, page)
            page.keyboard.press("Home")
            follows(heard, 0.0, page)

            # the control trains two networks anew and shows both results
            control = page.locator(".jp-Cell").nth(1)
            width = control.get_by_role("spinbutton", name="width")
            width.fill("4")
            width.press("Tab")
            control.get_by_role("button", name="Train").click()
            expect(control.get_by_role("status").first).to_have_text(
                re.compile(r"width 4, seeds 0 and 1: test loss barrier"), timeout=60_000
            )
            expect(control.get_by_role("button", name="Train")).to_be_enabled()
            expect(control.get_by_role("radio", name="width 4, seeds 0 and 1")).to_be_checked()
            expect(control.get_by_role("radio", name="width 8, seeds 0 and 1")).to_be_visible()
            assert record.foreign == []
            assert record.errors == []
