"""The curve slider without a browser: its payload, its errors, its table."""

from __future__ import annotations

import copy
import json
import math
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import mcbook as mc
from mcbook.analysis.planes import LossPlane
from mcbook.analysis.profiles import Profile
from mcbook.paths.bezier import BezierPath
from mcbook.paths.polychain import PolychainPath
from mcbook.viz.curve_payload import curve_payload, plane_payload
from mcbook.viz.curve_slider import CurveSlider
from mcbook.viz.widget import asset
from tests.viz.slider_cases import digits, trained
from tests.viz.test_network_slider import decoded

WIDTHS = (12, 9)
SIZE = {"curve_losses.js", "curve_plane.js", "curve_slider.js", "curve_slider.css"}


@cache
def curves() -> dict[str, BezierPath | PolychainPath]:
    """Two by name that leave from the same A: through other networks as bends."""
    a, b, c = (trained(seed, width=WIDTHS) for seed in (0, 1, 2))
    return {
        "smooth": BezierPath(a, b, [c]),
        "chain": PolychainPath(a, trained(2, 0, width=WIDTHS), [b], [0.0, 0.37, 1.0]),
    }


@cache
def slider() -> CurveSlider:
    """One that is only read."""
    return CurveSlider(curves(), digits(), images=60)


class Plane:
    """The plane of a path by flat vectors, Gram and Schmidt's way."""

    def __init__(self, path):
        self.model = copy.deepcopy(path.model_at(0.0)).double()
        ends = [path.model_at(0.0), path.model_at(1.0)]
        bend = copy.deepcopy(ends[0])
        bend.load_state_dict({name: p[1] for name, p in path.control_points.items()})
        flat = [parameters_to_vector(m.double().parameters()).detach() for m in (*ends, bend)]
        self.a, b, c = flat
        self.length = float((b - self.a).norm())
        self.e1 = (b - self.a) / self.length
        self.foot = float((c - self.a) @ self.e1)
        rest = c - self.a - self.foot * self.e1
        self.height = float(rest.norm())
        self.e2 = rest / self.height

    def score(self, place, images, labels) -> tuple[float, float]:
        """Loss and accuracy of the network that stands there."""
        vector_to_parameters(
            self.a + place[0] * self.e1 + place[1] * self.e2, self.model.parameters()
        )
        with torch.no_grad():
            logits = self.model(images.double())
        right = (logits.argmax(1) == labels).double().mean()
        return F.cross_entropy(logits, labels).item(), right.item()


def on_curve(path, plane: Plane, bend, t: float) -> np.ndarray:
    """Where the curve is that has this bend instead."""
    a, b, c = np.zeros(2), np.array([plane.length, 0.0]), np.asarray(bend)
    if isinstance(path, BezierPath):
        return (1 - t) ** 2 * a + 2 * t * (1 - t) * c + t**2 * b
    knot = path.knots[1]
    if t <= knot:
        return a + t / knot * (c - a)
    return c + (t - knot) / (1 - knot) * (b - c)


def used(one: CurveSlider, split: str = "test") -> tuple[torch.Tensor, torch.Tensor]:
    """The images of the page, and their labels."""
    part = getattr(digits(), split)
    return part.x[one.indices], part.y[one.indices]


def losses(path, one, bend=None, points=61, split="test") -> tuple[np.ndarray, np.ndarray]:
    """t, and the losses along the curve with this bend, one network at a time."""
    plane = Plane(path)
    bend = (plane.foot, plane.height) if bend is None else bend
    ts = np.array(sorted({*np.linspace(0, 1, points).tolist(), *path.knots}))
    found = [plane.score(on_curve(path, plane, bend, t), *used(one, split))[0] for t in ts]
    return ts, np.array(found)


def barrier(ts: np.ndarray, values: np.ndarray) -> float:
    """By its definition."""
    return max(v - ((1 - t) * values[0] + t * values[-1]) for t, v in zip(ts, values, strict=True))


def mean(ts: np.ndarray, values: np.ndarray) -> float:
    """Piece by piece."""
    pieces = zip(ts[:-1], ts[1:], values[:-1], values[1:], strict=True)
    return sum((t - s) * (u + v) / 2 for s, t, u, v in pieces)


# ---------------------------------------------------------------- networks in the page


