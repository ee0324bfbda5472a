"""The geodesic slider as a reader meets it: in Chromium, from a file, offline, by keys."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import expect

import mcbook as mc
from mcbook.viz.geodesic_slider import GeodesicSlider
from tests.browser import axe_violations, browser, open_page
from tests.viz.slider_cases import digits, trained, write_page
from tests.viz.test_geodesic_slider import (
    WIDTHS,
    apart,
    paths,
    predictions,
    slider,
    used,
    walks,
)
from tests.viz.test_sliders_browser import numbers

NAMES = ("straight line", "curve", "chain")


@pytest.fixture(scope="module")
def running():
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def opened(running, tmp_path_factory):
    """The page of `slider`."""
    file = write_page(tmp_path_factory.mktemp("geodesic"), slider().to_html())
    with open_page(running, file) as (page, record):
        yield page, record


@pytest.fixture
def page(opened):
    """The page of `slider`, as new, with all paths followed."""
    page, record = opened
    page.reload()
    followed(page)
    yield page
    record.check()


def root(page):
    return page.locator("[role=group].mcw").first


def followed(page):
    """Wait until the page has followed every path."""
    expect(root(page)).to_have_attribute("data-ready", "1")


def knob(page, name):
    return page.get_by_role("slider", name=re.compile(f"^t on the path .{name}"))


def link(page):
    return page.get_by_role("checkbox")


def still(page):
    """Wait for the frame in which the page answers what was done."""
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")


def row(page, name) -> list[str]:
    """The numbers beside a path's name in the table at the top."""
    found = page.locator(".mcw-geo-table tbody tr").filter(has_text=name)
    return [cell.inner_text() for cell in found.locator("td").all()]


def check_numbers(page, where: dict[str, float]):
    """What the widget says of every path, against torch, network by network."""
    still(page)
    shown = numbers(root(page))
    for i, (name, t) in enumerate(where.items()):
        x, y = used(slider())
        p, one = predictions(paths()[name], t, x), walks()[name]
        of_truth = p[np.arange(len(y)), y.numpy()]
        assert shown[f"t{i}"] == pytest.approx(t, abs=1e-9)
        assert knob(page, name).input_value() == f"{t:g}"
        loss, accuracy = -np.log(of_truth).mean(), (p.argmax(1) == y.numpy()).mean()
        assert shown[f"loss{i}"] == pytest.approx(loss, rel=1e-4)
        assert shown[f"accuracy{i}"] == pytest.approx(accuracy, abs=1e-9)
        far = np.interp(t, one.t, one.length)
        assert shown[f"sofar{i}"] == pytest.approx(far, rel=1e-4, abs=1e-9)
        assert shown[f"length{i}"] == pytest.approx(one.length[-1], rel=1e-4)
        assert shown["bound"] == pytest.approx(one.bound, rel=1e-5)
        cells = row(page, name)
        assert cells[1] == f"{100 * accuracy:.1f}\u00a0%"
        said = [float(cells[k]) for k in (0, 2, 3, 4)]
        wanted = [loss, far, one.length[-1], one.length[-1] / one.bound]
        assert said == pytest.approx(wanted, rel=6e-3)
    assert float(row(page, "bound")[3]) == pytest.approx(shown["bound"], rel=6e-3)


def test_numbers_are_those_of_torch_wherever_the_keys_go(page):
    at = dict.fromkeys(NAMES, 0.5)
    check_numbers(page, at)
    for name, key, t in (
        ("curve", "ArrowRight", 0.51),
        ("chain", "PageUp", 0.61),
        ("straight line", "ArrowDown", 0.6),
        ("chain", "Home", 0.0),
        ("chain", "ArrowRight", 0.01),
        ("curve", "End", 1.0),
    ):
        knob(page, name).press(key)
        check_numbers(page, dict.fromkeys(NAMES, t))  # together
    link(page).uncheck()
    at = dict.fromkeys(NAMES, 1.0)
    for name, key, t in (
        ("chain", "PageDown", 0.9),
        ("curve", "Home", 0.0),
        ("straight line", "PageDown", 0.9),  # where another slider was moved to before
        ("chain", "ArrowLeft", 0.89),
        ("chain", "ArrowRight", 0.9),
        ("chain", "ArrowRight", 0.91),
        ("curve", "ArrowRight", 0.01),
    ):
        knob(page, name).press(key)
        at[name] = t
        check_numbers(page, at)
    # back together: where the last one was moved to
    link(page).check()
    check_numbers(page, dict.fromkeys(NAMES, 0.01))


