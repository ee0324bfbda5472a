"""The walk slider as a reader meets it: in Chromium, from a file, offline, by keys."""

from __future__ import annotations

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from mcbook.viz.walk_payload import named_stages, walk_rows
from mcbook.viz.walk_slider import WalkSlider, percent_left
from tests.browser import axe_violations, browser, open_page
from tests.viz.slider_cases import write_page
from tests.viz.test_walk_slider import deep, profile, to_origin, walk

SPACE = "\u00a0"
ROWS = """all => all.map(row => {
  const [mark, name, , share] = [...row.cells].map(cell => cell.textContent);
  return [mark, name, share, parseFloat(row.querySelector('.mcw-walk-bar').style.width)];
})"""


@pytest.fixture(scope="module")
def running():
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def opened(running, tmp_path_factory):
    file = write_page(tmp_path_factory.mktemp("walk"), WalkSlider(walk(), profile()).to_html())
    with open_page(running, file) as (page, record):
        yield page, record


@pytest.fixture
def page(opened):
    """The page of a slider over `walk`, as new."""
    page, record = opened
    page.reload()
    expect(page.locator("svg.mcw-chart")).to_have_count(2)
    yield page
    record.check()


def root(page):
    return page.locator("[role=group].mcw").first


def knob(page):
    return page.get_by_role("slider")


def still(page):
    """Wait for the frame in which the page answers what was done."""
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")


def facts(page) -> dict[str, str]:
    """The numbers at the top, by name."""
    return dict(
        page.locator("output .mcw-stat").evaluate_all(
            "all => all.map(one => [...one.querySelectorAll('.mcw-key, .mcw-value')]"
            ".map(part => part.textContent))"
        )
    )


def is_share(text: str, share: float) -> bool:
    """Whether a percentage is this share; the page has four digits of it, and may round up at 5."""
    near = (percent_left(share * (1 + e)) for e in (-6e-4, 0, 6e-4))
    return text in {one.replace(" ", SPACE) for one in near}


def check_tick(page, tick: int, path=None) -> None:
    """Everything the widget says, against the log."""
    still(page)
    path = walk() if path is None else path
    log, rows, stages = path.log, walk_rows(path), named_stages(path)
    total = len(log) - 1
    now = log.iloc[tick]
    shown = root(page).evaluate("node => ({...node.dataset})")
    assert int(shown["tick"]) == tick
    assert int(shown["stage"]) == now["stage"]
    for key, column in (("before", "loss_before"), ("after", "loss"), ("left", "distance")):
        assert float(shown[key]) == pytest.approx(now[column], rel=1e-3, nan_ok=True)
    seen = facts(page)
    assert seen["tick"] == f"{tick} of {total}"
    assert is_share(seen["distance left"], now["distance"])
    text = knob(page).get_attribute("aria-valuetext")
    assert text.startswith(f"tick {tick} of {total}, ")
    assert text.endswith(f"; {seen['distance left']} of the distance left")
    words = page.locator(".mcw-walk-words").inner_text()
    moving = set()
    if tick:
        stage = stages[int(now["stage"]) - 1]
        assert words == f"{stage.words} {stage.verb}"
        assert (
            f"stage {int(now['stage'])} of {len(stages)}: {words}; {now['rounds']} rounds; " in text
        )
        assert seen["stage"] == f"{int(now['stage'])} of {len(stages)}"
        key = "rounds: the most" if now["at_most"] else "rounds"
        assert seen[key] == str(now["rounds"])
        losses = [float(x) for x in seen["loss before → after"].split(" → ")]
        assert losses == pytest.approx([now["loss_before"], now["loss"]], rel=1e-2)
        assert f"loss {seen['loss before → after']};" in text
        moving = {row.name for row in rows if row.stage < stage.upto}
    else:
        assert (words, seen["stage"], seen["rounds"]) == ("nothing has moved", "–", "–")
        assert "the start, A; loss " in text
    # a row for each, with a bar, and a mark where it moves
    lines = page.locator(".mcw-walk-rows tbody tr").evaluate_all(ROWS)
    widest = max(1.0, max(float(row.share.max()) for row in rows))
    for row, (mark, name, share, width) in zip(rows, lines, strict=True):
        assert name == row.name
        assert is_share(share, row.share[tick])
        assert ("moves" in mark) == (row.name in moving)
        assert float(width) == pytest.approx(100 * row.share[tick] / widest, abs=0.1)


