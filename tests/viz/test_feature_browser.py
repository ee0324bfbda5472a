"""The feature slider as a reader meets it: in Chromium, from a file, offline, by keyboard."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from torch import nn

import mcbook as mc
from mcbook.viz.feature_slider import FeatureSlider
from tests.browser import axe_violations, browser, open_page
from tests.viz.slider_cases import digits, line, trained, write_page
from tests.viz.test_feature_slider import (
    STAGES,
    WIDTHS,
    compared,
    dead,
    dying,
    features,
    mean,
    paths,
    slider,
)
from tests.viz.test_sliders_browser import numbers

KEYS = (("cos", "meanCos"), ("coefficient", "meanCoefficient"), ("baseline", "meanBaseline"))


@pytest.fixture(scope="module")
def running():
    with browser() as one:
        yield one


@pytest.fixture
def page(running, tmp_path):
    """The page of `slider`, once its scales are found."""
    with open_page(running, write_page(tmp_path, slider().to_html())) as (page, record):
        page.wait_for_selector("[data-surveyed]")
        yield page
        record.check()


def root(page):
    return page.locator("[role=group].mcw")


def radio(page, name):
    return page.get_by_role("radio", name=name, exact=True)


def index_of(one: FeatureSlider, thumb: int) -> int:
    """Which of the images in the page is drawn there."""
    return one.payload["shown"][thumb]


def check_numbers(page, one, path, alpha, stage, thumb, split="test"):
    """What the widget says against torch, image by image."""
    x = getattr(digits(), split).x[one.indices]
    rows = compared(path, alpha, x)
    shown = numbers(root(page))
    assert shown["t"] == pytest.approx(alpha, abs=1e-9)
    here = rows[stage][index_of(one, thumb)]
    for key, of_all in KEYS:
        for said, expected in ((key, here[key]), (of_all, mean(rows[stage], key)[0])):
            if expected is None or np.isnan(expected):
                assert said not in shown
            else:
                assert shown[said] == pytest.approx(expected, abs=1e-6, rel=1e-6)
    for name, key in (("own", "cos"), ("ends", "baseline")):
        found = json.loads(page.locator("svg.mcw-layers").get_attribute(f"data-{name}"))
        for value, each in zip(found, rows, strict=True):
            expected, kept = mean(each, key)
            if kept:
                assert value == pytest.approx(1 - expected, abs=1e-6)
            else:
                assert value is None
    return rows


def test_numbers_are_those_of_torch(page):
    knob = page.get_by_role("slider")
    assert knob.input_value() == "0.5"
    check_numbers(page, slider(), paths()["same start"], 0.5, 3, 0)
    for name, path in paths().items():
        radio(page, name).check()
        knob.press("Home")
        for presses, alpha, stage, thumb in (
            (0, 0.0, 1, 4), (33, 0.33, 2, 11), (17, 0.5, 4, 0), (41, 0.91, 3, 23), (9, 1.0, 0, 7),
        ):  # fmt: skip
            radio(page, STAGES[stage]).check()
            page.locator(".mcw-thumb").nth(thumb).click()
            for _ in range(presses):
                knob.press("ArrowRight")
            rows = check_numbers(page, slider(), path, alpha, stage, thumb)
            here = rows[stage][index_of(slider(), thumb)]
            text = page.locator(".mcw-facts").inner_text()
            for value in (here["cos"], here["baseline"], mean(rows[stage], "cos")[0]):
                assert f"{value:.4f}".replace("-", "−") in text
            assert f"{here['coefficient']:.3f}" in text
            assert f"{alpha:.2f}" in text


def test_standardised_networks_without_bias(running, tmp_path):
    options = {"width": (7, 5), "standardize": True, "bias": False}
    path = mc.LinearPath(trained(0, **options), trained(1, **options))
    one = FeatureSlider(path, digits(), images=33, split="train", ends=("A", "π(B)"))
    with open_page(running, write_page(tmp_path, one.to_html())) as (page, record):
        page.get_by_role("slider").press("ArrowLeft")
        check_numbers(page, one, path, 0.49, 3, 0, "train")
        assert page.locator(".mcw-ends span").all_inner_texts() == ["network A", "network π(B)"]
        names = page.locator(".mcw-map b").all_inner_texts()
        assert names == ["A", "π(B)", "blend", "own"]
        assert "(1−α)\u00a0A + α\u00a0π(B) of the features" in root(page).inner_text()
        assert "image: 24 of the 33" in root(page).inner_text()
        record.check()


SIDES = """svg => ["zeros", "above", "under"].map((name) =>
  (svg.querySelector(`.mcw-${name}`).getAttribute("d") || "").split("M").filter(Boolean)
    .map((d) => d.match(/-?[0-9.]+/g).map(Number)))"""


def squares(svg, units: int) -> np.ndarray:
    """The signed areas of the drawn squares, unit by unit; the inner edge of a rim left out."""
    columns = float(svg.get_attribute("viewBox").split()[2]) / 10
    found, rims = np.zeros(units), np.zeros(units, int)
    for sign, boxes in zip((0, 1, -1), svg.evaluate(SIDES), strict=True):
        for x, y, side, *_ in boxes:
            unit = int((x + side / 2) // 10 + columns * ((y + side / 2) // 10))
            rims[unit] += 1
            found[unit] = max(found[unit], side**2, key=abs) if sign >= 0 else found[unit]
            if sign == 0:
                found[unit] = 0.0
            if sign < 0:
                found[unit] = min(found[unit], -(side**2))
    assert (rims > 0).all()  # every unit has a place
    return found


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_squares_show_the_features_on_one_scale(page, stage):
    path = paths()["independent"]
    radio(page, "independent").check()
    radio(page, STAGES[stage]).check()
    page.locator(".mcw-thumb").nth(5).click()
    page.get_by_role("slider").press("ArrowRight")
    x = digits().test.x[[slider().indices[index_of(slider(), 5)]]]
    a, b, own = (features(path, t, x)[stage][0] for t in (0.0, 1.0, 0.51))
    expected = [a, b, 0.49 * a + 0.51 * b, own]
    maps = page.locator("svg.mcw-field")
    expect(maps).to_have_count(4)
    found = [squares(maps.nth(i), len(a)) for i in range(4)]
    # one factor for all four: the largest anywhere on the path fills its cell
    largest = max(
        np.abs(features(path, t, x)[stage][0]).max() for t in (*np.linspace(0, 1, 11), 0.51)
    )
    scale = 9.4**2 / largest
    for drawn, values in zip(found, expected, strict=True):
        seen = np.abs(values) > 0.002 * largest
        assert drawn == pytest.approx(np.where(seen, values * scale, 0), abs=0.25)
    assert sum((drawn < 0).sum() for drawn in found) > 0 or stage in (1, 3)
    # what is negative is hollow: two outlines, one in the other
    hollow = page.locator(".mcw-under").first
    assert hollow.get_attribute("fill-rule") == "evenodd"
    label = maps.nth(0).get_attribute("aria-label")
    assert f"{(a > 0).sum()} above zero, {(a < 0).sum()} below" in label
    assert f"at unit {a.argmax()}" in label


def rescaled(factor: float) -> nn.Module:
    """The same function: one layer larger, the next smaller."""
    model = copy.deepcopy(trained(0, width=WIDTHS))
    with torch.no_grad():
        for tensor in (model.linear1.weight, model.linear1.bias):
            tensor.mul_(factor)
        model.linear2.weight.div_(factor)
    return model


def test_the_scale_stays_while_alpha_moves(running, tmp_path):
    # the mixed network's features are much larger than those of both ends
    path = mc.LinearPath(rescaled(3.0), rescaled(1 / 3))
    one = FeatureSlider(path, digits())
    with open_page(running, write_page(tmp_path, one.to_html())) as (page, record):
        page.wait_for_selector("[data-surveyed]")
        said = set()
        for key in ("Home", "PageUp", "PageUp", "End"):
            page.get_by_role("slider").press(key)
            drawn = page.locator("svg.mcw-field").first.evaluate(SIDES)
            said.add((page.locator(".mcw-sizes").inner_text(), json.dumps(drawn)))
        assert len(said) == 1  # A is drawn alike wherever the slider stands
        x = digits().test.x[[one.indices[index_of(one, 0)]]]
        most = max(features(path, t, x)[3].max() for t in np.linspace(0, 1, 11))
        assert most > 2 * max(features(path, t, x)[3].max() for t in (0.0, 1.0))
        assert f"(largest {most:.3g})" in said.pop()[0]
        record.check()


def test_logits_are_bars_with_the_names_of_the_classes(page):
    path = paths()["independent"]
    radio(page, "independent").check()
    radio(page, "logits").check()
    page.locator(".mcw-thumb").nth(3).click()
    x = digits().test.x[[slider().indices[index_of(slider(), 3)]]]
    a, b, own = (features(path, t, x)[4][0] for t in (0.0, 1.0, 0.5))
    for i, values in enumerate((a, b, (a + b) / 2, own)):
        one = page.locator("svg.mcw-field").nth(i)
        assert one.locator("text").all_text_contents() == [str(c) for c in range(10)]
        assert one.locator("text.mcw-strong").all_text_contents() == ["3"]
        label = one.get_attribute("aria-label").replace("−", "-")
        found = [float(text) for text in re.findall(r"\d (-?\d+\.\d)", label)]
        assert found == pytest.approx(values.tolist(), abs=0.051)
        lengths = {}
        for sign, boxes in zip((1, -1), one.evaluate(SIDES)[1:], strict=True):
            for _, y, wide, *_ in boxes:
                row = int(y // 15)
                lengths[row] = max(lengths.get(row, 0), sign * wide, key=abs)
        drawn = np.array([lengths[row] for row in range(10)])
        factor = drawn @ values / (values @ values)
        assert drawn == pytest.approx(values * factor, abs=0.02)


def test_what_has_no_features_says_so(running, tmp_path):
    one = FeatureSlider(dead(), digits())
    with open_page(running, write_page(tmp_path, one.to_html())) as (page, record):
        check_numbers(page, one, dead(), 0.5, 1, 0)
        facts = page.locator(".mcw-facts").inner_text()
        assert facts.count("no features (all zero)") == 6
        assert "NaN" not in root(page).inner_text()
        left = page.locator(".mcw-left-out")
        expect(left).to_contain_text("24 of 24 images are left out where own features or blend")
        assert "layer 1 none" in page.locator("svg.mcw-layers").get_attribute("aria-label")
        said = page.get_by_role("slider").get_attribute("aria-valuetext")
        assert "cos no features (all zero)" in said
        # at A itself there are features again, and only the ends cannot be compared
        page.get_by_role("slider").press("Home")
        check_numbers(page, one, dead(), 0.0, 1, 0)
        assert page.locator(".mcw-facts").inner_text().count("no features (all zero)") == 2
        record.check()


def test_images_without_features_are_left_out_and_counted(running, tmp_path):
    one = FeatureSlider(dying(), digits(), images=100)
    with open_page(running, write_page(tmp_path, one.to_html())) as (page, record):
        rows = check_numbers(page, one, dying(), 0.5, 1, 0)
        shown = numbers(root(page))
        for name, key in (("kept", "cos"), ("baselineKept", "baseline")):
            kept = mean(rows[1], key)[1]
            assert shown[name] == kept
            assert f"{100 - kept} of 100 images are left out" in root(page).inner_text()
        radio(page, "logits").check()
        expect(page.locator(".mcw-left-out")).to_be_hidden()
        record.check()


def test_everything_works_by_keyboard(page):
    controls = page.locator(".mcw input:checked, .mcw button, .mcw input[type=range]")
    expect(controls).to_have_count(5)
    page.keyboard.press("Tab")
    for control in controls.all():
        expect(control).to_be_focused()
        shown = "node => getComputedStyle(node.closest('.mcw-thumb') || node).outlineStyle"
        assert control.evaluate(shown) == "solid"
        page.keyboard.press("Tab")
    thumbs = page.locator(".mcw-thumb input")
    thumbs.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(thumbs.nth(2)).to_be_checked()
    assert thumbs.nth(2).get_attribute("aria-label") == "image of 2, number 3"
    radio(page, "layer 2").focus()
    page.keyboard.press("ArrowRight")
    expect(radio(page, "logits")).to_be_checked()
    check_numbers(page, slider(), paths()["same start"], 0.5, 4, 2)


def test_the_values_are_read_out_once_and_briefly(page):
    said, knob = page.get_by_role("status"), page.get_by_role("slider")
    expect(said).to_have_attribute("aria-live", "polite")
    assert knob.get_attribute("aria-label") == "α, the weight of network B in the mixture"
    knob.press("ArrowRight")
    expect(said).to_have_attribute("aria-live", "off")  # now aria-valuetext says it
    words = knob.get_attribute("aria-valuetext")
    assert re.fullmatch(
        r"α 0\.51, same start, layer 2, image of 0: cos 0\.\d{4}, coefficient \d\.\d{3}; "
        r"mean cos 0\.\d{4}",
        words,
    )
    assert said.inner_text() == words
    radio(page, "independent").check()
    expect(said).to_have_attribute("aria-live", "polite")
    expect(page.get_by_role("button", name="Play: move α from 0 to 1")).to_be_visible()


def test_the_chart_is_where_the_numbers_are_and_picks_layers(page):
    radio(page, "independent").check()
    chart = page.locator("svg.mcw-layers")
    dots = chart.locator("circle")
    expect(dots).to_have_count(5)
    own = json.loads(chart.get_attribute("data-own"))
    heights = np.array([float(dot.get_attribute("cy")) for dot in dots.all()])
    # logarithmic above the lowest line: a straight line in the logarithms
    fit = np.polyfit(np.log(own[1:]), heights[1:], 1)
    assert np.abs(np.polyval(fit, np.log(own[1:])) - heights[1:]).max() < 0.2
    floor = chart.locator(".mcw-axis").bounding_box()
    assert own[0] < 1e-12
    box = dots.first.bounding_box()
    assert box["y"] + box["height"] / 2 == pytest.approx(floor["y"], abs=1)
    label = chart.get_attribute("aria-label")
    for name, value in zip(STAGES[1:], own[1:], strict=True):
        shown = float(re.search(f"{name} ([0-9.]+)", label)[1])
        assert shown == pytest.approx(value, rel=6e-3)
    box = dots.nth(2).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] - 20)
    expect(radio(page, "layer 2 before ReLU")).to_be_checked()
    check_numbers(page, slider(), paths()["independent"], 0.5, 2, 0)


def test_other_sliders_on_the_page_are_left_alone(running, tmp_path):
    network = mc.NetworkSlider(line(), digits(), images=20, shown=5)
    parts = (slider().to_html(), network.to_html(), slider().to_html())
    with open_page(running, write_page(tmp_path, *parts)) as (page, record):
        expect(page.get_by_role("slider")).to_have_count(3)
        groups = page.locator("fieldset:has(input[type=radio])")
        expect(groups).to_have_count(7)
        for group in groups.all():
            expect(group.locator("input:checked")).to_have_count(1)
        page.get_by_role("slider").first.press("End")
        values = [one.input_value() for one in page.get_by_role("slider").all()]
        assert values == ["1", "0.5", "0.5"]
        record.check()


def test_without_scripts_the_table_stays(running, tmp_path):
    file = write_page(tmp_path, slider().to_html())
    with open_page(running, file, scripts=False) as (page, record):
        expect(page.locator("table")).to_have_count(1)
        expect(page.locator("input, canvas, svg, button")).to_have_count(0)
        assert page.locator("tbody tr").count() == 3 * len(STAGES)
        record.check()


def test_after_many_moves_at_once_the_last_one_counts(running, tmp_path):
    wide = {"width": (128, 128)}
    path = mc.LinearPath(*(mc.build_model("mlp", digits(), seed=s, **wide) for s in (0, 1)))
    one = FeatureSlider(path, digits())
    with open_page(running, write_page(tmp_path, one.to_html())) as (page, record):
        page.wait_for_selector("[data-surveyed]")
        page.evaluate("""() => {
          const slider = document.querySelector("input[type=range]");
          for (let i = 0; i < 60; i += 1) {
            slider.value = String(i / 100);
            slider.dispatchEvent(new Event("input"));
          }
        }""")
        check_numbers(page, one, path, 0.59, 3, 0)
        record.check()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000])
def test_pages_are_accessible_and_fit(running, tmp_path, theme, width):
    file = write_page(tmp_path, slider().to_html(), theme=theme)
    with open_page(running, file, width=width) as (page, record):
        page.wait_for_selector("[data-surveyed]")
        for layer in ("layer 1 before ReLU", "logits"):
            radio(page, layer).check()
            assert axe_violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            for picture in page.locator(".mcw svg[role=img]").all():
                assert len(picture.get_attribute("aria-label")) > 30
                box = picture.bounding_box()
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width
        # colours follow the theme
        fill = page.locator(".mcw-above").first.evaluate("node => getComputedStyle(node).fill")
        assert fill == {"light": "rgb(0, 114, 178)", "dark": "rgb(86, 180, 233)"}[theme]
        record.check()