def test_the_chart_has_the_speeds_and_is_a_handle(page):
    chart = page.locator("svg.mcw-chart")
    width, bottom = float(chart.get_attribute("width")), 154
    scales = []
    for i, name in enumerate(NAMES):
        text = chart.locator(f".mcw-geo-speed.mcw-s{i}").get_attribute("points")
        found = np.array(re.findall(r"-?[\d.]+", text), float).reshape(-1, 2)
        one = walks()[name]
        t = np.concatenate([[0], (one.t[1:] + one.t[:-1]) / 2, [1]])
        assert found[:, 0] == pytest.approx(52 + t * (width - 70), abs=0.06)
        scale = (bottom - found[1:-1, 1]) @ one.speed / (one.speed @ one.speed)
        assert bottom - found[1:-1, 1] == pytest.approx(scale * one.speed, abs=0.2)
        # held to both ends
        assert found[[0, -1], 1] == pytest.approx(found[[1, -2], 1])
        scales.append(scale)
    assert scales == pytest.approx([scales[0]] * 3, rel=2e-3)
    level = chart.locator(".mcw-geo-circle").get_attribute("d")
    heights = np.array(re.findall(r"-?[\d.]+", level), float)[1::2]
    assert bottom - heights == pytest.approx([scales[0] * walks()["chain"].bound] * 2, abs=0.2)
    ticks = {
        float(tick.text_content()): float(tick.get_attribute("y")) - 4
        for tick in chart.locator("text[text-anchor=end]").all()
    }
    for value, y in ticks.items():
        assert bottom - y == pytest.approx(scales[0] * value, abs=0.2)
    assert len(ticks) >= 3
    # the shaded area is the length so far
    link(page).uncheck()
    knob(page, "curve").press("PageUp")
    still(page)
    for i, (name, t) in enumerate(zip(NAMES, (0.5, 0.6, 0.5), strict=True)):
        d = chart.locator(f".mcw-geo-area.mcw-s{i}").get_attribute("d")
        x, y = np.array(re.findall(r"-?[\d.]+", d), float).reshape(-1, 2).T
        area = np.trapezoid(bottom - y, x) / scales[0] / (width - 70)
        far = np.interp(t, walks()[name].t, walks()[name].length)
        assert area == pytest.approx(far, rel=0.02)
        dot = chart.locator(f".mcw-dot.mcw-s{i}")
        spot = [float(dot.get_attribute(c)) for c in ("cx", "cy")]
        assert spot == pytest.approx([x[-2], y[-2]], abs=0.11)
        assert spot[0] == pytest.approx(52 + t * (width - 70), abs=0.06)
    box = chart.bounding_box()
    page.mouse.click(box["x"] + 52 + 0.25 * (width - 70), box["y"] + 80)
    check_numbers(page, dict(zip(NAMES, (0.5, 0.25, 0.5), strict=True)))
    assert "The bound is" in chart.get_attribute("aria-label")


def groups(p: np.ndarray, truth: int, rival: int) -> np.ndarray:
    """True class, rival, all others."""
    return np.stack(
        [p[..., truth], p[..., rival], 1 - p[..., truth] - p[..., rival]], axis=-1
    ).clip(0, 1)


def points(node) -> np.ndarray:
    """The points of an SVG path of straight pieces."""
    return np.array(re.findall(r"-?[\d.]+", node.get_attribute("d")), float).reshape(-1, 2)