def test_it_starts_in_the_middle_and_obeys_the_keys(page):
    check_tick(page, 16)
    for key, tick in (
        ("ArrowRight", 17),
        ("ArrowUp", 18),
        ("ArrowLeft", 17),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("ArrowRight", 1),
        ("PageUp", 4),
        ("End", 32),
        ("PageDown", 29),
        ("ArrowDown", 28),
    ):
        knob(page).press(key)
        check_tick(page, tick)


def test_every_tick_is_reached_one_by_one(page):
    knob(page).press("Home")
    for tick in range(33):
        still(page)
        assert root(page).get_attribute("data-tick") == str(tick)
        knob(page).press("ArrowRight")


def points(d: str) -> np.ndarray:
    """The points of an SVG path of straight pieces."""
    return np.array(re.findall(r"-?[\d.]+", d), float).reshape(-1, 2)


def scale_of(chart, factor: float = 1.0) -> tuple[float, float]:
    """Slope and offset of y over the logarithm of the numbers at the axis."""
    ticks = [
        (float(t.text_content().removesuffix("%").replace("−", "-")) * factor, t)
        for t in chart.locator("text[text-anchor=end]:not(.mcw-note)").all()
    ]
    assert len(ticks) >= 2
    values = [np.log(value) for value, _ in ticks]
    heights = [float(t.get_attribute("y")) - 4 for _, t in ticks]
    slope, offset = np.polyfit(values, heights, 1)
    assert heights == pytest.approx(np.polyval([slope, offset], values), abs=0.1)
    assert slope < 0
    return slope, offset


def test_the_curves_are_where_the_numbers_are(page):
    shares, losses = page.locator("svg.mcw-chart").all()
    width = float(shares.get_attribute("width"))
    x = 52 + np.arange(33) / 32 * (width - 70)
    slope, offset = scale_of(shares, 0.01)
    drawn = shares.locator("path.mcw-line").all()
    assert len(drawn) == 6
    for row, line in zip(walk_rows(walk())[::-1], drawn, strict=True):
        found = points(line.get_attribute("d"))
        assert found[:, 0] == pytest.approx(x, abs=0.06)
        assert found[:, 1] == pytest.approx(slope * np.log(row.share) + offset, abs=0.2)
        assert f"mcw-s{row.stage}" in line.get_attribute("class")
        assert ("mcw-walk-thin" in line.get_attribute("class")) == row.name.endswith("bias")
    slope, offset = scale_of(losses)
    log = walk().log
    for name, column, skip in (("before", "loss_before", 1), ("after", "loss", 0)):
        found = points(losses.locator(f"path.mcw-walk-{name}").get_attribute("d"))
        assert found[:, 0] == pytest.approx(x[skip:], abs=0.06)
        wanted = slope * np.log(log[column].to_numpy()[skip:]) + offset
        assert found[:, 1] == pytest.approx(wanted, abs=0.2)
    level = losses.locator(".mcw-walk-level")
    heights = [float(level.get_attribute(y)) for y in ("y1", "y2")]
    assert heights == pytest.approx([slope * np.log(0.9) + offset] * 2, abs=0.2)
    assert "threshold 0.900" in losses.locator("text").all_text_contents()
    # the loss on all training images, at the recorded ticks
    dots = losses.locator("circle.mcw-walk-full").all()
    recorded = log.dropna(subset="t")
    table = profile().table
    whole = [table["train_loss"][(table["t"] - t).abs().idxmin()] for t in recorded["t"]]
    spots = np.array([[float(dot.get_attribute(c)) for c in ("cx", "cy")] for dot in dots])
    assert spots[:, 0] == pytest.approx(x[recorded["tick"]], abs=0.06)
    assert spots[:, 1] == pytest.approx(slope * np.log(whole) + offset, abs=0.2)
    # where stages begin
    for chart in (shares, losses):
        lines = chart.locator(".mcw-walk-stage").all()
        found = [float(line.get_attribute("x1")) for line in lines]
        assert found == pytest.approx(x[[8, 16]], abs=0.06)
    assert [t for t in shares.locator("text").all_text_contents() if len(t) < 3] == ["2", "3"]


