"""The feature slider without a browser: its payload, its errors, its table."""

from __future__ import annotations

import copy
import json
import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.viz.feature_slider import FeatureSlider, feature_payload, feature_stages
from mcbook.viz.network_slider import network_payload
from mcbook.viz.widget import asset
from tests.viz.slider_cases import digits, line, trained
from tests.viz.test_network_slider import decoded

WIDTHS = (12, 9)
STAGES = ["layer 1 before ReLU", "layer 1", "layer 2 before ReLU", "layer 2", "logits"]


@cache
def paths() -> dict[str, mc.LinearPath]:
    """Two by name: of two trainings, and from one start."""
    a = trained(0, width=WIDTHS)
    return {
        "independent": mc.LinearPath(a, trained(1, width=WIDTHS)),
        "same start": mc.LinearPath(a, trained(2, 0, width=WIDTHS)),
    }


@cache
def slider() -> FeatureSlider:
    """One that is only read."""
    return FeatureSlider(paths(), digits())


def features(path: mc.LinearPath, alpha: float, x: Tensor) -> list[np.ndarray]:
    """What every linear layer and every ReLU puts out, run module by module in float64."""
    model = copy.deepcopy(path.model_at(0.0)).double()
    a, b = (path.at(t) for t in (0.0, 1.0))
    model.load_state_dict({k: (1 - alpha) * a[k].double() + alpha * b[k].double() for k in a})
    found = []
    with torch.no_grad():
        h = x.double()
        for module in model:
            h = module(h)
            if isinstance(module, nn.Linear | nn.ReLU):
                found.append(h.numpy())
    return found


def compared(path: mc.LinearPath, alpha: float, x: Tensor) -> list[list[dict[str, float | None]]]:
    """Per stage and image the cosine, the coefficient and that of the ends, one at a time."""
    own, a, b = (features(path, t, x) for t in (alpha, 0.0, 1.0))
    found = []
    for stage in range(len(own)):
        rows = []
        for m, u, v in zip(own[stage], a[stage], b[stage], strict=True):
            t = (1 - alpha) * u + alpha * v
            there, ends = m.any() and t.any(), u.any() and v.any()
            rows.append(
                {
                    "cos": m @ t / math.sqrt((m @ m) * (t @ t)) if there else None,
                    "coefficient": m @ t / (t @ t) if there else None,
                    "baseline": u @ v / math.sqrt((u @ u) * (v @ v)) if ends else None,
                }
            )
        found.append(rows)
    return found


def mean(rows: list[dict[str, float | None]], key: str) -> tuple[float, int]:
    """Of what is there, and how many."""
    some = [row[key] for row in rows if row[key] is not None]
    return float(np.mean(some)) if some else math.nan, len(some)


@cache
def dying() -> mc.LinearPath:
    """One whose first layer is silent for some images at B, and for others between A and B."""
    a, b = (copy.deepcopy(trained(seed, width=2)) for seed in (0, 1))
    with torch.no_grad():
        x = digits().test.x.flatten(1)
        for model, share in ((a, 0.2), (b, 0.5)):
            plain = x @ model.linear1.weight.T
            model.linear1.bias.copy_(-plain.quantile(share, 0))
    return mc.LinearPath(a, b)


@cache
def dead() -> mc.LinearPath:
    """One whose first layer is silent at B, whatever the image."""
    a, b = (copy.deepcopy(trained(seed, width=6)) for seed in (0, 1))
    with torch.no_grad():
        b.linear1.bias.fill_(-1000.0)
    return mc.LinearPath(a, b)


def test_the_payload_is_that_of_the_network_slider_and_the_stages():
    payload = feature_payload(paths(), digits(), title="a")
    same = network_payload(paths(), digits(), 24, title="a", shown=24)
    assert {key: value for key, value in payload.items() if key != "stages"} == same
    assert [stage["name"] for stage in payload["stages"]] == STAGES
    assert [stage["layer"] for stage in payload["stages"]] == [0, 0, 1, 1, 2]
    assert [stage["relu"] for stage in payload["stages"]] == [False, True, False, True, False]
    assert len(payload["shown"]) == 24
    assert json.loads(json.dumps(payload)) == payload