@pytest.mark.parametrize("sphere", [False, True])
def test_triangles_are_where_the_predictions_are(page, sphere):
    if sphere:
        page.get_by_role("radio", name="on the sphere").check()
    link(page).uncheck()
    knob(page, "chain").press("PageUp")
    still(page)
    x, y = used(slider())
    at = dict(zip(NAMES, (0.5, 0.5, 0.6), strict=True))
    cards = page.locator(".mcw-geo-card")
    expect(cards).to_have_count(6)
    for j, chosen in enumerate(slider().payload["chosen"]):
        image, rival, truth = chosen["image"], chosen["rival"], int(y[chosen["image"]])
        card = cards.nth(j)
        edge = points(card.locator(".mcw-geo-edge"))
        corners = edge[[0, 25, 50]]
        middle = corners.mean(0)
        sides = [np.linalg.norm(corners[i] - corners[i - 1]) for i in range(3)]
        assert sides == pytest.approx([sides[0]] * 3, abs=0.3)

        def place(p, corners=corners, middle=middle, truth=truth, rival=rival):
            shares = groups(p, truth, rival)
            return middle + (np.sqrt(shares) if sphere else shares) @ (corners - middle)

        for i, (name, t) in enumerate(at.items()):
            one = walks()[name]
            way = points(card.locator(f".mcw-geo-way.mcw-s{i}"))
            assert way == pytest.approx(place(one.p[:, image]), abs=0.25)
            dot = card.locator(f".mcw-dot.mcw-s{i}")
            found = [float(dot.get_attribute(c)) for c in ("cx", "cy")]
            here = predictions(paths()[name], t, x[image : image + 1])[0]
            assert found == pytest.approx(place(here), abs=0.25)
            said = [
                cell.inner_text() for cell in card.locator("tbody tr").nth(i).locator("td").all()
            ]
            assert float(said[0]) == pytest.approx(here[truth], abs=6e-4)
            assert float(said[1]) == pytest.approx(one.own[image], rel=6e-3)
        # the great circle: constant speed, from A to B, and in all as long as their distance
        p = walks()["chain"].p[:, image]
        a, b = np.sqrt(p[0]), np.sqrt(p[-1])
        angle = np.arccos(np.clip(a @ b, None, 1))
        s = np.linspace(0, 1, 61)[:, None]
        circle = (np.sin((1 - s) * angle) * a + np.sin(s * angle) * b) / np.sin(angle)
        drawn = points(card.locator(".mcw-geo-triangle .mcw-geo-circle"))
        assert drawn == pytest.approx(place(circle**2), abs=0.25)
        least = float(card.locator("tbody tr").nth(3).locator("td").nth(1).inner_text())
        assert least == pytest.approx(apart(p[0], p[-1]), rel=6e-3, abs=1e-4)
        for mark, end in (("a", p[0]), ("b", p[-1])):
            spot = card.locator(f".mcw-geo-triangle .mcw-geo-{mark}")
            found = [float(spot.get_attribute(c)) for c in ("cx", "cy")]
            assert found == pytest.approx(place(end), abs=0.25)
        classes = digits().classes
        words = card.locator(".mcw-geo-triangle text").all_text_contents()
        assert words == [f"true: {classes[truth]}", f"rival: {classes[rival]}", "others"]


def test_on_the_sphere_the_edges_are_arcs(page):
    page.get_by_role("radio", name="on the sphere").check()
    edge = points(page.locator(".mcw-geo-edge").first)
    middle = edge[[0, 25, 50]].mean(0)
    reach = np.linalg.norm(edge - middle, axis=1)
    # halfway between two corners of the octant, seen from (1, 1, 1)
    assert reach[[12, 37, 62]] / reach[0] == pytest.approx([2**-0.5] * 3, abs=0.01)
    # everything is inside the picture
    for card in page.locator(".mcw-geo-card").all():
        svg = card.locator(".mcw-geo-triangle")
        low = points(card.locator(".mcw-geo-edge")).min(0)
        high = points(card.locator(".mcw-geo-edge")).max(0)
        assert (low > 0).all()
        assert high[0] < float(svg.get_attribute("width"))
        assert high[1] < float(svg.get_attribute("height")) - 10


