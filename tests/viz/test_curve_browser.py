"""The curve slider as a reader meets it: in Chromium, from a file, offline, by mouse and keys."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from playwright.sync_api import expect

from mcbook.viz.curve_slider import CurveSlider
from tests.browser import axe_violations, browser, open_page
from tests.viz.slider_cases import write_page
from tests.viz.test_curve_slider import (
    Plane,
    barrier,
    bumpy,
    curves,
    losses,
    made_up,
    mean,
    on_curve,
    read,
    slider,
    used,
)
from tests.viz.test_sliders_browser import numbers


@pytest.fixture(scope="module")
def running():
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def opened(running, tmp_path_factory):
    """The page of `slider`."""
    file = write_page(tmp_path_factory.mktemp("curve"), slider().to_html())
    with open_page(running, file) as (page, record):
        yield page, record


@pytest.fixture
def page(opened):
    """The page of `slider`, as new."""
    page, record = opened
    page.reload()
    yield page
    record.check()


@cache
def plane_of(name: str) -> Plane:
    """The plane of one of the paths."""
    return Plane(curves()[name])


def root(page):
    return page.locator("[role=group].mcw").first


def bend(page):
    return page.get_by_role("slider", name=re.compile("^the bend"))


def knob(page):
    return page.get_by_role("slider", name=re.compile("^t, "))


def push(page, name):
    page.get_by_role("button", name=name).click()


def choose(page, name):
    page.get_by_role("radio", name=name, exact=True).check()


def middle(locator) -> np.ndarray:
    """Where it is on the screen."""
    box = locator.bounding_box()
    return np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])


def still(page):
    """Wait for the frame in which the page answers what was done."""
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")


def place(page) -> np.ndarray:
    """Where the bend is said to be."""
    still(page)
    shown = numbers(root(page))
    return np.array([shown["bendX"], shown["bendY"]])


def screen(page, length: float):
    """Where the points of the plane belong on the screen, from where A and B are."""
    a, b = (middle(page.locator(".mcw-cv-end").nth(i)) for i in (0, 1))
    return lambda x, y: a + (b[0] - a[0]) / length * np.array([x, -y])


def settle(page, points=61):
    """Wait until what is shown is that of a curve at rest."""
    still(page)
    expect(root(page)).to_have_attribute("data-points", str(points))


def check_numbers(page, name, t):
    """What the widget says of the curve as it stands, against torch, network by network."""
    where = place(page)
    path, plane, shown = curves()[name], plane_of(name), numbers(root(page))
    loss, accuracy = plane.score(on_curve(path, plane, where, t), *used(slider()))
    assert shown["t"] == pytest.approx(t, abs=1e-9)
    assert shown["loss"] == pytest.approx(loss, abs=1e-4, rel=1e-4)
    assert shown["accuracy"] == pytest.approx(accuracy, abs=1e-9)
    ts, values = losses(path, slider(), where)
    assert shown["barrier"] == pytest.approx(barrier(ts, values), abs=1e-4, rel=1e-4)
    assert shown["mean"] == pytest.approx(mean(ts, values), abs=1e-4, rel=1e-4)
    return shown


def drag(page, by, steps=4):
    """Take the bend off its middle, move it, and do not let go."""
    start = middle(bend(page)) + np.array([5, -4])
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*(start + by), steps=steps)


def test_numbers_are_those_of_torch(page):
    assert knob(page).input_value() == "0.5"
    for name, points in (("smooth", 61), ("chain", 62)):  # the chain's corner is one more
        choose(page, name)
        path, plane = curves()[name], plane_of(name)
        settle(page, points)
        assert place(page) == pytest.approx([plane.foot, plane.height], rel=1e-5)
        for key, t in (("Home", 0.0), ("ArrowRight", 0.01), ("End", 1.0), ("PageDown", 0.9)):
            knob(page).press(key)
            shown = check_numbers(page, name, t)
        knot = 0.5 if name == "smooth" else path.knots[1]
        ts, values = losses(path, slider(), (knot * plane.length, 0.0))
        assert shown["lineBarrier"] == pytest.approx(barrier(ts, values), abs=1e-4)
        assert shown["lineMean"] == pytest.approx(mean(ts, values), abs=1e-3)
        assert shown["fittedBarrier"] == shown["barrier"]
        said = root(page).inner_text()
        for key in ("loss", "barrier", "mean", "lineBarrier"):
            assert re.search(rf"\b{float(f'{shown[key]:.3g}'):.4g}"[:5], said)
        assert f"{100 * shown['accuracy']:.1f}\u00a0%" in said


@pytest.mark.parametrize("name", ["smooth", "chain"])
def test_the_bend_follows_the_mouse(page, name):
    choose(page, name)
    before, at = place(page), screen(page, plane_of(name).length)
    spot, by = middle(bend(page)), np.array([-60, 75])
    assert spot == pytest.approx(at(*before), abs=1)
    drag(page, by)
    # while the hand moves the curve is coarser, and what is said keeps up
    still(page)
    # 31 points, or 16 where the machine is slow, and the chain's corner
    assert numbers(root(page))["points"] in ((31, 16) if name == "smooth" else (32, 17))
    assert middle(bend(page)) == pytest.approx(spot + by, abs=1)
    page.mouse.up()
    settle(page, 61 if name == "smooth" else 62)
    after = place(page)
    assert at(*after) == pytest.approx(spot + by, abs=1)
    assert np.abs(after - before).min() > 1
    check_numbers(page, name, 0.5)
    knob(page).press("ArrowRight")
    check_numbers(page, name, 0.51)
    # the other path is as it was, and this one is kept
    choose(page, "chain" if name == "smooth" else "smooth")
    assert numbers(root(page))["barrier"] == numbers(root(page))["fittedBarrier"]
    choose(page, name)
    assert place(page) == pytest.approx(after)


def test_the_bend_stays_in_the_plane_that_is_drawn(page):
    choose(page, "smooth")
    drag(page, np.array([3000, -3000]))
    page.mouse.up()
    entry = slider().payload["paths"][0]
    assert place(page) == pytest.approx([entry["x"][-1], entry["y"][-1]])
    bend(page).press("ArrowRight")
    bend(page).press("Shift+ArrowUp")
    assert place(page) == pytest.approx([entry["x"][-1], entry["y"][-1]])
    settle(page)
    check_numbers(page, "smooth", 0.5)


def test_the_bend_is_moved_by_keys(page):
    choose(page, "smooth")
    length, where = plane_of("smooth").length, place(page)
    bend(page).focus()
    for key, move in (
        ("ArrowLeft", (-0.02, 0)),
        ("Shift+ArrowDown", (0, -0.1)),
        ("ArrowDown", (0, -0.02)),
        ("Shift+ArrowRight", (0.1, 0)),
        ("ArrowUp", (0, 0.02)),
    ):
        said = bend(page).get_attribute("aria-valuetext")
        page.keyboard.press(key)
        where = where + length * np.array(move)
        expect(bend(page)).not_to_have_attribute("aria-valuetext", said)
        assert place(page) == pytest.approx(where, rel=1e-6)
        assert float(bend(page).get_attribute("aria-valuenow")) == pytest.approx(where[1], abs=0.01)
    shown = check_numbers(page, "smooth", 0.5)
    said = bend(page).get_attribute("aria-valuetext")
    assert said.startswith(
        f"smooth, bend {where[0]:.2f} along the line, {where[1]:.2f} beside it: "
    )
    assert f"mean loss {shown['mean']:.3f}"[:14] in said
    assert page.evaluate("window.scrollY") == 0
    # every other key is the browser's
    page.keyboard.press("Control+ArrowUp")
    page.keyboard.press("a")
    assert place(page) == pytest.approx(where, rel=1e-6)


def test_everything_is_reached_by_keyboard_and_said_once(page):
    page.keyboard.press("Tab")
    controls = page.locator(
        ".mcw input:checked, .mcw [role=slider], .mcw button, .mcw input[type=range]"
    )
    expect(controls).to_have_count(7)
    for control in controls.all():
        expect(control).to_be_focused()
        assert control.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        page.keyboard.press("Tab")
    said = page.locator("output")
    expect(said).to_have_attribute("aria-live", "polite")
    bend(page).focus()
    expect(said).to_have_attribute("aria-live", "off")  # now aria-valuetext says it
    knob(page).focus()
    expect(said).to_have_attribute("aria-live", "off")
    page.get_by_role("button", name="step downhill").focus()
    expect(said).to_have_attribute("aria-live", "polite")
    words = knob(page).get_attribute("aria-valuetext")
    assert re.fullmatch(r"t 0\.50: chain, loss \d\.\d+, accuracy \d+\.\d\u00a0%", words)
    assert said.inner_text().startswith(f"{words}; barrier ")


def test_buttons_put_the_bend_on_the_line_and_back(page):
    for name in ("smooth", "chain"):
        choose(page, name)
        plane = plane_of(name)
        push(page, "straight line")
        knot = 0.5 if name == "smooth" else curves()[name].knots[1]
        assert place(page) == pytest.approx([knot * plane.length, 0], abs=1e-5)
        shown = check_numbers(page, name, 0.5)
        assert shown["barrier"] == pytest.approx(shown["lineBarrier"], abs=1e-9)
        push(page, "fitted bend")
        assert place(page) == pytest.approx([plane.foot, plane.height], rel=1e-5)
        assert numbers(root(page))["barrier"] == shown["fittedBarrier"]


def test_steps_go_downhill_until_there_is_no_lower_place(page):
    choose(page, "smooth")
    path, plane = curves()["smooth"], plane_of("smooth")

    def f(where):
        return mean(*losses(path, slider(), where, points=31))

    push(page, "straight line")
    places, means = [place(page)], [numbers(root(page))["mean"]]
    note = page.locator(".mcw-cv-note")
    for _ in range(60):
        push(page, "step downhill")
        if "lowest point" in note.inner_text():
            break
        places.append(place(page))
        means.append(numbers(root(page))["mean"])
        assert "One step of" in note.inner_text()
    else:
        pytest.fail("no lowest point after 60 steps")
    assert len(means) > 3
    assert (np.diff(means) < 1e-6).all()  # on 61 points, where the step looked at 31
    assert means[-1] < 0.9 * means[0]
    moves = np.diff(places, axis=0)
    assert (np.linalg.norm(moves, axis=1) < 0.1001 * plane.length).all()
    # against the gradient
    h = 1e-3 * plane.length
    slope = [(f(places[0] + e) - f(places[0] - e)) / (2 * h) for e in np.eye(2) * h]
    cos = -(moves[0] @ slope) / np.linalg.norm(moves[0]) / np.linalg.norm(slope)
    assert cos > 0.9999
    # a lowest point of what is drawn: near it nothing is lower
    entry, lowest = slider().payload["paths"][0], f(places[-1])
    for angle in np.linspace(0, 2 * np.pi, 9)[:-1]:
        beside = places[-1] + 0.05 * plane.length * np.array([np.cos(angle), np.sin(angle)])
        beside = [np.clip(v, entry[k][0], entry[k][-1]) for k, v in zip("xy", beside, strict=True)]
        assert f(beside) > lowest - 1e-4 * means[0]
    check_numbers(page, "smooth", 0.5)
    # every step left its dot, and a move of the hand takes them away
    assert page.locator(".mcw-cv-step").count() == len(places) - 1
    bend(page).press("ArrowUp")
    expect(page.locator(".mcw-cv-step")).to_have_count(0)
    expect(note).to_be_empty()


INSIDE = """([fills, points]) => points.map(([x, y]) => fills.filter((fill) => {
  const point = fill.ownerSVGElement.createSVGPoint();
  [point.x, point.y] = [x, y];
  return fill.isPointInFill(point);
}).length)"""


@pytest.mark.parametrize("name", ["smooth", "chain"])
def test_the_drawing_is_where_the_numbers_are(page, name):
    choose(page, name)
    bend(page).press("Shift+ArrowDown")
    settle(page, 61 if name == "smooth" else 62)
    path, plane, where = curves()[name], plane_of(name), place(page)
    svg, at = page.locator("svg.mcw-cv-map"), screen(page, plane.length)
    corner = np.array([svg.bounding_box()["x"], svg.bounding_box()["y"]])
    on_screen = {
        "mcw-cv-curve": [on_curve(path, plane, where, t) for t in np.linspace(0, 1, 61)],
        "mcw-cv-fitted": [
            on_curve(path, plane, (plane.foot, plane.height), t) for t in np.linspace(0, 1, 61)
        ],
        "mcw-cv-polygon": [(0, 0), where, (plane.length, 0)],
        "mcw-cv-chord": [(0, 0), (plane.length, 0)],
    }
    for line, points in on_screen.items():
        d = svg.locator(f".{line}").get_attribute("d")
        found = np.array(re.findall(r"-?[\d.]+", d), float).reshape(-1, 2) + corner
        wanted = np.array([at(*point) for point in points])
        assert found == pytest.approx(wanted, abs=0.7)
    dot = middle(svg.locator(".mcw-dot"))
    here = at(*on_curve(path, plane, where, 0.5))
    assert dot == pytest.approx(here, abs=1)
    # as many fills lie over a point as there are levels below its loss
    entry = slider().payload["paths"][list(curves()).index(name)]
    random = np.random.default_rng(0)
    checked, spots, wanted = 0, [], []
    logs = np.log(np.reshape(entry["loss"], (25, 25)))
    x, y = np.array(entry["x"]), np.array(entry["y"])
    for _ in range(400):
        i, j = random.integers(0, 24, 2)
        corners = logs[j : j + 2, i : i + 2]
        below = {int((np.log(entry["levels"]) <= corner).sum()) for corner in corners.ravel()}
        if len(below) == 1:  # no line through this cell
            spots.append(((x[i] + x[i + 1]) / 2, (y[j] + y[j + 1]) / 2))
            wanted.append(below.pop())
            checked += 1
    assert checked > 100
    assert len(set(wanted)) >= 4
    points = [(at(*spot) - corner).tolist() for spot in spots]
    found = svg.evaluate(
        f"(svg, points) => ({INSIDE})([[...svg.querySelectorAll('.mcw-cv-fill')], points])", points
    )
    assert found == wanted
    values = [float(v) for v in svg.locator(".mcw-cv-value").all_text_contents()]
    assert len(values) >= 3
    assert set(values) <= set(entry["levels"])


def test_a_plane_alone_is_read_off_its_grid(running, tmp_path):
    plane, fitted = bumpy(), made_up()
    one = CurveSlider.of_plane(plane, fitted)
    with open_page(running, write_page(tmp_path, one.to_html())) as (page, record):
        push(page, "straight line")
        for key, t in (("Home", 0.0), ("PageUp", 0.1), ("ArrowRight", 0.11), ("End", 1.0)):
            knob(page).press(key)
            still(page)
            shown = numbers(root(page))
            expected = read(plane, 5 * t, 0.0)
            assert (shown["loss"], shown["accuracy"]) == pytest.approx(expected, rel=1e-3)
        ts = np.linspace(0, 1, 61)
        line = np.array([read(plane, 5 * t, 0.0)[0] for t in ts])
        assert shown["barrier"] == pytest.approx(barrier(ts, line), rel=2e-3)
        assert shown["lineBarrier"] == shown["barrier"]
        assert shown["fittedBarrier"] == pytest.approx(fitted.barrier(), rel=1e-4)
        bend(page).press("Shift+ArrowUp")
        settle(page)
        expect(root(page)).to_have_attribute("data-bend-y", "0.5")
        curve = [read(plane, *(5 * t, t * (1 - t)))[0] for t in ts]
        assert numbers(root(page))["mean"] == pytest.approx(mean(ts, np.array(curve)), rel=1e-3)
        before = numbers(root(page))["mean"]
        push(page, "step downhill")
        assert numbers(root(page))["mean"] < before
        said = root(page).inner_text()
        assert "read off the grid of 8 × 6 networks measured on the test images of dots" in said
        assert "No network runs in this page" in said
        assert "The fitted curve in the chart was measured." in said
        assert axe_violations(page) == []
        record.check()


def test_other_sliders_on_the_page_are_left_alone(running, tmp_path):
    parts = (slider().to_html(), CurveSlider.of_plane(bumpy()).to_html(), slider().to_html())
    with open_page(running, write_page(tmp_path, *parts)) as (page, record):
        roots = page.locator("[role=group].mcw")
        expect(roots).to_have_count(3)
        before = [numbers(roots.nth(i)) for i in range(3)]
        bend(page).nth(0).press("Shift+ArrowDown")
        expect(roots.nth(0)).not_to_have_attribute("data-bend-y", str(before[0]["bendY"]))
        roots.nth(0).get_by_role("radio", name="smooth").check()
        assert [numbers(roots.nth(i)) for i in (1, 2)] == before[1:]
        expect(roots.nth(2).get_by_role("radio", name="chain")).to_be_checked()
        record.check()


def test_without_scripts_the_table_stays(running, tmp_path):
    file = write_page(tmp_path, slider().to_html())
    with open_page(running, file, scripts=False) as (page, record):
        expect(page.locator("table")).to_have_count(1)
        expect(page.locator("input, canvas, svg, button")).to_have_count(0)
        assert page.locator("tbody tr").count() == 5
        record.check()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_are_accessible_and_fit(running, tmp_path, theme, width):
    file = write_page(tmp_path, slider().to_html(), theme=theme)
    options = {"has_touch": width == 390, "reduced_motion": "reduce"}
    with open_page(running, file, width=width, **options) as (page, record):
        push(page, "step downhill")
        assert axe_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for picture in page.locator(".mcw svg[role=img]").all():
            assert len(picture.get_attribute("aria-label")) > 60
            box = picture.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        # beside each other where there is room
        plane, chart = (page.locator(one).bounding_box() for one in (".mcw-cv-map", ".mcw-chart"))
        assert (plane["x"] + plane["width"] <= chart["x"]) == (width == 1280)
        # colours follow the theme
        for one, what, colours in (
            (".mcw-cv-fill", "fill", ("rgb(0, 114, 178)", "rgb(86, 180, 233)")),
            (".mcw-cv-curve", "stroke", ("rgb(213, 94, 0)", "rgb(230, 159, 0)")),
        ):
            found = page.locator(one).first.evaluate(f"node => getComputedStyle(node).{what}")
            assert found == colours[theme == "dark"]
        expect(page.get_by_role("button", name=re.compile("Play"))).to_have_count(0)
        if width == 390:
            touch_the_bend(page)
        record.check()


def touch_the_bend(page):
    """A finger drags the bend, and the page does not scroll under it."""
    bend(page).scroll_into_view_if_needed()
    scrolled, before, start = page.evaluate("window.scrollY"), place(page), middle(bend(page))
    assert page.evaluate("document.documentElement.scrollHeight > window.innerHeight")
    finger = page.context.new_cdp_session(page)
    for kind, by in (("touchStart", 0), ("touchMove", 20), ("touchMove", 45), ("touchEnd", None)):
        points = [] if by is None else [{"x": start[0] - by, "y": start[1] + by}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(root(page)).not_to_have_attribute("data-bend-x", str(before[0]))
    settle(page, 62)
    assert middle(bend(page)) == pytest.approx(start + np.array([-45, 45]), abs=1)
    assert page.evaluate("window.scrollY") == scrolled
