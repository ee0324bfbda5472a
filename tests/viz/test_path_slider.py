"""The path slider without a browser: its payload, its HTML, its traits."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import traitlets

import mcbook as mc
from mcbook.viz.path_slider import PathSlider, path_payload
from mcbook.viz.widget import asset, fallback_table, rounded, script_json


def profile(
    loss: list[float], t: list[float] | None = None, splits: tuple[str, ...] = ("train", "test")
) -> mc.Profile:
    """A made-up profile: the given loss on every split, accuracy one minus a tenth of it."""
    table = {"t": np.linspace(0, 1, len(loss)) if t is None else t}
    for split in splits:
        table[f"{split}_loss"] = loss
        table[f"{split}_accuracy"] = [1 - x / 10 for x in loss]
    return mc.Profile(pd.DataFrame(table), "none", "linear", "digits")


PEAK = profile([0.1, 0.5, 2.0, 0.7, 0.3])


def test_payload_holds_the_profile_and_its_barriers():
    (entry,) = path_payload(PEAK)["profiles"]
    assert entry["t"] == [0, 0.25, 0.5, 0.75, 1]
    assert entry["kind"] == "linear"
    assert list(entry["splits"]) == ["test", "train"]  # the split under discussion first
    test = entry["splits"]["test"]
    assert test["loss"] == [0.1, 0.5, 2.0, 0.7, 0.3]
    assert test["barrier"]["loss"] == {"t": 0.5, "value": 1.8}
    assert test["barrier"]["accuracy"] == {"t": 0.5, "value": 0.18}


def test_payload_is_rounded_to_six_digits():
    (entry,) = path_payload(profile([0.12345678, 1234.5678, 0.00012345678]))["profiles"]
    assert entry["splits"]["test"]["loss"] == [0.123457, 1234.57, 0.000123457]
    assert rounded(2 / 3) == 0.6667
    with pytest.raises(ValueError, match="expected a finite number, found nan"):
        rounded(float("nan"))


def test_rows_are_sorted_by_t():
    (entry,) = path_payload(profile([1.0, 3.0, 2.0], t=[0.0, 1.0, 0.5]))["profiles"]
    assert entry["t"] == [0, 0.5, 1]
    assert entry["splits"]["test"]["loss"] == [1, 2, 3]


def test_one_split_is_enough():
    payload = path_payload(profile([0.0, 1.0, 0.0], splits=("train",)))
    assert payload["split"] == "train"


@pytest.mark.parametrize(
    ("profiles", "options", "message"),
    [
        ({}, {}, "1 to 5 profiles on one slider, found 0"),
        ({str(i): PEAK for i in range(6)}, {}, "found 6"),
        (PEAK, {"split": "validation"}, r"'validation', found test, train"),
        (PEAK, {"step": 0.05}, r"step in \(0, 0.02\], found 0.05"),
        (profile([1.0, 2.0], t=[0.1, 1.0]), {}, "t from 0 to 1, found 0.1 to 1"),
        (profile([1.0, float("nan"), 1.0]), {}, "found nan in test_loss at t = 0.5"),
        (
            {"a": PEAK, "b": profile([1.0, 1.0], splits=("train",))},
            {"split": "test"},
            "found train in 'b'",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(profiles, options, message):
    with pytest.raises(ValueError, match=message):
        PathSlider(profiles, **options)


def test_a_table_of_something_else_is_refused():
    class Other:
        table = pd.DataFrame({"epoch": [1]})

    with pytest.raises(ValueError, match=r"expected a profile with the columns t .* found epoch"):
        PathSlider(Other())


def test_bundle_has_the_live_view_the_page_and_plain_text():
    slider = PathSlider(PEAK)
    data, _ = slider._repr_mimebundle_()
    assert set(data) == {
        "text/plain",
        "text/html",
        "application/vnd.jupyter.widget-view+json",
    }
    assert data["text/plain"] == repr(slider)
    assert repr(slider) == "PathSlider(linear path: test loss barrier 1.8 at t = 0.50)"
    # ipywidgets 7 would bypass the bundle
    assert PathSlider._ipython_display_ is None


def test_html_is_the_same_at_every_run_and_differs_with_its_content():
    one, again = PathSlider(PEAK).to_html(), PathSlider(PEAK).to_html()
    other = PathSlider(profile([0.1, 0.5, 2.1, 0.7, 0.3])).to_html()
    name = re.compile(r'data-mcw="([0-9a-f]{12})"')
    assert one == again
    assert name.findall(one) != name.findall(other)


def test_html_needs_nothing_from_elsewhere():
    page = PathSlider(PEAK).to_html().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|import\s|fetch\(", page)
    assert "innerHTML" not in page
    assert len(page) < 40_000


def test_hostile_text_stays_text():
    nasty = "</script><script>alert(1)</script><!--"
    slider = PathSlider({nasty: PEAK, "b": PEAK}, title=nasty)
    page = slider.to_html()
    assert nasty not in page
    assert page.count("</script>") == 1
    assert "&lt;/script&gt;" in slider.table()
    inside = re.search(r'mount\(render, "\w+", (.*)\);', page)[1]
    assert "<" not in inside
    assert json.loads(inside)["payload"]["title"] == nasty


def test_script_json_refuses_what_json_lacks():
    with pytest.raises(ValueError, match="JSON"):
        script_json({"x": float("inf")})


def test_assets_cannot_end_their_elements():
    for name in ("slider.js", "chart.js", "network.js", "path_slider.js", "network_slider.js"):
        assert "</script" not in asset(name)
        assert "innerHTML" not in asset(name)
    for name in ("slider.css", "network_slider.css"):
        assert "</style" not in asset(name)


def test_table_interpolates_and_prints_the_definition():
    table = PathSlider(PEAK).table()
    assert "<td>0.1000</td><td>99.0 %</td>" in table
    # halfway between 0.5 at 0.25 and 2.0 at 0.5 is t = 0.375; at 0.4 it is 1.4
    assert '<th scope="row">0.4</th><td>1.400</td><td>86.0 %</td>' in table
    assert "max over t of L(t) − [(1 − t) L(0) + t L(1)]: test 1.8; train 1.8." in table
    assert table.count('<th scope="row">') == 11


def test_table_of_several_paths_has_a_column_each():
    flat = profile([0.1, 0.2, 0.2, 0.3, 0.3])
    table = PathSlider({"as trained": PEAK, "aligned": flat}).table()
    header = re.findall(r'scope="col">([^<]*)', table)
    assert header == [
        "t",
        "as trained, test loss",
        "as trained, test accuracy",
        "aligned, test loss",
        "aligned, test accuracy",
    ]
    assert fallback_table("a", ["b"], []).startswith('<div class="mcw-scroll"')


def test_t_moves_is_heard_and_stays_on_the_path():
    slider = PathSlider(PEAK)
    assert slider.t == 0.5
    heard = []
    slider.observe(lambda change: heard.append(change["new"]), "t")
    slider.t = 0.3
    assert heard == [0.3]
    with pytest.raises(traitlets.TraitError, match=r"expected t in \[0, 1\], found 1.5"):
        slider.t = 1.5
    with pytest.raises(traitlets.TraitError, match=r"found -0\.1"):
        PathSlider(PEAK, start=-0.1)


def test_show_draws_other_profiles():
    slider = PathSlider(PEAK, step=0.02)
    slider.show({"a": PEAK, "b": PEAK}, title="Two")
    assert [entry["name"] for entry in slider.payload["profiles"]] == ["a", "b"]
    assert slider.payload["step"] == 0.02