def test_everything_is_reached_by_keyboard_and_said_once(page):
    for name in NAMES:
        one = knob(page, name)
        assert [one.get_attribute(key) for key in ("min", "max", "step")] == ["0", "1", "0.01"]
        assert one.get_attribute("aria-label").endswith("from network A to network π(B)")
        assert one.get_attribute("data-lm-suppress-shortcuts") == "true"
    page.keyboard.press("Tab")
    controls = page.locator(".mcw button, .mcw input:is([type=range], [type=checkbox], :checked)")
    expect(controls).to_have_count(8)
    for control in controls.all():
        expect(control).to_be_focused()
        assert control.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        page.keyboard.press("Tab")
    said = page.locator("output")
    expect(said).to_have_attribute("aria-live", "polite")
    knob(page, "curve").focus()
    expect(said).to_have_attribute("aria-live", "off")  # now aria-valuetext says it
    words = knob(page, "curve").get_attribute("aria-valuetext")
    assert re.fullmatch(
        r"curve, t 0\.50: loss \d\.\d+, accuracy \d+\.\d\u00a0%, length so far \d\.\d+ of \d\.\d+",
        words,
    )
    assert said.text_content().count("length so far") == 3
    link(page).uncheck()
    knob(page, "curve").press("ArrowRight")
    still(page)
    assert said.text_content().startswith("curve, t 0.51: loss ")
    assert said.text_content().count("length so far") == 1


# plays some path until it has moved and stops it, in the page, however slow the machine is
PLAYED = """(path) => {
  const { dataset } = document.querySelector('[data-t0]');
  const button = document.querySelectorAll('.mcw-play')[path];
  if (!(Number(dataset[`t${path}`]) > 0.02)) return false;
  if (button.getAttribute('aria-label') === 'Pause') button.click();
  return true;
}"""


def test_one_play_button_moves_what_is_linked(page):
    knob(page, "curve").press("Home")
    labels = page.evaluate(
        """() => {
          const buttons = [...document.querySelectorAll('.mcw-play')];
          buttons[0].click();
          buttons[1].click();
          return buttons.map((button) => button.getAttribute('aria-label'));
        }"""
    )
    invitation = "Play: move t from 0 to 1"
    assert labels == [invitation, "Pause", invitation]
    page.wait_for_function(PLAYED, arg=1)
    still(page)
    shown = numbers(root(page))
    assert 0.02 < shown["t0"] == shown["t1"] == shown["t2"]
    knob(page, "curve").press("Home")
    link(page).uncheck()
    page.get_by_role("button", name="Play").nth(2).click()
    page.wait_for_function(PLAYED, arg=2)
    still(page)
    shown = numbers(root(page))
    assert (shown["t0"], shown["t1"]) == (0, 0)
    assert shown["t2"] > 0.02


def test_a_kernel_moves_the_sliders(running, tmp_path):
    one = GeodesicSlider(paths(), digits(), images=60, start=0.25)
    html = one.to_html()
    start = html.rindex("mount(render, ")
    state = html[html.index("{", start) : html.rindex(");")]
    html = (
        html[:start] + f"window.kernel = standIn({state});\n"
        "render({ model: kernel, el: document.querySelector('[data-mcw]') });\n</script>"
    )
    with open_page(running, write_page(tmp_path, html)) as (page, record):
        followed(page)
        check_numbers(page, dict.fromkeys(NAMES, 0.25))
        page.evaluate("kernel.set('t', 0.7)")
        check_numbers(page, dict.fromkeys(NAMES, 0.7))
        link(page).uncheck()
        knob(page, "straight line").press("Home")
        assert page.evaluate("kernel.get('t')") == 0
        page.evaluate("kernel.set('t', 0.3)")  # the one moved last
        check_numbers(page, dict(zip(NAMES, (0.3, 0.7, 0.7), strict=True)))
        page.evaluate("kernel.set('payload', {...kernel.get('payload'), title: 'anew'})")
        expect(root(page)).to_have_attribute("aria-label", "anew")
        followed(page)
        check_numbers(page, dict.fromkeys(NAMES, 0.3))
        record.check()