def test_layers_without_relu_have_one_stage():
    sizes = {"inputs": 1, "outputs": 1}
    layers = [{**sizes, "relu": False}, {**sizes, "relu": True}, {**sizes, "relu": True}]
    names = [stage["name"] for stage in feature_stages(layers)]
    assert names == [
        "layer 1",
        "layer 2 before ReLU",
        "layer 2",
        "logits before ReLU",
        "logits",
    ]


def test_many_images_are_used_and_some_drawn():
    one = FeatureSlider(line(), digits(), images=60, split="train")
    assert len(one.indices) == 60
    labels = decoded(one.payload["labels"], "u1")
    assert np.array_equal(labels, digits().train.y[one.indices].numpy())
    assert len(set(one.payload["shown"])) == 24
    assert [int(labels[i]) for i in one.payload["shown"][:10]] == [*range(10)]
    assert FeatureSlider(line(), digits(), images=[3, 1]).indices == [3, 1]


def test_a_path_of_several_pieces_is_refused():
    class Corner(mc.LinearPath):
        pass

    corner = Corner(trained(0, width=32), trained(1, width=32))
    corner.knots = (0.0, 0.5, 1.0)  # straight all the same
    with pytest.raises(
        mc.IncompatibleError, match=r"straight path between two .* 'b' \(Corner\) of 2 pieces"
    ):
        FeatureSlider({"a": line(), "b": corner}, digits())


def test_a_path_that_bends_is_refused():
    class Arc(mc.LinearPath):
        def at(self, t):
            return super().at(t * t)

    arc = Arc(trained(0, width=32), trained(1, width=32))
    with pytest.raises(mc.IncompatibleError, match=r"straight between its knots.*Arc.*linear1"):
        FeatureSlider(arc, digits())


def test_other_networks_are_refused_in_its_own_name():
    a, b = (mc.build_model("lenet5", mc.load_data("digits", size=32), seed=s) for s in (0, 1))
    with pytest.raises(
        mc.IncompatibleError, match=r"^FeatureSlider expected a multi-layer .*, found Conv2d at"
    ):
        FeatureSlider(mc.LinearPath(a, b), mc.load_data("digits", size=32))
    small = mc.LinearPath(*(mc.build_model("mlp", digits(), width=4, seed=s) for s in (0, 1)))
    with pytest.raises(mc.IncompatibleError, match="found 64-32-10 in 'a' and 64-4-10 in 'b'"):
        FeatureSlider({"a": line(), "b": small}, digits())
    with pytest.raises(mc.IncompatibleError, match="from 256 pixels to 10 classes"):
        FeatureSlider(line(), mc.load_data("digits", size=16))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 to 5 paths on one slider, found 0"):
        FeatureSlider({}, digits())
    with pytest.raises(ValueError, match=r"step in \(0, 0\.02\], found 0\.1"):
        FeatureSlider(line(), digits(), step=0.1)
    with pytest.raises(ValueError, match="at least 1 image, found 0"):
        FeatureSlider(line(), digits(), images=0)
    with pytest.raises(ValueError, match="'train' or 'test', found 'all'"):
        FeatureSlider(line(), digits(), split="all")
    with pytest.raises(ValueError, match="two different names for the ends"):
        FeatureSlider(line(), digits(), ends=("A", "A"))


def rows_of(table: str) -> dict[str, list[str]]:
    """The cells of every row by its name."""
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', table)
    cells = {name.replace("\u00a0", " "): cells for name, cells in rows}
    return {name: re.findall(r"<td>([^<]*)</td>", text) for name, text in cells.items()}


def cells_of(rows: list[dict[str, float | None]]) -> list[str]:
    """What the table says of one path and stage at one α."""
    found = []
    for key, places in (("cos", 4), ("coefficient", 3), ("baseline", 4)):
        value, kept = mean(rows, key)
        few = "" if kept == len(rows) else f" ({kept} of {len(rows)} images)"
        found.append(f"{value:.{places}f}{few}")
    return found