def test_positions_are_those_of_gram_and_schmidt():
    for entry, path in zip(slider().payload["paths"], curves().values(), strict=True):
        plane = Plane(path)
        assert entry["length"] == pytest.approx(plane.length, rel=1e-6)
        assert entry["bend"] == pytest.approx([plane.foot, plane.height], rel=1e-5)
        assert entry["x"][0] < min(0, plane.foot)
        assert entry["x"][-1] > max(plane.length, plane.foot)
        # room for the bend on both sides of the line, and neither a strip nor a tower
        assert entry["y"][0] < -0.1 * plane.height
        assert entry["y"][-1] > 1.1 * plane.height
        spans = [entry[axis][-1] - entry[axis][0] for axis in "xy"]
        assert 0.69 < spans[1] / spans[0] < 1 / 0.69
    kinds = [(entry["kind"], entry["knot"]) for entry in slider().payload["paths"]]
    assert kinds == [("bezier", 0.5), ("polychain", 0.37)]


def test_the_networks_travel_once_each_bit_for_bit():
    payload = slider().payload
    smooth, chain = (entry["networks"] for entry in payload["paths"])
    # A is the same, and the end of one curve is the bend of the other
    assert len(payload["networks"]) == 4
    assert chain[0] == smooth[0]
    assert chain[2] == smooth[1]
    names = list(curves()["smooth"].control_points)
    assert len(names) == 6
    for entry, path in zip(payload["paths"], curves().values(), strict=True):
        for index, point in zip(entry["networks"], (0, 2, 1), strict=True):
            flat = torch.cat([path.control_points[name][point].reshape(-1) for name in names])
            assert np.array_equal(decoded(payload["networks"][index], "<f4"), flat.numpy())
    images = decoded(payload["images"]["bits"], "u1") / payload["images"]["scale"]
    assert images == pytest.approx(used(slider())[0].reshape(-1).numpy(), abs=1e-7)
    assert decoded(payload["labels"], "u1").tolist() == used(slider())[1].tolist()
    assert json.loads(json.dumps(payload)) == payload


def test_the_plane_is_the_loss_on_the_images_of_the_page():
    for entry, path in zip(slider().payload["paths"], curves().values(), strict=True):
        plane = Plane(path)
        assert (len(entry["x"]), len(entry["y"]), len(entry["loss"])) == (25, 25, 625)
        for i, j in ((0, 0), (24, 0), (3, 11), (12, 20), (24, 24)):
            expected = plane.score((entry["x"][i], entry["y"][j]), *used(slider()))[0]
            assert entry["loss"][25 * j + i] == pytest.approx(expected, rel=2e-3)
        levels = entry["levels"]
        assert 3 <= len(levels) <= 10
        assert levels == sorted(levels)
        assert min(entry["loss"]) < levels[0] < levels[-1] < max(entry["loss"])
        assert all(len(str(level)) <= 6 for level in levels)
        assert entry["own"]


def test_contours_are_close_where_the_loss_spans_little():
    for low, high, wanted in ((0.01, 20, [0.02, 10]), (0.2, 3.2, [0.3, 3]), (0.2, 0.24, [0.21])):
        payload = plane_payload(grid_plane(np.linspace(np.log(low), np.log(high), 6 * 8)))
        levels = payload["paths"][0]["levels"]
        assert 3 <= len(levels) <= 10
        assert set(wanted) <= set(levels)
    flat = plane_payload(grid_plane(np.zeros(48)))
    assert flat["paths"][0]["levels"] == [1.0]


def test_a_plane_may_be_given():
    path = curves()["smooth"]
    plane = mc.analysis.planes.curve_plane(path, digits(), points=7, progress=False)
    payload = curve_payload(path, digits(), plane, images=10)
    entry = payload["paths"][0]
    assert entry["loss"] == pytest.approx(plane.loss.ravel(), rel=1e-3)
    assert (len(entry["x"]), entry["own"]) == (7, False)
    named = curve_payload(curves(), digits(), {"smooth": plane, "chain": None}, images=10)
    assert [one["own"] for one in named["paths"]] == [False, True]
    with pytest.raises(mc.IncompatibleError, match=r"the plane of 'chain', through .*, found one"):
        curve_payload(curves(), digits(), {"chain": plane})
    with pytest.raises(LookupError, match="unknown path 'chian'; did you mean 'chain'"):
        curve_payload(curves(), digits(), {"chian": plane})
    with pytest.raises(ValueError, match="a mapping with the names smooth and chain, found one"):
        curve_payload(curves(), digits(), plane)
    with pytest.raises(ValueError, match="a plane of the train loss, found test"):
        curve_payload(path, digits(), plane, split="train")
    with pytest.raises(TypeError, match="expected a plane"):
        curve_payload(path, digits(), plane.loss)


