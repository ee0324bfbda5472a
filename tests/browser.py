"""A headless Chromium for the tests that look at pages as readers do.

Every page is opened with the network cut off, and whatever it asks for, logs as an error or fails
at is recorded, so that a test can end with `page.record.check()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Page,
    Route,
    expect,
    sync_playwright,
)

from mcbook.readiness import find_browser

__all__ = ["FLAGS", "Record", "axe_violations", "browser", "open_page", "recorded"]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
# milliseconds that a page may take for anything; a machine that does other things as well is slow
PATIENCE = 120_000
ADVICE = "no browser for page tests: install Chromium, or run `playwright install chromium`"


class NoBrowserError(RuntimeError):
    """There is no browser on this machine; the message says how to get one."""


@dataclass
class Record:
    """What a page did that its reader would not see.

    Attributes:
        foreign: addresses asked for that are neither files nor on an allowed host.
        errors: errors in the console and exceptions of scripts.
        allowed: hosts that may be asked.
    """

    allowed: frozenset[str] = frozenset()
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def is_foreign(self, url: str) -> bool:
        """Whether this address leaves the page's own files and hosts."""
        parts = urlsplit(url)
        return parts.scheme not in ("file", "data", "blob", "about") and (
            parts.hostname not in self.allowed
        )

    def check(self) -> None:
        """Fail when the page asked for anything elsewhere or logged an error."""
        assert not self.foreign, f"requests to other hosts: {self.foreign}"
        assert not self.errors, f"errors in the page: {self.errors}"


@contextmanager
def browser() -> Iterator[Browser]:
    """A running headless browser: the installed one, else playwright's.

    Raises:
        NoBrowserError: with one line of advice when there is neither.
    """
    with sync_playwright() as playwright:
        installed = find_browser()
        if installed is None and not Path(playwright.chromium.executable_path).exists():
            raise NoBrowserError(ADVICE)
        try:
            running = playwright.chromium.launch(executable_path=installed, args=FLAGS)
        except Error as error:
            raise NoBrowserError(f"{ADVICE} (found {installed}, which did not start)") from error
        try:
            yield running
        finally:
            running.close()


def recorded(context: BrowserContext, allowed: frozenset[str] = frozenset()) -> Record:
    """Refuse and record every request to another host, and record errors, from now on."""
    record = Record(allowed)

    def decide(route: Route) -> None:
        if record.is_foreign(route.request.url):
            record.foreign.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    context.route("**/*", decide)
    context.on(
        "console",
        lambda message: record.errors.append(message.text) if message.type == "error" else None,
    )
    context.on("weberror", lambda error: record.errors.append(str(error.error)))
    return record


@contextmanager
def open_page(
    running: Browser,
    address: str | Path,
    width: int = 1000,
    height: int = 900,
    scripts: bool = True,
    allowed: frozenset[str] = frozenset(),
    **options: Any,
) -> Iterator[tuple[Page, Record]]:
    """A page in a context of its own, without a network.

    Args:
        running: the browser.
        address: a file, or a URL.
        width: of the window.
        height: of the window.
        scripts: whether scripts run.
        allowed: hosts that may be asked (a server of the test's own); with none the whole
            network is off.
        **options: for playwright's `new_context`.

    Yields:
        The page, loaded, and the record of what it did.
    """
    url = address.resolve().as_uri() if isinstance(address, Path) else address
    expect.set_options(timeout=PATIENCE)
    context = running.new_context(
        viewport={"width": width, "height": height},
        java_script_enabled=scripts,
        offline=not allowed,
        **options,
    )
    try:
        context.set_default_timeout(PATIENCE)
        record = recorded(context, allowed)
        page = context.new_page()
        page.goto(url)
        yield page, record
    finally:
        context.close()


def axe_violations(page: Page, within: str = "body") -> list[str]:
    """What axe-core finds wrong, one line each: the rule, what it asks, where."""
    from axe_playwright_python.sync_playwright import Axe

    # without preload: axe would fetch style sheets, which pages from files may not
    options = {"resultTypes": ["violations"], "preload": False}
    results = Axe().run(page, context={"include": [[within]]}, options=options)
    found = results.response["violations"]
    return [
        f"{violation['id']}: {violation['help']}: {node['target']}: {node.get('failureSummary')}"
        for violation in found
        for node in violation["nodes"]
    ]