def test_one_path_alone_and_ends_that_agree(running, tmp_path):
    a = trained(0, width=WIDTHS)
    one = GeodesicSlider(mc.LinearPath(a, a), digits(), images=20, chosen=1)
    with open_page(running, write_page(tmp_path, one.to_html())) as (page, record):
        followed(page)
        expect(page.get_by_role("checkbox")).to_have_count(0)
        assert row(page, "path")[4] == "–"
        assert row(page, "bound")[3] == "0"
        expect(page.locator(".mcw-geo-card")).to_have_count(1)
        assert "NaN" not in page.content().replace(one.to_html(), "")
        paths_drawn = [node.get_attribute("d") for node in page.locator(".mcw svg path[d]").all()]
        assert not any("NaN" in d for d in paths_drawn)
        record.check()


def test_other_sliders_on_the_page_are_left_alone(running, tmp_path):
    parts = (slider().to_html(), slider().to_html())
    with open_page(running, write_page(tmp_path, *parts)) as (page, record):
        roots = page.locator("[role=group].mcw")
        expect(roots).to_have_count(2)
        for i in (0, 1):
            expect(roots.nth(i)).to_have_attribute("data-ready", "1")
        before = numbers(roots.nth(1))
        knob(page, "curve").nth(0).press("PageUp")
        roots.nth(0).get_by_role("radio", name="on the sphere").check()
        roots.nth(0).get_by_role("checkbox").uncheck()
        expect(roots.nth(0)).to_have_attribute("data-t2", "0.6")
        assert numbers(roots.nth(1)) == before
        expect(roots.nth(1).get_by_role("checkbox")).to_be_checked()
        expect(roots.nth(1).get_by_role("radio", name="probabilities")).to_be_checked()
        record.check()


def test_without_scripts_the_table_stays(running, tmp_path):
    file = write_page(tmp_path, slider().to_html())
    with open_page(running, file, scripts=False) as (page, record):
        expect(page.locator("table")).to_have_count(1)
        expect(page.locator("input, canvas, svg, button")).to_have_count(0)
        assert page.locator("tbody tr").count() == 5
        assert "length so far" in page.locator("table").inner_text()
        record.check()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_are_accessible_and_fit(running, tmp_path, theme, width):
    file = write_page(tmp_path, slider().to_html(), theme=theme)
    with open_page(running, file, width=width, reduced_motion="reduce") as (page, record):
        followed(page)
        page.get_by_role("radio", name="on the sphere").check()
        assert axe_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        pictures = page.locator(".mcw svg[role=img]").all()
        assert len(pictures) == 7
        for picture in pictures:
            assert len(picture.get_attribute("aria-label")) > 60
            box = picture.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        # nothing is cut off, and numbers do not run into each other
        edge = page.locator("main").bounding_box()
        table = page.locator(".mcw-geo-table").bounding_box()
        assert table["x"] + table["width"] <= edge["x"] + edge["width"]
        cards = [card.bounding_box() for card in page.locator(".mcw-geo-card").all()]
        assert len({round(card["x"]) for card in cards}) == (2 if width == 390 else 3)
        # colours follow the theme
        for one, colours in (
            (".mcw-geo-way.mcw-s0", ("rgb(0, 114, 178)", "rgb(86, 180, 233)")),
            (".mcw-geo-way.mcw-s1", ("rgb(213, 94, 0)", "rgb(230, 159, 0)")),
        ):
            found = page.locator(one).first.evaluate("node => getComputedStyle(node).stroke")
            assert found == colours[theme == "dark"]
        expect(page.get_by_role("button", name=re.compile("Play"))).to_have_count(0)
        record.check()
