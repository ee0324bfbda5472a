"""The permutation slider as a reader meets it: in Chromium, from a file, offline, by keyboard."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from torch import nn
from torch.nn import functional as F

from mcbook.viz.permutation_slider import PermutationSlider, permute_mlp, random_orders
from tests.browser import axe_violations, browser, open_page
from tests.viz.slider_cases import digits, trained, write_page
from tests.viz.test_permutation_slider import WIDTHS, length, logits, network, on_line, slider
from tests.viz.test_sliders_browser import numbers


def by_size(model: nn.Module) -> list[list[int]]:
    layers = [model.linear1, model.linear2]
    return [
        x.weight.detach().double().norm(dim=1).argsort(descending=True).tolist() for x in layers
    ]


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


LIVE = """([source, state]) => {
  const heard = {};
  const model = {
    state, saved: [],
    get: (name) => state[name],
    set(name, value) { state[name] = value; (heard[name] || []).forEach((f) => f()); },
    on: (event, f) => (heard[event.slice(7)] = [...(heard[event.slice(7)] || []), f]),
    off(event, f) { heard[event.slice(7)] = heard[event.slice(7)].filter((g) => g !== f); },
    save_changes() { model.saved.push(JSON.stringify(state.permutation)); },
  };
  window.model = model;
  window.heard = heard;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  return import(url).then((module) => {
    window.close_widget = module.default.render({ model, el: document.querySelector("#live") });
  });
}"""


@pytest.fixture
def live(running, tmp_path):
    """The same JavaScript against the traits of a kernel, here `window.model`."""
    file = write_page(tmp_path, f'<style>{PermutationSlider._css}</style><div id="live"></div>')
    with open_page(running, file, reduced_motion="reduce") as (page, record):
        state = {"payload": slider().payload, "t": 0.5, "permutation": slider().permutation}
        page.evaluate(LIVE, [str(PermutationSlider._esm), state])
        yield page
        record.check()


def root(page):
    return page.locator("[role=group].mcw")


def push(page, name):
    page.get_by_role("button", name=re.compile(f"^{name}")).click()


def orders_in(page) -> list[list[int]]:
    return page.evaluate("window.model.state.permutation")


def test_moves_agree_with_torch(still):
    knob = still.get_by_role("slider")
    assert knob.input_value() == "0.5"
    knob.press("Home")
    for presses, t in ((0, 0.0), (3, 0.03), (30, 0.33), (17, 0.5), (41, 0.91), (9, 1.0)):
        for _ in range(presses):
            knob.press("ArrowRight")
        loss, accuracy = on_line(slider().permutation, t, slider().indices)
        shown = numbers(root(still))
        assert shown["t"] == pytest.approx(t, abs=1e-9)
        # torch mixes in float32
        assert shown["loss"] == pytest.approx(loss, rel=1e-5)
        assert shown["accuracy"] == pytest.approx(accuracy, abs=1e-9)
        said = knob.get_attribute("aria-valuetext")
        assert f"{100 * accuracy:.1f}\u00a0%" in said
        assert f"{round(accuracy * 200)} of 200" in still.get_by_role("status").nth(1).inner_text()


def test_buttons_reorder_what_they_name(live):
    first = slider().permutation
    push(live, "Shuffle hidden layer 2")
    second = orders_in(live)
    assert second[0] == first[0]
    assert second[1] != first[1]
    push(live, "Shuffle hidden layer 1")
    third = orders_in(live)
    assert third[0] != first[0]
    assert third[1] == second[1]
    push(live, "Shuffle all")
    fourth = orders_in(live)
    assert all(a != b for a, b in zip(third, fourth, strict=True))
    push(live, "Sort by size")
    assert orders_in(live) == by_size(network())
    push(live, "Back")
    assert orders_in(live) == [[*range(n)] for n in WIDTHS]
    saved = [json.loads(text) for text in live.evaluate("window.model.saved")]
    assert saved[:3] == [second, third, fourth]
    for orders in saved:
        assert [sorted(order) for order in orders] == [[*range(n)] for n in WIDTHS]


def test_shuffles_are_even_and_differ(live):
    found = live.evaluate("""() => {
      const button = [...document.querySelectorAll("button")].find(
        (one) => one.textContent === "Shuffle all");
      return Array.from({ length: 240 }, () => {
        button.click();
        return window.model.state.permutation;
      });
    }""")
    assert len({json.dumps(orders) for orders in found}) == 240
    for layer, width in enumerate(WIDTHS):
        orders = np.array([one[layer] for one in found])
        counts = [np.bincount(column, minlength=width) for column in orders.T]
        # every unit in every slot, about equally often: six standard deviations
        expected = 240 / width
        assert np.abs(np.array(counts) - expected).max() < 6 * math.sqrt(expected)


def test_logits_stay_and_weights_move(live):
    seen = live.locator(".mcw-cases").inner_text()
    heights = "bars => bars.map(bar => parseFloat(bar.style.height).toFixed(9))"
    bars = live.locator(".mcw-fill").evaluate_all(heights)
    for name in ("Shuffle all", "Shuffle hidden layer 1", "Sort by size", "Back"):
        push(live, name)
        shown, orders = numbers(root(live)), orders_in(live)
        assert shown["distance"] == pytest.approx(length(network(), orders), rel=1e-9)
        assert (shown["change"] == 0) == (name == "Back")
        assert shown["change"] < 1e-12
        assert live.locator(".mcw-cases").inner_text() == seen
        assert live.locator(".mcw-fill").evaluate_all(heights) == bars
        facts = live.get_by_role("status").first.inner_text()
        assert "largest change of any logit on 200 images" in facts
        assert (f"{shown['distance']:#.3g}" in facts) == (name != "Back")
        assert "12! · 9! ≈ 10 to the power 14.2" in " ".join(facts.split())
        # t = 1/2 of the new line
        loss, _ = on_line(orders, 0.5, slider().indices)
        assert shown["loss"] == pytest.approx(loss, rel=1e-5)


def test_probabilities_are_those_of_torch(still):
    payload = slider().payload
    indices = [slider().indices[i] for i in payload["shown"]]
    shares = logits(network(), digits().test.x[indices]).softmax(1)
    found = still.locator(".mcw-fill").evaluate_all(
        "all => all.map(x => parseFloat(x.style.height))"
    )
    assert found == pytest.approx((100 * shares).flatten().tolist(), abs=1e-3)
    words = still.locator(".mcw-seen").all_inner_texts()
    for text, share, i in zip(words, shares, indices, strict=True):
        best = int(share.argmax())
        sign = "✓" if best == int(digits().test.y[i]) else "✗"
        assert text.split() == [str(best), sign, f"{share[best]:.3f}"]


COLOURS = """canvases => canvases.map(canvas => {
  const [rows, columns] = JSON.parse(canvas.dataset.sizes);
  const ink = canvas.getContext("2d");
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  const cell = high / rows;
  return Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, k) => {
    const x = Math.floor((k + 0.5) * cell * canvas.width / wide);
    const y = Math.floor((i + 0.5) * cell * canvas.height / high);
    return [...ink.getImageData(x, y, 1, 1).data];
  }));
})"""


def test_the_matrices_show_the_weights_in_their_order(live):
    push(live, "Shuffle all")
    other = permute_mlp(network(), orders_in(live))
    linears = [other.linear1, other.linear2, other.output]
    maps = live.locator(".mcw-matrix > canvas")
    expect(maps).to_have_count(3)
    for i, layer in enumerate(linears):
        sizes = json.dumps([*layer.weight.shape])
        maps.nth(i).evaluate("(canvas, sizes) => (canvas.dataset.sizes = sizes)", sizes)
    scale = slider().payload["scale"]
    low, zero, high = (np.array(c) for c in ((176, 78, 0), (246, 246, 246), (0, 88, 164)))
    for found, layer in zip(maps.evaluate_all(COLOURS), linears, strict=True):
        share = np.clip(layer.weight.detach().double().numpy() / scale, -1, 1)[..., None]
        expected = zero + np.abs(share) * (np.where(share < 0, low, high) - zero)
        pixels = np.array(found)
        assert (pixels[..., 3] == 255).all()
        assert np.abs(pixels[..., :3] - expected).max() <= 1


ARRIVED = "[role=group].mcw:not([data-moving])"
WATCH = """row => {
  window.heights = [Number(row.getAttribute("y"))];
  new MutationObserver(() => window.heights.push(Number(row.getAttribute("y"))))
    .observe(row, { attributes: true, attributeFilter: ["y"] });
}"""


def test_the_units_travel_with_what_follows_them(running, tmp_path):
    with open_page(running, write_page(tmp_path, slider().to_html())) as (page, record):
        row = page.locator(".mcw-f0 rect:not(.mcw-halo)").first
        push(page, "Back")
        page.wait_for_selector(ARRIVED)
        row.evaluate(WATCH)
        push(page, "Sort by size")  # the largest unit, which is followed, goes to slot 0
        page.wait_for_selector(ARRIVED)
        heights = page.evaluate("window.heights")
        assert all(a >= b for a, b in pairwise(heights))
        assert len({*heights}) > 4
        # the marks, drawn around them, have arrived at the first row and the first column
        canvas = page.locator(".mcw-matrix > canvas")
        mark, box = row.bounding_box(), canvas.first.bounding_box()
        assert mark["y"] == pytest.approx(box["y"] - 2.5, abs=0.6)
        assert mark["width"] == pytest.approx(box["width"] + 5, abs=0.6)
        mark = page.locator(".mcw-f0 rect:not(.mcw-halo)").nth(1).bounding_box()
        box = canvas.nth(1).bounding_box()
        assert mark["x"] == pytest.approx(box["x"] - 2.5, abs=0.6)
        assert mark["height"] == pytest.approx(box["height"] + 5, abs=0.6)
        record.check()


def test_a_press_during_the_journey_goes_on_from_there(running, tmp_path):
    with open_page(running, write_page(tmp_path, slider().to_html())) as (page, record):
        moving = page.evaluate("""() => {
          const press = (name) => [...document.querySelectorAll("button")].find(
            (one) => one.textContent === name).click();
          const root = document.querySelector("[role=group].mcw");
          press("Sort by size");
          return new Promise((done) => setTimeout(() => {
            const before = "moving" in root.dataset;
            press("Back");
            done([before, "moving" in root.dataset]);
          }, 200));
        }""")
        assert moving == [True, True]
        page.wait_for_selector(ARRIVED)
        assert numbers(root(page))["distance"] == 0
        rows = page.locator(".mcw-follow rect:not(.mcw-halo)")
        order = [by_size(network())[0][0], by_size(network())[1][0]]
        place = page.locator(".mcw-place")
        for i, unit in enumerate(order):
            assert place.nth(i).inner_text().endswith(f"is in slot {unit}")
            canvas = page.locator(".mcw-matrix > canvas").nth(i).bounding_box()
            top = canvas["y"] + unit * canvas["height"] / WIDTHS[i]
            assert rows.nth(2 * i).bounding_box()["y"] == pytest.approx(top - 2.5, abs=0.6)
        record.check()


def test_reduced_motion_puts_the_units_there_at_once(still):
    push(still, "Shuffle all")
    assert still.locator("[data-moving]").count() == 0


def test_a_kernel_moves_the_units(live):
    orders = random_orders(network(), 9)
    live.evaluate("orders => window.model.set('permutation', orders)", orders)
    assert numbers(root(live))["distance"] == pytest.approx(length(network(), orders), rel=1e-9)
    live.evaluate("window.model.set('t', 0.25)")
    loss, _ = on_line(orders, 0.25, slider().indices)
    assert numbers(root(live))["loss"] == pytest.approx(loss, rel=1e-5)
    assert live.evaluate("window.model.saved") == []
    live.evaluate("window.close_widget()")
    assert live.evaluate("Object.values(window.heard).flat().length") == 0


def test_the_curve_is_that_of_the_order_shown(live):
    push(live, "Sort by size")
    chart = live.locator("svg.mcw-chart")
    expect(chart).to_have_attribute("aria-label", re.compile("barrier"))
    expect(live.locator(".mcw-charts.mcw-stale")).to_have_count(0)
    points = chart.locator("polyline").get_attribute("points").split()
    ys = [float(point.split(",")[1]) for point in points]
    assert len(ys) == 41
    losses = [on_line(orders_in(live), t / 40, slider().indices)[0] for t in range(41)]
    fit = np.polyfit(losses, ys, 1)
    assert np.abs(np.polyval(fit, losses) - ys).max() < 0.3
    barrier = max(x - (1 - i / 40) * losses[0] - i / 40 * losses[-1] for i, x in enumerate(losses))
    assert f"barrier {barrier:.3f}"[:12] in chart.get_attribute("aria-label")
    push(live, "Back")
    expect(chart).to_have_attribute("aria-label", re.compile("no barrier"))


def test_one_hidden_layer_standardised_without_bias(running, tmp_path):
    model = trained(0, width=7, bias=False, standardize=True)
    one = PermutationSlider(model, digits(), images=33, split="train", shown=4)
    file = write_page(tmp_path, one.to_html())
    with open_page(running, file, reduced_motion="reduce") as (page, record):
        assert page.get_by_role("button", name="Shuffle").all_inner_texts() == [
            "Shuffle hidden layer"
        ]
        page.get_by_role("slider").press("Home")
        with torch.no_grad():
            x, y = digits().train.x[one.indices], digits().train.y[one.indices]
            loss = F.cross_entropy(logits(model, x), y).item()
        assert numbers(root(page))["loss"] == pytest.approx(loss, rel=1e-6)
        assert page.locator(".mcw-case").count() == 4
        assert "7! = 5040" in page.get_by_role("status").first.inner_text()
        assert "bias" not in root(page).inner_text()
        record.check()


def test_without_scripts_the_table_stays(running, tmp_path):
    file = write_page(tmp_path, slider().to_html())
    with open_page(running, file, scripts=False) as (page, record):
        expect(page.locator("table")).to_have_count(1)
        expect(page.locator("input, canvas, svg, button")).to_have_count(0)
        record.check()


def test_two_on_a_page_leave_one_another_alone(running, tmp_path):
    html = slider().to_html()
    file = write_page(tmp_path, html, html)
    with open_page(running, file, reduced_motion="reduce") as (page, record):
        expect(root(page)).to_have_count(2)
        before = numbers(root(page).nth(1))
        page.get_by_role("button", name="Back").first.click()
        page.get_by_role("slider").first.press("End")
        assert numbers(root(page).nth(1)) == before
        assert numbers(root(page).first)["distance"] == 0
        record.check()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000])
def test_pages_are_accessible_and_fit(running, tmp_path, theme, width):
    file = write_page(tmp_path, slider().to_html(), theme=theme)
    with open_page(running, file, width=width) as (page, record):
        expect(page.locator("svg.mcw-chart")).to_have_count(1)
        assert axe_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for canvas in page.locator(".mcw-matrix > canvas").all():
            box = canvas.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert re.match("Heat map of the weights, .* × ", canvas.get_attribute("aria-label"))
        # every control is reached by the keyboard, with a visible ring
        controls = page.locator(".mcw button:visible, .mcw input")
        page.keyboard.press("Tab")
        for control in controls.all():
            expect(control).to_be_focused()
            assert control.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
            page.keyboard.press("Tab")
        record.check()
