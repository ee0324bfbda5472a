"""The sliders as a reader meets them: in Chromium, from a file, offline, by keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import expect
from torch.nn import functional as F

import mcbook as mc
from mcbook.viz.network_slider import NetworkSlider
from mcbook.viz.path_slider import PathSlider
from mcbook.viz.retrain import RetrainControl
from tests.browser import Record, axe_violations, browser, open_page
from tests.viz.slider_cases import digits, line, measured, trained, write_page


@pytest.fixture(scope="module")
def running():
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def path_html():
    return PathSlider(measured()).to_html()


@pytest.fixture(scope="module")
def both_html():
    return PathSlider({"as trained": measured(), "spawned": measured(2, 0)}).to_html()


@pytest.fixture(scope="module")
def network():
    return NetworkSlider({"as trained": line(), "spawned": line(2, 0)}, digits())


def numbers(widget) -> dict[str, float]:
    """What the widget says it shows, unrounded."""
    found = widget.evaluate("node => ({...node.dataset})")
    return {key: float(value) for key, value in found.items()}


def at(table, column: str, t: float) -> float:
    return float(np.interp(t, table["t"], table[column]))


def test_path_slider_moves_by_keyboard_and_agrees_with_the_profile(running, tmp_path, path_html):
    table = measured().table
    ends = {column: table[column].to_numpy()[[0, -1]] for column in table}
    with open_page(running, write_page(tmp_path, path_html)) as (page, record):
        slider = page.get_by_role("slider")
        assert slider.get_attribute("min") == "0"
        assert slider.get_attribute("max") == "1"
        assert 0 < float(slider.get_attribute("step")) <= 0.02
        assert slider.get_attribute("data-lm-suppress-shortcuts") == "true"
        assert slider.input_value() == "0.5"
        page.keyboard.press("Tab")
        while not slider.evaluate("node => node === document.activeElement"):
            page.keyboard.press("Tab")
        assert slider.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        root = page.locator("[role=group].mcw")
        heard, t = set(), 0.5
        for key, move in (
            ("ArrowRight", 0.01),
            ("ArrowUp", 0.01),
            ("ArrowLeft", -0.01),
            ("PageUp", 0.1),
            ("Home", -1),
            ("ArrowRight", 0.01),
            ("End", 1),
        ):
            page.keyboard.press(key)
            t = min(1, max(0, t + move))
            shown = numbers(root)
            assert shown["t"] == pytest.approx(t, abs=1e-9)
            loss, accuracy = at(table, "test_loss", t), at(table, "test_accuracy", t)
            assert shown["loss"] == pytest.approx(loss, rel=1e-3)
            assert shown["accuracy"] == pytest.approx(accuracy, rel=1e-3)
            chord = (1 - t) * ends["test_loss"][0] + t * ends["test_loss"][1]
            assert shown["excess"] == pytest.approx(loss - chord, abs=2e-3 * loss)
            said = page.get_by_role("status").inner_text()
            spoken = slider.get_attribute("aria-valuetext")
            for text in (said, spoken):
                assert f"{100 * accuracy:.1f}\u00a0%" in text
                assert re.search(r"\d\.\d{3}", text)
            heard.add(said)
        assert len(heard) == 6  # one place is visited twice
        record.check()


def test_the_drawing_is_where_the_numbers_are(running, tmp_path, path_html):
    table = measured().table
    with open_page(running, write_page(tmp_path, path_html)) as (page, record):
        chart = page.locator("svg.mcw-chart").first
        main = chart.locator("polyline.mcw-main")
        points = [tuple(map(float, p.split(","))) for p in main.get_attribute("points").split()]
        assert len(points) == len(table)
        # the drawn heights are an affine image of the losses
        fit = np.polyfit(table["test_loss"], [y for _, y in points], 1)
        drawn = np.polyval(fit, table["test_loss"])
        assert np.abs(drawn - [y for _, y in points]).max() < 0.3
        # the marker and the thumb stand above one another, at both ends too
        slider = page.get_by_role("slider")
        box = slider.bounding_box()
        for key, t in (("Home", 0), ("End", 1)):
            slider.press(key)
            thumb = box["x"] + 10 + t * (box["width"] - 20)
            line_box = chart.locator(".mcw-now").bounding_box()
            assert line_box["x"] + line_box["width"] / 2 == pytest.approx(thumb, abs=1.5)
        best = table["t"][int(np.argmax(measured().excess("test", "loss")))]
        assert f"barrier {measured().barrier('test', 'loss'):.3g}"[:11] in chart.inner_html()
        assert f"t = {best:.2f}" in page.locator(".mcw-caption").inner_text()
        assert page.locator(".mcw-chord").count() == 2
        record.check()


def test_switching_between_test_and_train(running, tmp_path, path_html):
    table = measured().table
    with open_page(running, write_page(tmp_path, path_html)) as (page, record):
        root = page.locator("[role=group].mcw")
        page.get_by_role("radio", name="train").check()
        assert numbers(root)["loss"] == pytest.approx(at(table, "train_loss", 0.5), rel=1e-3)
        assert "train loss" in page.get_by_role("status").inner_text()
        expect(page.get_by_role("slider")).to_have_attribute(
            "aria-valuetext", re.compile("train loss")
        )
        record.check()


def test_several_paths_share_one_slider(running, tmp_path, both_html):
    tables = {"as trained": measured().table, "spawned": measured(2, 0).table}
    with open_page(running, write_page(tmp_path, both_html)) as (page, record):
        root, slider = page.locator("[role=group].mcw"), page.get_by_role("slider")
        slider.press("ArrowRight")
        for name, split in (("as trained", "test"), ("spawned", "train"), ("as trained", "train")):
            page.get_by_role("radio", name=name).check()
            page.get_by_role("radio", name=split, exact=True).check()
            expected = at(tables[name], f"{split}_loss", 0.51)
            assert numbers(root)["loss"] == pytest.approx(expected, rel=1e-3)
        assert page.locator("svg.mcw-chart").first.locator("polyline").count() == 2
        dashes = (
            page.locator("svg.mcw-chart")
            .first.locator("polyline")
            .evaluate_all("lines => lines.map(line => getComputedStyle(line).strokeDasharray)")
        )
        assert len(set(dashes)) == 2  # colour is not the only difference
        record.check()


def torch_numbers(path: mc.LinearPath, t: float, indices: list[int]) -> tuple[float, float]:
    with torch.no_grad():
        logits = path.model_at(t)(digits().test.x[indices])
        y = digits().test.y[indices]
        return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


def test_network_slider_agrees_with_torch(running, tmp_path, network):
    with open_page(running, write_page(tmp_path, network.to_html())) as (page, record):
        root, slider = page.locator("[role=group].mcw"), page.get_by_role("slider")
        for name, b, start in (("as trained", 1, None), ("spawned", 2, 0)):
            page.get_by_role("radio", name=name).check()
            slider.press("Home")
            for presses, t in ((0, 0.0), (3, 0.03), (30, 0.33), (17, 0.5), (41, 0.91), (9, 1.0)):
                for _ in range(presses):
                    slider.press("ArrowRight")
                loss, accuracy = torch_numbers(line(b, start), t, network.indices)
                shown = numbers(root)
                assert shown["t"] == pytest.approx(t, abs=1e-9)
                assert shown["loss"] == pytest.approx(loss, rel=5e-5)
                assert shown["accuracy"] == pytest.approx(accuracy, abs=1e-6)
                text = page.get_by_role("status").inner_text()
                assert f"{100 * accuracy:.1f}\u00a0%" in text
                assert f"{round(accuracy * 360)} of 360" in text
        record.check()


def test_network_slider_with_standardisation_and_odd_sizes(running, tmp_path):
    options = {"width": (7, 5), "standardize": True}
    path = mc.LinearPath(trained(0, **options), trained(1, **options))
    slider = NetworkSlider(path, digits(), images=33, split="train", shown=7)
    with open_page(running, write_page(tmp_path, slider.to_html())) as (page, record):
        page.get_by_role("slider").press("ArrowLeft")
        with torch.no_grad():
            logits = path.model_at(0.49)(digits().train.x[slider.indices])
            loss = F.cross_entropy(logits, digits().train.y[slider.indices]).item()
        shown = numbers(page.locator("[role=group].mcw"))
        assert shown["loss"] == pytest.approx(loss, rel=5e-5)
        assert page.locator("canvas").count() == 7
        record.check()


def test_the_ends_of_the_network_slider_have_the_names_they_are_given(running, tmp_path):
    slider = NetworkSlider(line(), digits(), images=20, shown=2, ends=("A", "π(A)"))
    with open_page(running, write_page(tmp_path, slider.to_html())) as (page, record):
        assert "weight of network π(A)" in page.get_by_role("slider").get_attribute("aria-label")
        assert page.locator(".mcw-ends span").all_inner_texts() == ["network A", "network π(A)"]
        assert "(1 − t) A + t π(A), and runs" in page.locator(".mcw-caption").inner_text()
        chart = page.locator("svg.mcw-chart")
        chart.wait_for()
        assert re.search(r" at A, .* at π\(A\), barrier", chart.get_attribute("aria-label"))
        record.check()


def test_images_can_be_chosen_by_keyboard_and_say_what_is_seen(running, tmp_path, network):
    with open_page(running, write_page(tmp_path, network.to_html())) as (page, record):
        page.get_by_role("radio", name="as trained").check()
        tiles = page.locator(".mcw-tile input")
        expect(tiles).to_have_count(20)
        tiles.first.focus()
        tiles.first.press("Space")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(tiles.nth(2)).to_be_checked()
        index = network.payload["shown"][2]
        with torch.no_grad():
            image = digits().test.x[[network.indices[index]]]
            shares = torch.softmax(line().model_at(0.5)(image), 1)[0]
        truth = int(digits().test.y[network.indices[index]])
        seen = int(shares.argmax())
        verdict = "right" if seen == truth else "wrong"
        expect(tiles.nth(2)).to_have_attribute(
            "aria-label", f"image of {truth}: predicted {seen}, {verdict}"
        )
        shown = page.locator(".mcw-share").all_inner_texts()
        assert [float(text) for text in shown] == pytest.approx(shares.tolist(), abs=6e-4)
        # right and wrong differ in their sign and in words, not only in colour
        signs = page.locator(".mcw-verdict b").all_inner_texts()
        labels = tiles.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
        assert [sign == "✓" for sign in signs] == [label.endswith("right") for label in labels]
        record.check()


def test_a_move_of_the_network_is_fast(running, tmp_path, network):
    with open_page(running, write_page(tmp_path, network.to_html())) as (page, _):
        page.wait_for_selector("svg.mcw-chart")
        took = page.evaluate("""() => {
          const slider = document.querySelector("input[type=range]");
          const times = [];
          for (let i = 0; i < 60; i += 1) {
            slider.value = String(i / 100);
            const begun = performance.now();
            slider.dispatchEvent(new Event("input"));
            times.push(performance.now() - begun);
          }
          return times.sort((a, b) => a - b)[30];
        }""")
        # milliseconds; 2 to 4 on a quiet machine, and a move must stay a move on a slow one
        assert took < 250


def test_without_scripts_the_table_stays(running, tmp_path, path_html, network):
    page_file = write_page(tmp_path, path_html, network.to_html())
    with open_page(running, page_file, scripts=False) as (page, record):
        expect(page.locator("table")).to_have_count(2)
        expect(page.locator("input, canvas, svg")).to_have_count(0)
        table = measured().table
        row = page.get_by_role("row", name=re.compile("^0.5 ")).first.inner_text()
        assert f"{at(table, 'test_loss', 0.5):#.4g}" in row
        record.check()
    with open_page(running, page_file) as (page, record):
        expect(page.locator("table")).to_have_count(0)
        expect(page.get_by_role("slider")).to_have_count(2)
        record.check()


def test_a_broken_payload_leaves_the_table(running, tmp_path, path_html):
    broken = path_html.replace('"profiles":', '"profile":')
    with open_page(running, write_page(tmp_path, broken)) as (page, record):
        expect(page.locator("table")).to_have_count(1)
        assert record.errors
        with pytest.raises(AssertionError, match="errors in the page"):
            record.check()


def test_the_same_slider_twice_on_a_page(running, tmp_path, path_html):
    with open_page(running, write_page(tmp_path, path_html, path_html)) as (page, record):
        expect(page.get_by_role("slider")).to_have_count(2)
        page.get_by_role("slider").first.press("End")
        assert page.get_by_role("slider").nth(1).input_value() == "0.5"
        page.get_by_role("radio", name="train").nth(0).check()
        expect(page.get_by_role("radio", name="test").nth(1)).to_be_checked()
        record.check()


def test_different_sliders_on_a_page_leave_one_another_alone(
    running, tmp_path, path_html, both_html, network
):
    parts = (path_html, both_html, network.to_html())
    with open_page(running, write_page(tmp_path, *parts)) as (page, record):
        groups = page.locator("fieldset:has(input[type=radio])")
        expect(groups).to_have_count(5)
        for group in groups.all():
            expect(group.locator("input:checked")).to_have_count(1)
        page.get_by_role("slider").first.press("End")
        values = [slider.input_value() for slider in page.get_by_role("slider").all()]
        assert values == ["1", "0.5", "0.5"]
        record.check()


def test_play_moves_t_and_can_be_paused(running, tmp_path, path_html):
    with open_page(running, write_page(tmp_path, path_html)) as (page, record):
        root = page.locator("[role=group].mcw")
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("document.querySelector('[role=group].mcw').dataset.t > 0.55")
        page.get_by_role("button", name="Pause").click()
        stopped = numbers(root)["t"]
        page.wait_for_timeout(150)
        assert numbers(root)["t"] == stopped < 1
        record.check()


def test_a_value_is_read_out_once(running, tmp_path, path_html):
    with open_page(running, write_page(tmp_path, path_html)) as (page, record):
        said = page.get_by_role("status")
        expect(said).to_have_attribute("aria-live", "polite")
        page.get_by_role("slider").focus()  # now aria-valuetext says it
        expect(said).to_have_attribute("aria-live", "off")
        page.keyboard.press("ArrowRight")
        expect(said).to_have_attribute("aria-live", "off")
        page.get_by_role("radio", name="train").check()
        expect(said).to_have_attribute("aria-live", "polite")
        page.get_by_role("button", name="Play").click()
        expect(said).to_have_attribute("aria-live", "off")
        page.get_by_role("button", name="Pause").click()
        expect(said).to_have_attribute("aria-live", "polite")
        record.check()


def test_the_page_rounds_as_the_table_does(running, tmp_path):
    losses = [0.05, 0.9, 0.12153]  # to four digits, then to three, the last would be 0.121
    table = {"t": [0.0, 0.5, 1.0], "test_loss": losses, "test_accuracy": [0.9, 0.7, 0.9]}
    html = PathSlider(mc.Profile(pd.DataFrame(table), "none", "linear", "digits")).to_html()
    with open_page(running, write_page(tmp_path, html)) as (page, record):
        page.get_by_role("slider").press("End")
        assert "0.122" in page.get_by_role("status").inner_text()
        record.check()


def test_reduced_motion_hides_the_play_button(running, tmp_path, path_html):
    file = write_page(tmp_path, path_html)
    with open_page(running, file, reduced_motion="reduce") as (page, _):
        expect(page.locator(".mcw-play")).to_be_hidden()
        expect(page.get_by_role("slider")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000])
def test_pages_are_accessible_and_fit(running, tmp_path, both_html, network, theme, width):
    first = mc.profile(line(), digits(), points=5, progress=False)
    control = RetrainControl(digits(), profile=first)
    parts = (both_html, network.to_html(), control.still())
    page_file = write_page(tmp_path, *parts, theme=theme)
    with open_page(running, page_file, width=width) as (page, record):
        expect(page.locator("svg.mcw-chart")).to_have_count(3)
        assert axe_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for output in page.locator(".text_html").all()[:2]:
            # the theme's light grey paper in the dark is overruled
            paper = output.evaluate("node => getComputedStyle(node).backgroundColor")
            assert paper == "rgba(0, 0, 0, 0)"
        for picture in page.locator("svg[role=img]").all():
            assert len(picture.get_attribute("aria-label")) > 40
        record.check()


def test_strangers_are_seen_and_refused(running, tmp_path: Path):
    file = tmp_path / "page.html"
    file.write_text(
        "<script>fetch('https://example.org/x').catch(() => 0); undefinedName();</script>"
    )
    with open_page(running, file) as (page, record):
        page.wait_for_timeout(100)
        assert record.foreign == ["https://example.org/x"]
        assert any("undefinedName" in error for error in record.errors)
        with pytest.raises(AssertionError, match="requests to other hosts"):
            record.check()
    assert Record(frozenset({"127.0.0.1"})).is_foreign("https://example.org")
    assert not Record(frozenset({"127.0.0.1"})).is_foreign("http://127.0.0.1:80/x")
