"""The retrain control without a front end: its still picture, its button, its errors."""

from __future__ import annotations

import re

import pytest

import mcbook as mc
from mcbook.viz import retrain
from mcbook.viz.retrain import RetrainControl, measure_pair
from tests.viz.slider_cases import digits


@pytest.fixture(scope="module")
def first() -> mc.Profile:
    return measure_pair(digits(), (0, 1), 8, points=5, epochs=1)


def control(first: mc.Profile, **options: object) -> RetrainControl:
    return RetrainControl(digits(), width=8, points=5, profile=first, epochs=1, **options)


def test_pair_is_two_trained_networks_and_the_line_between_them(first):
    a, b = (
        mc.train(
            mc.build_model("mlp", digits(), width=8, seed=s), digits(), epochs=1, seed=s,
            progress=False,
        )
        for s in (0, 1)
    )  # fmt: skip
    expected = mc.profile(mc.LinearPath(a, b), digits(), points=5, progress=False)
    assert first.table.equals(expected.table)


def test_the_page_gets_a_picture_with_words_and_not_a_bare_widget(first):
    bundle = control(first)._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    page = bundle["text/html"]
    assert "<svg" in page
    alt = re.search(r'role="img" aria-label="([^"]+)"', page)[1]
    assert len(alt) > 40
    assert "only where a kernel runs" in page
    assert "Seeds 0 and 1, width 8." in page
    assert RetrainControl._ipython_display_ is None


def test_page_and_text_are_the_same_at_every_run(first):
    one, two = control(first), control(first)
    assert one.still() == two.still()
    assert repr(one) == repr(two)
    assert repr(one).startswith("RetrainControl(width 8, seeds 0 and 1: test loss barrier")


def test_first_result_is_made_when_it_is_not_given(first):
    made = RetrainControl(digits(), width=8, points=5, epochs=1)
    assert made.still() == control(first).still()


def test_pressing_trains_with_the_settings_and_says_so(first, monkeypatch):
    one = control(first)
    seen = []

    def watch(change):
        seen.append((re.sub("<[^>]+>", "", change["new"]), one.button.disabled))

    one.status.observe(watch, "value")
    one.seed_b.value = 7
    one.width_box.value = 16
    one.button.click()
    texts = [text for text, _ in seen]
    assert texts[0] == "Training network A (seed 0, width 16) …"
    assert texts[1] == "Training network B (seed 7, width 16) …"
    assert texts[2] == "Measuring 5 points between them …"
    assert re.match(r"width 16, seeds 0 and 7: test loss barrier \d", texts[3])
    assert all(disabled for _, disabled in seen)
    assert not one.button.disabled
    assert list(one.profiles) == ["width 8, seeds 0 and 1", "width 16, seeds 0 and 7"]
    assert [p["name"] for p in one.slider.payload["profiles"]] == list(one.profiles)
    # the picture for the page stays the first one
    assert one.still() == control(first).still()


def test_only_the_latest_results_stay(first, monkeypatch):
    monkeypatch.setattr(retrain, "measure_pair", lambda *a, **k: first)
    one = control(first)
    for seed in (2, 3, 4, 5, 3):
        one.seed_a.value = seed
        one.button.click()
    assert list(one.profiles) == [f"width 8, seeds {s} and 1" for s in (2, 4, 5, 3)]


def test_errors_are_readable_and_the_button_comes_back(first, monkeypatch):
    def fail(*args, **options):
        raise FloatingPointError("the loss became <nan>")

    monkeypatch.setattr(retrain, "measure_pair", fail)
    one = control(first)
    one.button.click()
    assert 'role="alert"' in one.status.value
    assert "FloatingPointError: the loss became &lt;nan&gt;" in one.status.value
    assert not one.button.disabled
    assert list(one.profiles) == ["width 8, seeds 0 and 1"]


def test_an_interrupted_training_leaves_the_control_whole(first, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(retrain, "measure_pair", interrupt)
    one = control(first)
    one.button.click()
    assert "Interrupted" in one.status.value
    assert not one.button.disabled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (1, 2, 3)}, r"two seeds, one for each network, found \[1, 2, 3\]"),
        ({"width": 0}, "width from 1 to 4096, found 0"),
        ({"width": 2.5}, "found 2.5"),
    ],
)
def test_settings_no_pair_can_have_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RetrainControl(digits(), **options)