@pytest.mark.parametrize("standardize", [False, True])
def test_the_table_is_what_torch_finds_image_by_image(standardize):
    shown = paths()
    if standardize:
        options = {"width": (7, 5), "standardize": True}
        shown = {"one": mc.LinearPath(trained(0, **options), trained(1, **options))}
    one = FeatureSlider(shown, digits(), images=40, split="train")
    x = digits().train.x[one.indices]
    rows = rows_of(one.table())
    assert len(rows) == 15
    for alpha in (0.25, 0.5, 0.75):
        expected = [compared(path, alpha, x) for path in shown.values()]
        for i, stage in enumerate(STAGES):
            wanted = [cell for each in expected for cell in cells_of(each[i])]
            assert rows[f"{stage}, α = {alpha:.2f}"] == wanted
    for alpha in ("0.25", "0.50", "0.75"):  # the first layer is linear
        assert rows[f"layer 1 before ReLU, α = {alpha}"][:2] == ["1.0000", "1.000"]


def test_columns_are_named_after_paths_and_ends():
    header = re.findall(r'scope="col">([^<]*)', slider().table())
    assert header == [
        "layer",
        *(f"independent: {what}" for what in ("cos", "coefficient", "cos(A, B)")),
        *(f"same start: {what}" for what in ("cos", "coefficient", "cos(A, B)")),
    ]
    one = FeatureSlider(line(), digits(), ends=("A", "π(B)"))
    header = re.findall(r'scope="col">([^<]*)', one.table())
    assert header == ["layer", "cos", "coefficient", "cos(A, π(B))"]
    assert "weights (1 − α) A + α π(B) and the same blend" in one.table()
    assert "means over 24 test images of digits" in one.table()


def test_images_without_features_are_left_out_and_counted():
    one = FeatureSlider(dying(), digits(), images=100)
    x = digits().test.x[one.indices]
    rows, kept = rows_of(one.table()), set()
    for alpha in (0.25, 0.5, 0.75):
        expected = compared(dying(), alpha, x)[1]
        assert rows[f"layer 1, α = {alpha:.2f}"] == cells_of(expected)
        counts = [mean(expected, key)[1] for key in ("cos", "baseline")]
        assert all(0 < count < 100 for count in counts)
        kept.update(counts)
    assert len(kept) > 1
    assert "nan" not in one.table()


def test_no_features_at_all_are_said_to_be_none():
    one = FeatureSlider(dead(), digits())
    cells = rows_of(one.table())["layer 1, α = 0.50"]
    assert cells == ["no features (all zero)"] * 3
    assert "nan" not in one.table() + repr(one)


def test_the_text_says_where_they_agree_least():
    x = digits().test.x[slider().indices]
    told = []
    for name, path in paths().items():
        means = [mean(rows, "cos")[0] for rows in compared(path, 0.5, x)]
        told.append(f"{name} {min(means):.3f} ({STAGES[int(np.argmin(means))]})")
    assert repr(slider()) == (
        "FeatureSlider(64-12-9-10, 24 test images of digits: least mean cos of own features and "
        f"blend at α = 1/2: {', '.join(told)})"
    )


def test_the_same_slider_is_the_same_bytes_and_needs_nothing_else():
    data, _ = slider()._repr_mimebundle_()
    page = data["text/html"].replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|url\(|fetch\(|innerHTML", page)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert len(page) < 90_000
    assert slider().to_html() == FeatureSlider(paths(), digits()).to_html()
    script = str(FeatureSlider._esm)
    assert script.count("export default") == 1
    assert "buildNetworkSlider" not in script
    assert "</script" not in script
    assert "</style" not in asset("feature_slider.css")


def test_the_slider_starts_where_it_is_told_and_leaves_the_path_alone():
    before = {name: value.clone() for name, value in line().at(0.5).items()}
    one = FeatureSlider(line(), digits(), start=0.25, step=0.02)
    assert one.t == 0.25
    assert one.payload["step"] == 0.02
    for name, value in line().at(0.5).items():
        assert torch.equal(value, before[name])
    assert mc.FeatureSlider is FeatureSlider