def test_standardised_networks_without_bias():
    options = {"width": (7, 5), "standardize": True, "bias": False}
    path = BezierPath(*(trained(s, **options) for s in (0, 1)), [trained(2, **options)])
    one = CurveSlider(path, digits(), images=[3, 1, 4], split="train", ends=("A", "π(B)"))
    assert one.indices == [3, 1, 4]
    entry = one.payload["paths"][0]
    a = trained(0, **options).state_dict()
    stored = [a["standardize.mean"].tolist(), a["standardize.std"].tolist()]
    assert np.ravel(entry["moments"]) == pytest.approx(np.ravel(stored))
    expected = Plane(path).score((entry["x"][5], entry["y"][9]), *used(one, "train"))[0]
    assert entry["loss"][25 * 9 + 5] == pytest.approx(expected, rel=2e-3)
    path.control_points["standardize.mean"] = path.control_points["standardize.mean"].clone()
    path.control_points["standardize.mean"][1] += 1
    with pytest.raises(mc.IncompatibleError, match="one standardisation along the path, found"):
        CurveSlider(path, digits())


def test_paths_without_exactly_one_bend_are_refused():
    a, b, c = (trained(seed, width=WIDTHS) for seed in (0, 1, 2))
    for path, found in (
        (mc.LinearPath(a, b), "'path', a LinearPath with 0 bends"),
        (BezierPath(a, b, [c, c]), "'path', a BezierPath with 2 bends"),
        (PolychainPath(a, b, 3), "'path', a PolychainPath with 3 bends"),
    ):
        with pytest.raises(mc.IncompatibleError, match=f"with one bend, found {found}"):
            CurveSlider(path, digits())
    for bends in (1, [a]):
        with pytest.raises(ValueError, match="found bend on the line through A and B"):
            CurveSlider(BezierPath(a, b, bends), digits())
    with pytest.raises(TypeError, match="expected a path with one bend"):
        CurveSlider([a, b], digits())


def test_other_networks_are_refused_in_its_own_name():
    large = mc.load_data("digits", size=32)
    nets = [mc.build_model("lenet5", large, seed=s) for s in (0, 1, 2)]
    with pytest.raises(
        mc.IncompatibleError, match=r"^CurveSlider expected a multi-layer .*of_plane\), found Conv"
    ):
        CurveSlider(BezierPath(*nets[:2], nets[2:]), large)
    nets = [mc.build_model("mlp", digits(), width=4, seed=s) for s in (0, 1, 2)]
    small = BezierPath(*nets[:2], nets[2:])
    with pytest.raises(mc.IncompatibleError, match="64-12-9-10 in 'a' and 64-4-10 in 'b'"):
        CurveSlider({"a": curves()["smooth"], "b": small}, digits())
    with pytest.raises(mc.IncompatibleError, match="from 256 pixels to 10 classes"):
        CurveSlider(small, mc.load_data("digits", size=16))


def test_what_does_not_fit_is_refused():
    path = curves()["smooth"]
    with pytest.raises(ValueError, match="1 to 5 paths on one slider, found 0"):
        CurveSlider({}, digits())
    with pytest.raises(ValueError, match=r"step in \(0, 0\.02\], found 0\.1"):
        CurveSlider(path, digits(), step=0.1)
    with pytest.raises(ValueError, match="at least 1 image, found 0"):
        CurveSlider(path, digits(), images=0)
    with pytest.raises(ValueError, match="expected indices of the 500 test images, found"):
        CurveSlider(path, digits(), images=[])
    with pytest.raises(ValueError, match="'train' or 'test', found 'all'"):
        CurveSlider(path, digits(), split="all")
    with pytest.raises(ValueError, match="two different names for the ends"):
        CurveSlider(path, digits(), ends=("A", "A"))
    with pytest.raises(TypeError, match="expected data"):
        CurveSlider(path, digits().test)


def test_the_table_is_what_torch_finds_network_by_network():
    header, rows = table_of(slider())
    assert header == [
        "t",
        *(f"smooth: {what}" for what in ("curve, loss", "curve, accuracy")),
        *(f"smooth: straight line, {what}" for what in ("loss", "accuracy")),
        *(f"chain: {what}" for what in ("curve, loss", "curve, accuracy")),
        *(f"chain: straight line, {what}" for what in ("loss", "accuracy")),
    ]
    assert list(rows) == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    for k, path in enumerate(curves().values()):
        plane = Plane(path)
        for t, cells in rows.items():
            for j, place in enumerate(
                (
                    on_curve(path, plane, (plane.foot, plane.height), float(t)),
                    (float(t) * plane.length, 0.0),
                )
            ):
                loss, accuracy = plane.score(place, *used(slider()))
                said = cells[4 * k + 2 * j : 4 * k + 2 * j + 2]
                assert float(said[0]) == pytest.approx(loss, rel=6e-4)
                assert float(said[1].removesuffix(" %")) == pytest.approx(100 * accuracy, abs=0.051)


