"""The permutation slider's parts in Chromium: with and without the line, its fields, its words."""

from __future__ import annotations

import re
from functools import cache

import pytest
from playwright.sync_api import expect

from mcbook.viz.permutation_slider import PermutationSlider
from tests.browser import axe_violations, browser, open_page
from tests.viz.slider_cases import digits, write_page
from tests.viz.test_permutation_browser import ARRIVED, by_size, push, root
from tests.viz.test_permutation_slider import WIDTHS, length, network, slider
from tests.viz.test_sliders_browser import numbers


@cache
def unlined() -> PermutationSlider:
    """One without the straight line, only read."""
    return PermutationSlider(network(), digits(), line=False)


@pytest.fixture(scope="module")
def running():
    with browser() as one:
        yield one


@pytest.fixture
def still(running, tmp_path):
    """The page without motion: what is pressed is there at once."""
    file = write_page(tmp_path, slider().to_html())
    with open_page(running, file, reduced_motion="reduce") as (page, record):
        yield page
        record.check()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_without_the_line_the_page_is_silent_about_it(running, tmp_path, theme, width):
    file = write_page(tmp_path, unlined().to_html(), theme=theme)
    with open_page(running, file, width=width, reduced_motion="reduce") as (page, record):
        expect(page.locator(".mcw-case")).to_have_count(10)
        expect(page.get_by_role("slider")).to_have_count(0)
        expect(page.locator("svg.mcw-chart, .mcw-second, .mcw-charts, .mcw-play")).to_have_count(0)
        words = root(page).evaluate("""node => [node, ...node.querySelectorAll("[aria-label]")]
          .map((one) => one.getAttribute("aria-label")).join() + node.textContent""")
        assert not re.search(r"\bline\b|barrier|chord|\bloss\b|θ|Loss", words)
        push(page, "Sort by size")
        distance = length(network(), by_size(network()))
        found = numbers(root(page))
        assert found["distance"] == pytest.approx(distance, rel=1e-9)
        assert found.keys() == {"distance", "change"}
        assert axe_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        record.check()


@pytest.mark.parametrize("line", [True, False])
def test_all_of_it_is_reached_by_keyboard(running, tmp_path, line):
    one = slider() if line else unlined()
    with open_page(running, write_page(tmp_path, one.to_html())) as (page, record):
        expect(page.locator("svg.mcw-chart")).to_have_count(int(line))
        controls = page.locator(".mcw button, .mcw input").all()
        assert len(controls) == 5 + len(WIDTHS) + 2 * line
        for control in controls:
            page.keyboard.press("Tab")
            expect(control).to_be_focused()
            ring = control.evaluate("""node => {
              const { outlineStyle, outlineOffset, outlineWidth } = getComputedStyle(node);
              const reach = parseFloat(outlineOffset) + parseFloat(outlineWidth);
              const left = node.getBoundingClientRect().left - reach;
              return [outlineStyle, left >= node.closest(".mcw").getBoundingClientRect().left];
            }""")
            assert ring == ["solid", True]
        page.get_by_role("button", name="Back").press("Enter")
        page.wait_for_selector(ARRIVED)
        assert numbers(root(page))["distance"] == 0
        record.check()


def test_without_scripts_and_line_a_table_stays(running, tmp_path):
    file = write_page(tmp_path, unlined().to_html())
    with open_page(running, file, scripts=False) as (page, record):
        expect(page.locator("table")).to_have_count(1)
        assert "in another order" in page.locator("table").inner_text()
        expect(page.locator("input, canvas, svg, button")).to_have_count(0)
        record.check()


def test_another_unit_can_be_followed_by_keyboard_and_by_hand(still):
    order = slider().permutation[0]
    number = still.get_by_role("spinbutton").first
    expect(number).to_have_value(str(by_size(network())[0][0]))
    number.fill("3")
    number.press("Enter")
    place = still.locator(".mcw-place").first
    expect(place).to_have_attribute("aria-live", "polite")
    assert place.inner_text().endswith(f"is in slot {order.index(3)}")
    number.press("ArrowUp")
    expect(number).to_have_value("4")
    assert place.inner_text().endswith(f"is in slot {order.index(4)}")
    canvas = still.locator(".mcw-matrix canvas").first
    high = canvas.bounding_box()["height"] / WIDTHS[0]
    canvas.click(position={"x": 30, "y": 7.5 * high})
    expect(number).to_have_value(str(order[7]))
    assert place.inner_text().endswith("is in slot 7")
    # in the last matrix a column is a unit of the last hidden layer, or the bias
    last = still.locator(".mcw-matrix > canvas").last
    high = last.bounding_box()["height"] / 10
    second = still.get_by_role("spinbutton").nth(1)
    last.click(position={"x": 4.5 * high, "y": 5})
    expect(second).to_have_value(str(slider().permutation[1][4]))
    last.click(position={"x": last.bounding_box()["width"] - 2, "y": 5})
    expect(second).to_have_value(str(slider().permutation[1][4]))