def test_the_markers_follow(page):
    knob(page).press("Home")
    knob(page).press("PageUp")
    knob(page).press("PageUp")
    tick = 6
    check_tick(page, tick)
    box, thumb = knob(page).bounding_box(), None
    thumb = box["x"] + 10 + tick / 32 * (box["width"] - 20)
    shares, losses = page.locator("svg.mcw-chart").all()
    for chart in (shares, losses):
        now = chart.locator(".mcw-now").bounding_box()
        assert now["x"] + now["width"] / 2 == pytest.approx(thumb, abs=1.5)
    slope, offset = scale_of(losses)
    dots = losses.locator("g circle").all()
    heights = [float(dot.get_attribute("cy")) for dot in dots]
    now = walk().log.iloc[tick]
    wanted = slope * np.log([now["loss_before"], now["loss"]]) + offset
    assert heights == pytest.approx(wanted, abs=0.2)
    # a dot for every row that moves
    slope, offset = scale_of(shares, 0.01)
    heights = [float(dot.get_attribute("cy")) for dot in shares.locator("g circle").all()]
    moving = [row.share[tick] for row in walk_rows(walk()) if row.stage == 0]
    assert heights == pytest.approx(slope * np.log(moving) + offset, abs=0.2)
    knob(page).press("End")
    still(page)
    assert shares.locator("g circle").count() == 6


def test_the_charts_are_handles(page):
    for chart in page.locator("svg.mcw-chart").all():
        box, width = chart.bounding_box(), float(chart.get_attribute("width"))
        for tick in (24, 5):
            page.mouse.click(box["x"] + 52 + tick / 32 * (width - 70), box["y"] + 80)
            check_tick(page, tick)


def test_what_is_read_out(page):
    assert knob(page).get_attribute("aria-label") == "tick of the walk from A to B"
    assert knob(page).get_attribute("data-lm-suppress-shortcuts") == "true"
    output = page.locator("output")
    expect(output).to_have_attribute("aria-live", "polite")
    knob(page).focus()
    expect(output).to_have_attribute("aria-live", "off")
    shares, losses = (c.get_attribute("aria-label") for c in page.locator("svg.mcw-chart").all())
    last = sorted((row.share[-1], row.name) for row in walk_rows(walk()))
    told = re.search(
        r"At the last tick between ([\d.]+\s%), (\S+), and ([\d.]+\s%), (\S+)\. ", shares
    )
    assert (told[2], told[4]) == (last[0][1], last[-1][1])
    assert is_share(told[1], last[0][0])
    assert is_share(told[3], last[-1][0])
    assert shares.endswith("Stages begin at the ticks 1, 9, 17.")
    log = walk().log
    for words, value in (
        ("before retraining at most ", log["loss_before"].max()),
        (", after at most ", log["loss"].max()),
        ("the threshold is ", 0.9),
    ):
        number = re.search(rf"{words}([\d.]+\d)", losses)
        assert float(number[1]) == pytest.approx(value, rel=6e-3)
    caption = page.locator(".mcw-caption").inner_text()
    told = "converged" if walk().converged else "did not converge: "
    assert f"The walk {told}" in caption
    assert "‖W − W(B)‖" in caption


def test_play_goes_on_and_can_be_paused(page):
    knob(page).press("Home")
    button = page.locator(".mcw-play")
    assert button.get_attribute("aria-label") == "Play: move the share of ticks from 0 to 1"
    button.click()
    page.wait_for_function("document.querySelector('[role=group].mcw').dataset.tick > 2")
    if button.get_attribute("aria-label") == "Pause":
        button.click()
    still(page)
    check_tick(page, int(root(page).get_attribute("data-tick")))


def test_a_kernel_moves_the_slider(running, tmp_path):
    html = WalkSlider(walk(), start=0.25).to_html()
    start = html.rindex("mount(render, ")
    state = html[html.index("{", start) : html.rindex(");")]
    html = (
        html[:start] + f"window.kernel = standIn({state});\n"
        "render({ model: kernel, el: document.querySelector('[data-mcw]') });\n</script>"
    )
    with open_page(running, write_page(tmp_path, html)) as (page, record):
        check_tick(page, 8)
        page.evaluate("kernel.set('t', 0.75)")
        check_tick(page, 24)
        knob(page).press("ArrowRight")
        assert page.evaluate("kernel.get('t')") == pytest.approx(25 / 32)
        page.evaluate("kernel.set('payload', {...kernel.get('payload'), title: 'anew'})")
        expect(root(page)).to_have_attribute("aria-label", "anew")
        check_tick(page, 25)
        record.check()