def test_the_text_says_the_barriers():
    told = []
    for (name, path), kind in zip(curves().items(), ("bezier", "polychain"), strict=True):
        plane = Plane(path)
        knot = 0.5 if kind == "bezier" else path.knots[1]
        both = [
            barrier(*losses(path, slider(), bend)) for bend in (None, (knot * plane.length, 0.0))
        ]
        told.append(f"{name}: {kind} curve {both[0]:.3g}, straight line {both[1]:.3g}")
        assert (
            f"{name}: curve {both[0]:.3g}; {name}: straight line {both[1]:.3g}" in slider().table()
        )
    assert repr(slider()) == (
        f"CurveSlider(64-12-9-10, 60 test images of digits: loss barrier of {'; '.join(told)})"
    )


def test_the_same_slider_is_the_same_bytes_and_needs_nothing_else(same_random_state):
    path = curves()["smooth"]
    before = {name: value.clone() for name, value in path.control_points.items()}
    one = CurveSlider(path, digits())
    data, _ = one._repr_mimebundle_()
    page = data["text/html"].replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|url\(|fetch\(|innerHTML", page)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert len(page) < 120_000
    assert sum(len(asset(name)) for name in SIZE) < 40_000
    assert one.to_html() == CurveSlider(path, digits()).to_html()
    script = str(CurveSlider._esm)
    assert script.count("export default") == 1
    assert "</script" not in script
    assert "</style" not in asset("curve_slider.css")
    assert (one.t, one.payload["step"]) == (0.5, 0.01)
    for name, value in path.control_points.items():
        assert torch.equal(value, before[name])


# ---------------------------------------------------------------- a plane alone


def grid_plane(logs, places=None, **options) -> LossPlane:
    """A made-up plane of 6 rows and 8 columns; `logs`: the logarithms of the loss, flat."""
    x, y = np.linspace(-1, 6, 8), np.linspace(-1, 4, 6)
    loss = np.exp(np.reshape(logs, (6, 8)))
    facts = {"split": "test", "normalization": "none", "data_name": "dots"} | options
    places = places or {"A": (0.0, 0.0), "B": (5.0, 0.0), "bend": (2.0, 3.0)}
    return LossPlane(x, y, loss, 1 / (1 + loss), places, dict.fromkeys(places, (0.0, 0.0)), **facts)


def bumpy(seed: int = 0, **options) -> LossPlane:
    """A random one."""
    return grid_plane(np.random.default_rng(seed).normal(size=48), **options)


def read(plane: LossPlane, x: float, y: float) -> tuple[float, float]:
    """Loss and accuracy between the four points around it, by hand."""
    i = min(int(np.floor(x - plane.x[0])), 6)
    j = min(int(np.floor(y - plane.y[0])), 4)
    s, r = x - plane.x[i], y - plane.y[j]
    found = []
    for values in (np.log(plane.loss), plane.accuracy):
        low = (1 - s) * values[j, i] + s * values[j, i + 1]
        high = (1 - s) * values[j + 1, i] + s * values[j + 1, i + 1]
        found.append((1 - r) * low + r * high)
    return math.exp(found[0]), found[1]


def made_up(kind: str = "bezier", seed: int = 3) -> Profile:
    """A profile of random numbers."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame({"t": np.linspace(0, 1, 11)})
    table["test_loss"], table["test_accuracy"] = random.uniform(1, 2, 11), random.uniform(0, 1, 11)
    return Profile(table, "reset", kind, "dots")


def table_of(one: CurveSlider) -> tuple[list[str], dict[str, list[str]]]:
    """Header and rows of the fallback table."""
    text = one.table()
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', text)
    cells = {name: re.findall(r"<td>([^<]*)</td>", row) for name, row in rows}
    return re.findall(r'scope="col">([^<]*)', text), cells


def test_of_plane_reads_what_was_not_measured_off_the_grid():
    plane = bumpy()
    for kind in ("bezier", "polychain"):
        one = CurveSlider.of_plane(plane, kinds=kind)
        assert one.indices == []
        entry = one.payload["paths"][0]
        assert (entry["kind"], entry["knot"], entry["length"]) == (kind, 0.5, 5.0)
        assert entry["loss"] == pytest.approx(plane.loss.ravel(), rel=1e-3)
        assert entry["accuracy"] == pytest.approx(plane.accuracy.ravel(), rel=1e-3)
        assert not {"fitted", "line", "networks"} & {*entry, *one.payload}
        for t, cells in table_of(one)[1].items():
            t = float(t)
            smooth = np.array([2 * t * (1 - t) * 2 + 5 * t**2, 2 * t * (1 - t) * 3])
            corner = np.array([4 * t, 6 * t]) if t < 0.5 else np.array([6 * t - 1, 6 - 6 * t])
            curve = read(plane, *(smooth if kind == "bezier" else corner))
            line = read(plane, 5 * t, 0.0)
            said = [float(cell.removesuffix(" %")) for cell in cells]
            assert said[0::2] == pytest.approx([curve[0], line[0]], rel=6e-4)
            assert said[1::2] == pytest.approx([100 * curve[1], 100 * line[1]], abs=0.051)


def test_of_plane_takes_what_was_measured():
    planes = {"one": bumpy(), "two": bumpy(1)}
    fitted, line = made_up("polychain"), made_up("linear", 4)
    one = CurveSlider.of_plane(planes, {"two": fitted}, {"two": line, "one": None}, start=0.25)
    assert one.t == 0.25
    first, second = one.payload["paths"]
    assert (first["kind"], second["kind"]) == ("bezier", "polychain")
    assert "fitted" not in first
    for what, given in (("fitted", fitted), ("line", line)):
        assert second[what]["t"] == pytest.approx(given.table["t"])
        assert second[what]["loss"] == pytest.approx(given.table["test_loss"], rel=1e-5)
        assert second[what]["accuracy"] == pytest.approx(given.table["test_accuracy"], rel=1e-5)
    rows = table_of(one)[1]["0.50"]
    middle = [given.table["test_loss"][5] for given in (fitted, line)]
    assert [float(rows[i]) for i in (4, 6)] == pytest.approx(middle, rel=6e-4)
    barriers = f"two: polychain curve {fitted.barrier():.3g}, straight line {line.barrier():.3g}"
    assert barriers in repr(one)
    assert "CurveSlider(8 x 6 grid, the test images of dots: " in repr(one)
    both = plane_payload(planes, kinds="polychain")
    assert [entry["kind"] for entry in both["paths"]] == ["polychain", "polychain"]
    both = plane_payload(planes, {"two": fitted}, kinds={"two": "bezier"})
    assert [entry["kind"] for entry in both["paths"]] == ["bezier", "bezier"]


def test_of_plane_refuses_what_does_not_fit():
    a, b, bend = {"A": (0.0, 0.0)}, {"B": (5.0, 0.0)}, {"bend": (2.0, 3.0)}
    for places, found in (
        (a | b, "3 networks, found 2"),
        (a | b | bend | {"D": (1.0, 1.0)}, "3 networks, found 4"),
        (b | a | bend, r"through its ends and its bend"),
        (a | bend | b, r"through its ends and its bend"),
    ):
        with pytest.raises(mc.IncompatibleError, match=found):
            plane_payload(bumpy(places=places))
    with pytest.raises(ValueError, match=r"a grid that holds .* found one of 'curve' from -1 to 6"):
        plane_payload(bumpy(places=a | b | {"bend": (7.0, 3.0)}))
    with pytest.raises(
        ValueError, match=r"a grid that holds .* from 0 to 5, found .* from -1 to 4"
    ):
        plane_payload(bumpy(places=a | b | {"bend": (2.0, 5.0)}))
    hollow = bumpy()
    hollow.loss[2, 2] = np.nan
    with pytest.raises(ValueError, match="a plane of finite numbers, found others in its loss"):
        plane_payload(hollow)
    with pytest.raises(LookupError, match="unknown measurement 'train_loss'"):
        plane_payload(bumpy(split="train"), made_up())
    with pytest.raises(LookupError, match="unknown kind of curve 'linear'"):
        plane_payload(bumpy(), made_up("linear"))
    with pytest.raises(LookupError, match="unknown kind of curve 'bezire'; did you mean 'bezier'"):
        plane_payload(bumpy(), kinds="bezire")
    with pytest.raises(ValueError, match="planes of one split of one data set, found"):
        plane_payload({"a": bumpy(), "b": bumpy(split="train")})
    with pytest.raises(ValueError, match="1 to 5 paths on one slider, found 0"):
        plane_payload({})
    with pytest.raises(TypeError, match="expected a plane"):
        plane_payload(np.zeros((3, 3)))
    with pytest.raises(TypeError, match="expected a profile"):
        plane_payload(bumpy(), made_up().table)
