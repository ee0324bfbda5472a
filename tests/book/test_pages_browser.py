"""Every page of the site as a reader meets it: offline, by keyboard, light and dark, narrow."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser import browser, open_page

# Pictures without words: an <img> without alt, an <svg> without a name that is not mere ornament.
NAMELESS = """() => [
  ...[...document.querySelectorAll("img")].filter(one => !one.alt.trim()),
  ...[...document.querySelectorAll("article svg")].filter(one =>
    !one.closest("[aria-hidden=true], button") && !one.parentElement.closest("svg") &&
    !one.closest("[role=img][aria-label], [role=img][aria-labelledby]") &&
    !one.querySelector(":scope > title")),
].map(one => one.outerHTML.slice(0, 120))"""
FORMULAS = """() => [
  document.querySelectorAll("article .math").length,
  document.querySelectorAll("article mjx-container").length,
  document.querySelectorAll("mjx-merror, .mjx-error, [data-mjx-error]").length,
]"""
# The <output>s nearest to a slider: what a move of it must change.
OUTPUTS = """slider => {
  let around = slider;
  while (around && !around.querySelector("output")) around = around.parentElement;
  return around ? [...around.querySelectorAll("output")].map(one => one.textContent).join("|") : "";
}"""
# What scrolls sideways: reached by the Tab key, and only while it does.
MARKED = """() => [...document.querySelectorAll("article div.math mjx-container, " +
  "article .pst-scrollable-table-container, article .text_html:has(table.dataframe)")]
  .every(box => box.scrollWidth > box.clientWidth + 1
    ? box.tabIndex === 0 && box.getAttribute("role") === "group" && !!box.ariaLabel
    : !box.hasAttribute("role"))"""
# Buttons that copy code and say nothing.
MUTE = """() => [...document.querySelectorAll("button.copybtn")]
  .filter(one => one.ariaLabel !== "Copy the code").map(one => one.outerHTML.slice(0, 120))"""
# Only colours differ between light and dark, so only they are looked at twice.
COLOURS = ["color-contrast", "link-in-text-block"]
AXE = """async ([part, rules]) => {
  const found = await axe.run(part, {preload: false, resultTypes: ["violations"], ...rules});
  return found.violations.flatMap(rule => rule.nodes.map(node =>
    `${rule.id}: ${rule.help}: ${node.target}: ${node.failureSummary}`));
}"""
# The API pages repeat one pattern hundreds of times, and to judge colours axe compares every
# pair of overlapping elements: there the frame and the first sections stand for the rest.
SAMPLE = [
    [".bd-sidebar-primary"],
    [".bd-header-article"],
    ["article section > section:nth-of-type(-n+2)"],
]


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    """A browser for all tests of this file."""
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The address of the site, served over http."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def typeset(page: Page) -> None:
    """Wait for the formulas, and see that each became one."""
    if page.locator("article .math").count() == 0:
        return
    page.wait_for_function("() => window.MathJax?.startup?.promise")
    page.evaluate("() => MathJax.startup.promise")
    written, shown, wrong = page.evaluate(FORMULAS)
    assert shown >= written > 0, f"{written} formulas, {shown} typeset"
    assert wrong == 0, f"{wrong} formulas with an error"


def in_dark(page: Page) -> None:
    """Let the system ask for dark colours; the page follows."""
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")


def violations(page: Page, sample: bool, colours_only: bool = False) -> list[str]:
    """What axe-core finds wrong with a page.

    Args:
        page: the page, with axe-core in it.
        sample: whether to judge the colours of a part only.
        colours_only: whether to judge nothing else.
    """
    colours = {"runOnly": COLOURS}
    part = {"include": SAMPLE} if sample else {"include": [["html"]]}
    found = page.evaluate(AXE, [part, colours])
    if colours_only:
        return found
    others = {"rules": {rule: {"enabled": False} for rule in COLOURS}}
    return found + page.evaluate(AXE, [{"include": [["html"]]}, others])


def test_every_page_offline(site: Path, running: Browser, subtests: pytest.Subtests) -> None:
    options = {"width": 1300, "reduced_motion": "reduce", "color_scheme": "light"}
    # index.html only leads to the first page
    everything = sorted(set(site.rglob("*.html")) - {site / "index.html"})
    assert len(everything) > 15
    for file in everything:
        with (
            subtests.test(page=file.relative_to(site).as_posix()),
            open_page(running, file, **options) as (page, record),
        ):
            page.wait_for_load_state("load")
            typeset(page)
            assert page.evaluate(NAMELESS) == []
            page.evaluate(Axe().axe_script)
            sample = file.parent.name == "api"
            assert violations(page, sample) == []
            in_dark(page)
            assert violations(page, sample, colours_only=True) == []
            page.set_viewport_size({"width": 400, "height": 800})
            page.wait_for_function(MARKED)
            assert page.evaluate(MUTE) == []
            widths = "() => [document.documentElement.scrollWidth, document.body.scrollWidth]"
            assert max(page.evaluate(widths)) <= 400
            record.check()


def test_every_slider_moves_by_keyboard(site: Path, running: Browser) -> None:
    chapters = sorted((site / "book").glob("[0-9][0-9]_*.html"))
    assert chapters
    for file in chapters:
        with open_page(running, file, width=1300) as (page, record):
            page.wait_for_load_state("load")
            sliders = page.locator("article input[type=range]")
            assert sliders.count() >= 1, f"{file.name} has no slider"
            for slider in sliders.all():
                slider.focus()
                before = slider.evaluate(OUTPUTS), slider.input_value()
                slider.press("ArrowRight")
                slider.press("ArrowRight")
                page.wait_for_timeout(50)
                after = slider.evaluate(OUTPUTS), slider.input_value()
                assert before[0], f"{file.name}: a slider without an <output>"
                assert before[0] != after[0], f"{file.name}: the numbers stay {before[0]}"
                assert before[1] != after[1]
            record.check()


def test_solutions_open_by_keyboard(site: Path, running: Browser) -> None:
    for file in sorted((site / "book").glob("[0-9][0-9]_*.html")):
        with open_page(running, file, width=1300) as (page, record):
            page.wait_for_load_state("load")
            hidden = page.locator("article details.hide > summary")
            assert hidden.count() >= 1
            hidden.last.focus()
            page.keyboard.press("Enter")
            expect(hidden.last.locator("xpath=..")).to_have_attribute("open", "")
            record.check()


@pytest.mark.parametrize("way", ["file", "http"])
def test_search_finds_a_word(site: Path, running: Browser, served: str, way: str) -> None:
    base = served if way == "http" else site.resolve().as_uri()
    allowed = frozenset({"127.0.0.1"}) if way == "http" else frozenset()
    address = f"{base}/search.html?q=barrier"
    with open_page(running, address, allowed=allowed) as (page, record):
        results = page.locator("#search-results ul.search a")
        expect(results.first).to_be_visible()
        expect(page.locator("#search-results")).to_contain_text(re.compile("barrier|page", re.I))
        page.wait_for_load_state("networkidle")
        record.check()


@pytest.mark.parametrize("way", ["file", "http"])
def test_the_page_to_open_leads_to_the_first(
    site: Path, running: Browser, served: str, way: str
) -> None:
    address = f"{served}/" if way == "http" else site / "index.html"
    hosts = frozenset({"127.0.0.1"}) if way == "http" else frozenset()
    with open_page(running, address, allowed=hosts) as (page, record):
        page.wait_for_url("**/book/intro.html")
        expect(page.locator("h1").first).to_contain_text("mode connectivity")
        page.wait_for_load_state("networkidle")
        record.check()


def test_pages_can_be_read_without_scripts(site: Path, running: Browser) -> None:
    with open_page(running, site / "book" / "intro.html", scripts=False) as (page, record):
        expect(page.locator("article h1")).to_be_visible()
        assert page.locator("article table").count() >= 1
        record.check()