@pytest.mark.parametrize(
    ("typed", "unit", "note"),
    [
        ("12", 11, "no unit 12 (0 to 11): now unit 11"),
        ("-4", 0, "no unit −4 (0 to 11): now unit 0"),
        ("6.7", 7, "no unit 6.7 (0 to 11): now unit 7"),
        ("", 5, "no number given: still unit 5"),
    ],
)
def test_what_a_field_cannot_take_is_said(still, typed, unit, note):
    order = slider().permutation[0]
    number, place = still.get_by_role("spinbutton").first, still.locator(".mcw-place").first
    for value in ("5", typed):
        number.fill(value)
        number.press("Tab")
    expect(number).to_have_value(str(unit))
    said = f"unit {unit} of hidden layer 1 is in slot {order.index(unit)}; {note}"
    assert place.text_content() == said
    # the next one that fits ends it
    number.fill("2")
    number.press("Enter")
    assert place.text_content() == f"unit 2 of hidden layer 1 is in slot {order.index(2)}"


def test_only_the_places_that_change_are_read_out(still):
    still.evaluate("""() => {
      window.said = [0, 0];
      document.querySelectorAll(".mcw-place").forEach((place, i) =>
        new MutationObserver(() => (window.said[i] += 1)).observe(place, { childList: true }));
    }""")
    largest = [order[0] for order in by_size(network())]
    places = zip(slider().permutation, largest, strict=True)
    moved = [int(order.index(unit) != unit) for order, unit in places]
    assert any(moved)
    push(still, "Back")
    assert still.evaluate("window.said") == moved
    push(still, "Back")
    number = still.get_by_role("spinbutton").first
    number.fill(str((largest[0] + 1) % WIDTHS[0]))
    number.press("Enter")
    assert still.evaluate("window.said") == [moved[0] + 1, moved[1]]


@pytest.mark.parametrize(
    ("shown", "width", "columns", "words"),
    [(10, 1200, 5, "One image of every"), (20, 360, 2, "2 images of every"), (4, 600, 5, "Images")],
)
def test_the_images_are_one_of_every_class(running, tmp_path, shown, width, columns, words):
    one = PermutationSlider(network(), digits(), shown=shown, line=False)
    with open_page(running, write_page(tmp_path, one.to_html()), width=width) as (page, record):
        cases = page.locator(".mcw-case")
        expect(cases).to_have_count(shown)
        tops = [case.bounding_box()["y"] for case in cases.all()]
        assert tops.count(tops[0]) == min(columns, shown)
        caption = page.locator(".mcw-shelf + .mcw-caption").inner_text()
        assert caption.startswith(words)
        misread = "✗" in page.locator(".mcw-cases").inner_text()
        assert ("; ✗ marks those that the network misreads, before and" in caption) == misread
        assert "orders in all" in root(page).inner_text()
        record.check()


BOXES = """chart => [...chart.querySelectorAll("text.mcw-note")].map(text => {
  const { x, y, width, height } = text.getBBox();
  return [text.textContent, x, y, x + width, y + height];
})"""


def test_barrier_and_chord_stand_apart(still):
    expect(still.locator("svg.mcw-chart")).to_have_count(1)
    parted = 0
    for width in range(320, 780, 20):
        still.set_viewport_size({"width": width, "height": 900})
        expect(still.locator("svg.mcw-chart")).to_have_attribute("width", str(width - 32))
        found = still.locator("svg.mcw-chart").evaluate(BOXES)
        assert any(text.startswith("barrier") for text, *_ in found)
        if len(found) == 2:
            (_, *a), (_, *b) = found
            apart = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
            assert apart >= 3
            parted += 1
    assert parted