def test_walks_of_other_kinds(running, tmp_path):
    """Without retraining, to the origin, of one stage and of many rows."""
    one, other, third = (
        WalkSlider(deep(17, stages="all"), start=1.0),
        WalkSlider(to_origin()),
        WalkSlider(deep(2), by="layer", ends=("A", "C")),
    )
    for slider in (one, other, third):
        with open_page(running, write_page(tmp_path, slider.to_html())) as (page, record):
            expect(page.locator("svg.mcw-chart")).to_have_count(2)
            knob(page).press("ArrowLeft")
            still(page)
            for node in page.locator(".mcw svg path[d]").all():
                assert "NaN" not in node.get_attribute("d")
            assert "NaN" not in root(page).inner_text()
            assert "undefined" not in root(page).inner_text()
            record.check()
            if slider is other:
                check_tick(page, 5, to_origin())
                assert "‖W‖ as a part of what it was at A" in page.content()
                assert "straight piece" not in page.locator(".mcw-caption").inner_text()
                colours = page.locator(".mcw-walk-bar").evaluate_all(
                    "all => all.map(one => getComputedStyle(one).backgroundColor)"
                )
                assert len(set(colours)) == 3
            else:
                assert facts(page)["loss before → after"] == "not retrained"
                expect(page.locator(".mcw-walk-key span")).to_have_count(0)
            if slider is third:
                expect(page.locator(".mcw-walk-rows tbody tr")).to_have_count(3)
                assert knob(page).get_attribute("aria-label") == "tick of the walk from A to C"


def test_the_same_slider_twice_on_a_page(running, tmp_path):
    html = WalkSlider(walk()).to_html()
    with open_page(running, write_page(tmp_path, html, html)) as (page, record):
        expect(page.locator("svg.mcw-chart")).to_have_count(4)
        knob(page).first.press("End")
        still(page)
        roots = page.locator("[role=group].mcw")
        assert [one.get_attribute("data-tick") for one in roots.all()] == ["32", "16"]
        record.check()


def test_without_scripts_the_table_stays(running, tmp_path):
    file = write_page(tmp_path, WalkSlider(walk()).to_html())
    with open_page(running, file, scripts=False) as (page, record):
        expect(page.locator("table")).to_have_count(1)
        expect(page.locator("input, svg, button")).to_have_count(0)
        assert page.locator("tbody tr").count() == 3
        assert "linear1 and linear2" in page.locator("table").inner_text()
        record.check()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_are_accessible_and_fit(running, tmp_path, theme, width):
    file = write_page(tmp_path, WalkSlider(walk(), profile()).to_html(), theme=theme)
    with open_page(running, file, width=width, reduced_motion="reduce") as (page, record):
        expect(page.locator("svg.mcw-chart")).to_have_count(2)
        still(page)
        assert axe_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        edge = page.locator("main").bounding_box()
        for part in page.locator("svg.mcw-chart, .mcw-walk-rows, .mcw-stat, .mcw-walk-key").all():
            box = part.bounding_box()
            assert box["x"] >= edge["x"] - 0.5
            assert box["x"] + box["width"] <= edge["x"] + edge["width"] + 0.5
        for picture in page.locator(".mcw svg[role=img]").all():
            assert len(picture.get_attribute("aria-label")) > 60
        # the rows stand beside the charts where there is room, else below the slider
        rows, charts = (
            page.locator(one).bounding_box() for one in (".mcw-walk-rows", ".mcw-charts")
        )
        if width == 390:
            assert rows["y"] > knob(page).bounding_box()["y"]
        else:
            assert rows["x"] + rows["width"] < charts["x"]
        # a row is one line high, and nothing moves when the numbers change
        heights = [line.bounding_box()["height"] for line in page.locator("tbody tr").all()]
        assert max(heights) < 26
        top = charts["y"]
        for key in ("Home", "End", "PageDown"):
            knob(page).press(key)
            still(page)
            assert page.locator(".mcw-charts").bounding_box()["y"] == pytest.approx(top, abs=0.5)
        colours = ("rgb(0, 114, 178)", "rgb(86, 180, 233)")
        found = page.locator("path.mcw-line.mcw-walk-after").evaluate(
            "node => getComputedStyle(node).stroke"
        )
        assert found == colours[theme == "dark"]
        expect(page.get_by_role("button", name=re.compile("Play"))).to_have_count(0)
        record.check()
