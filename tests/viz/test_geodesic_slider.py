"""The geodesic slider without a browser: its payload, its lengths, its errors, its table."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch

import mcbook as mc
from mcbook.viz.geodesic_payload import geodesic_payload
from mcbook.viz.geodesic_slider import GeodesicSlider
from mcbook.viz.geodesic_tracks import distances
from mcbook.viz.widget import asset
from tests.viz.slider_cases import digits, trained
from tests.viz.test_network_slider import decoded

WIDTHS = (12, 9)


@cache
def paths() -> dict[str, mc.Path]:
    """One of every kind between the same two networks."""
    a, b, c, d = (trained(seed, width=WIDTHS) for seed in (0, 1, 2, 3))
    return {
        "straight line": mc.LinearPath(a, b),
        "curve": mc.BezierPath(a, b, [c, d]),
        "chain": mc.PolychainPath(a, b, [d, a], [0.0, 1 / 3, 0.1 + 0.7, 1.0]),
    }


@cache
def slider() -> GeodesicSlider:
    """One that is only read."""
    return GeodesicSlider(paths(), digits(), images=60, ends=("A", "π(B)"))


def used(one: GeodesicSlider, split: str = "test") -> tuple[torch.Tensor, torch.Tensor]:
    """The images of the page, and their labels."""
    part = getattr(digits(), split)
    return part.x[one.indices], part.y[one.indices]


def predictions(path: mc.Path, t: float, x: torch.Tensor) -> np.ndarray:
    """The distributions `[n, C]` of the network at t, in double precision."""
    with torch.no_grad():
        return path.model_at(t).double()(x.double()).softmax(1).numpy()


def apart(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Fisher-Rao distances, as angles between square roots."""
    return 2 * np.arccos(np.clip(np.sqrt(p * q).sum(-1), None, 1))


class Walk(NamedTuple):
    """A path, followed network by network."""

    t: np.ndarray
    p: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    length: np.ndarray
    speed: np.ndarray
    own: np.ndarray
    bound: float


def walk(path: mc.Path, x: torch.Tensor, y: torch.Tensor) -> Walk:
    """By the definitions."""
    even = [k / 100 for k in range(101)]
    ts = np.array(
        sorted({*path.knots, *(t for t in even if np.abs(np.subtract(path.knots, t)).min() > 1e-9)})
    )
    p = np.stack([predictions(path, t, x) for t in ts])
    d = apart(p[1:], p[:-1])
    steps = np.sqrt((d**2).mean(1))
    of_truth = p[:, np.arange(len(y)), y.numpy()]
    return Walk(
        ts,
        p,
        -np.log(of_truth).mean(1),
        (p.argmax(2) == y.numpy()).mean(1),
        np.concatenate([[0], steps.cumsum()]),
        steps / np.diff(ts),
        d.sum(0),
        float(np.sqrt((apart(p[0], p[-1]) ** 2).mean())),
    )


@cache
def walks() -> dict[str, Walk]:
    """Along the paths of `slider`, on its images."""
    return {name: walk(path, *used(slider())) for name, path in paths().items()}


# ---------------------------------------------------------------- lengths


def test_distances_are_angles_on_the_sphere_of_radius_two():
    p, q, r = torch.rand(3, 500, 7, dtype=torch.float64, generator=torch.Generator()).unbind()
    p, q, r = (one / one.sum(1, keepdim=True) for one in (p, q, r))
    roots = [one.sqrt() for one in (p, q, r)]
    assert distances(roots[0], roots[1]).numpy() == pytest.approx(apart(p.numpy(), q.numpy()))
    assert torch.equal(distances(roots[0], roots[1]), distances(roots[1], roots[0]))
    assert float(distances(roots[0], roots[0]).abs().max()) == 0
    sides = [distances(roots[i], roots[j]) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert (sides[0] + sides[1] >= sides[2] - 1e-12).all()
    corners = torch.eye(3, dtype=torch.float64)
    assert distances(corners[:2], corners[1:]).tolist() == pytest.approx([np.pi] * 2)


def test_tracks_are_those_of_torch_network_by_network():
    for name, expected in walks().items():
        found = slider()._tracks[name]
        assert np.array_equal(found.t, expected.t)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert found.accuracy == pytest.approx(expected.accuracy, abs=1e-9)
        assert found.length == pytest.approx(expected.length, rel=1e-4, abs=1e-9)
        assert found.own == pytest.approx(expected.own, rel=1e-3)
        assert found.highest == pytest.approx(expected.p.max(0), rel=1e-4, abs=1e-7)
        assert found.bound == pytest.approx(expected.bound, rel=1e-5)
        # no path is shorter, also not for one image
        assert found.length[-1] > found.bound
        assert (found.own >= apart(expected.p[0], expected.p[-1]) - 1e-6).all()
    # 0.1 + 0.7 is 0.8 but for rounding, and no segment is that short
    assert np.diff(slider()._tracks["chain"].t).min() > 1e-3
    assert len(slider()._tracks["chain"].t) == 102
    bounds = {one.bound for one in slider()._tracks.values()}
    assert max(bounds) - min(bounds) < 1e-9


def test_standardised_networks_without_bias():
    options = {"width": (7, 5), "standardize": True, "bias": False}
    a, b, c = (trained(seed, **options) for seed in (0, 1, 2))
    path = mc.BezierPath(a, b, [c])
    one = GeodesicSlider(path, digits(), images=40, split="train")
    expected = walk(path, *used(one, "train"))
    found = one._tracks["path"]
    assert found.length == pytest.approx(expected.length, rel=1e-4, abs=1e-9)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    stored = [a.state_dict()[f"standardize.{what}"].tolist() for what in ("mean", "std")]
    assert np.ravel(one.payload["moments"]) == pytest.approx(np.ravel(stored))


# ---------------------------------------------------------------- the payload


def test_the_control_points_travel_once_each_bit_for_bit():
    payload = slider().payload
    assert [entry["kind"] for entry in payload["paths"]] == ["bezier", "bezier", "polychain"]
    # four networks; the chain comes back to A on its way
    assert len(payload["networks"]) == 4
    assert [entry["networks"] for entry in payload["paths"]] == [[0, 1], [0, 2, 3, 1], [0, 3, 0, 1]]
    for entry, path in zip(payload["paths"], paths().values(), strict=True):
        assert entry["knots"] == list(path.knots)
        for point, index in enumerate(entry["networks"]):
            flat = torch.cat([p[point].reshape(-1) for p in path.control_points.values()])
            assert np.array_equal(decoded(payload["networks"][index], "<f4"), flat.numpy())
    assert json.loads(json.dumps(payload)) == payload


def test_the_images_on_which_the_paths_differ_most_are_chosen():
    y = used(slider())[1].numpy()
    own = np.stack([one.own for one in walks().values()])
    gap = np.ptp(own, axis=0)
    found = [one["image"] for one in slider().payload["chosen"]]
    assert len(set(found)) == 6
    assert slider().chosen == [slider().indices[i] for i in found]
    assert (np.diff(gap[found]) < 1e-4).all()
    labels = y[found].tolist()
    assert max(labels.count(label) for label in labels) <= 2
    # what is left out differs less, or has two of its class before it
    for i in set(range(60)) - set(found):
        assert gap[i] < gap[found].min() + 1e-4 or labels.count(y[i]) == 2
    # the rival is never the true class, and none of the others comes higher
    highest = np.max([one.p.max(0) for one in walks().values()], axis=0)
    for one in slider().payload["chosen"]:
        others = np.delete(highest[one["image"]], y[one["image"]])
        assert one["rival"] != y[one["image"]]
        assert highest[one["image"], one["rival"]] == pytest.approx(others.max(), abs=1e-5)


def test_a_single_path_shows_where_it_is_longest_and_a_third_of_a_class_comes_last():
    path = paths()["straight line"]
    y = digits().test.y
    same = torch.nonzero(y == 3)[:4, 0].tolist() + torch.nonzero(y == 7)[:1, 0].tolist()
    one = GeodesicSlider(path, digits(), images=same, chosen=5)
    own = walk(path, *used(one)).own
    threes = sorted(range(4), key=lambda i: -own[i])
    order = sorted([*threes[:2], 4], key=lambda i: -own[i]) + threes[2:]
    assert [entry["image"] for entry in one.payload["chosen"]] == order


def test_chosen_images_may_be_given():
    some = [slider().indices[7], slider().indices[2]]
    one = GeodesicSlider(paths(), digits(), images=60, chosen=some)
    assert one.chosen == some
    assert [entry["image"] for entry in one.payload["chosen"]] == [7, 2]
    with pytest.raises(ValueError, match=r"among the 60 test images of the page .*found 1\b"):
        GeodesicSlider(paths(), digits(), images=60, chosen=[some[0], 1])
    for many in (0, 13, -1):
        with pytest.raises(ValueError, match=f"1 to 12 chosen images, found {many}"):
            GeodesicSlider(paths(), digits(), images=60, chosen=many)
    with pytest.raises(ValueError, match="1 to 4 chosen images, found 5"):
        GeodesicSlider(paths(), digits(), images=4, chosen=5)
    with pytest.raises(ValueError, match="1 to 12 chosen images, found 0"):
        GeodesicSlider(paths(), digits(), images=60, chosen=[])


# ---------------------------------------------------------------- what is refused


def test_paths_with_other_ends_are_refused():
    a, b, c = (trained(seed, width=WIDTHS) for seed in (0, 1, 2))
    named = {"one": mc.LinearPath(a, b), "two": mc.BezierPath(a, c, [b])}
    with pytest.raises(mc.IncompatibleError, match=r"'one' and 'two' differing in \S+ at t = 1"):
        GeodesicSlider(named, digits())
    named["two"] = mc.BezierPath(c, b, [a])
    with pytest.raises(mc.IncompatibleError, match=r"same two networks, .* at t = 0"):
        GeodesicSlider(named, digits())
    small = [mc.build_model("mlp", digits(), width=4, seed=s) for s in (0, 1)]
    named["two"] = mc.LinearPath(*small)
    with pytest.raises(mc.IncompatibleError, match="64-12-9-10 in 'one' and 64-4-10 in 'two'"):
        GeodesicSlider(named, digits())


def test_other_networks_and_paths_are_refused_in_its_own_name():
    large = mc.load_data("digits", size=32)
    nets = [mc.build_model("lenet5", large, seed=s) for s in (0, 1)]
    with pytest.raises(
        mc.IncompatibleError, match=r"^GeodesicSlider expected a multi-layer .*, found Conv2d"
    ):
        GeodesicSlider(mc.LinearPath(*nets), large)
    with pytest.raises(mc.IncompatibleError, match="from 256 pixels to 10 classes"):
        GeodesicSlider(paths(), mc.load_data("digits", size=16))

    class Circle(mc.Path):
        def coefficients(self, t):
            return torch.tensor([1 - t, t], dtype=torch.float64)

        def coefficient_velocities(self, t):
            return torch.tensor([-1.0, 1.0], dtype=torch.float64)

    line = paths()["straight line"]
    other = Circle(line.model_at(0.0), line.control_points)
    with pytest.raises(mc.IncompatibleError, match="found 'odd', a Circle"):
        GeodesicSlider({"odd": other}, digits())


def test_what_does_not_fit_is_refused():
    line = paths()["straight line"]
    with pytest.raises(ValueError, match="1 to 5 paths on one slider, found 0"):
        GeodesicSlider({}, digits())
    with pytest.raises(ValueError, match="1 to 5 paths on one slider, found 6"):
        GeodesicSlider({str(k): line for k in range(6)}, digits())
    for step in (0.1, 0.0):
        with pytest.raises(ValueError, match=rf"step in \(0, 0\.02\], found {step}"):
            GeodesicSlider(line, digits(), step=step)
    with pytest.raises(ValueError, match="at least 1 image, found 0"):
        GeodesicSlider(line, digits(), images=0)
    with pytest.raises(ValueError, match="'train' or 'test', found 'all'"):
        GeodesicSlider(line, digits(), split="all")
    with pytest.raises(ValueError, match="two different names for the ends"):
        GeodesicSlider(line, digits(), ends=("A", "A"))
    with pytest.raises(TypeError, match="expected data"):
        GeodesicSlider(line, digits().test)
    with pytest.raises(TypeError, match="expected paths by name, .* found list"):
        GeodesicSlider([line], digits())
    wide = [mc.build_model("mlp", digits(), width=(900, 900), seed=s) for s in (0, 1)]
    with pytest.raises(ValueError, match="at most 8 MB of networks and images"):
        GeodesicSlider(mc.LinearPath(*wide), digits())


# ---------------------------------------------------------------- without scripts


def test_the_table_is_what_torch_finds():
    text = slider().table()
    header = re.findall(r'<th scope="col">(.*?)</th>', text)
    assert header == ["t"] + [
        f"{name}: {what}" for name in paths() for what in ("loss", "accuracy", "length so far")
    ]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text)
    assert [t for t, _ in rows] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    for t, row in rows:
        cells = re.findall("<td>(.*?)</td>", row)
        for k, expected in enumerate(walks().values()):
            i = int(np.flatnonzero(expected.t == float(t))[0])
            loss, accuracy, length = cells[3 * k : 3 * k + 3]
            assert float(loss) == pytest.approx(expected.loss[i], rel=6e-4)
            assert float(accuracy.removesuffix(" %")) == pytest.approx(
                100 * expected.accuracy[i], abs=0.051
            )
            assert float(length) == pytest.approx(expected.length[i], rel=6e-4)


def test_the_text_says_lengths_and_bound():
    told = []
    for name, one in walks().items():
        ratio = one.length[-1] / one.bound
        told.append(f"{name} {one.length[-1]:#.3g} ({ratio:.2f} times the bound)")
    bound = walks()["chain"].bound
    words = f"{', '.join(told)}; no path is shorter than {bound:#.3g}"
    assert repr(slider()) == (
        f"GeodesicSlider(64-12-9-10, 60 test images of digits: Fisher–Rao length of {words})"
    )
    assert f"Whole lengths: {words}." in slider().table()
    assert "length from A on 60 test images of digits" in slider().table()


def test_a_path_that_stays_has_no_ratio():
    a = trained(0, width=WIDTHS)
    one = GeodesicSlider(mc.LinearPath(a, a), digits(), images=10, chosen=1)
    track = one._tracks["path"]
    assert track.bound == 0
    assert track.length[-1] < 1e-9
    assert "times" not in repr(one)
    assert repr(one).endswith("no path is shorter than 0)")


def test_the_same_slider_is_the_same_bytes_and_needs_nothing_else(same_random_state):
    before = {
        name: {key: p.clone() for key, p in path.control_points.items()}
        for name, path in paths().items()
    }
    one = GeodesicSlider(paths(), digits())
    data, _ = one._repr_mimebundle_()
    page = data["text/html"].replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|url\(|fetch\(|innerHTML", page)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert len(page) < 130_000
    names = ("geodesic_paths.js", "geodesic_drawing.js", "geodesic_slider.js")
    assert sum(len(asset(name)) for name in (*names, "geodesic_slider.css")) < 32_000
    assert one.to_html() == GeodesicSlider(copy.copy(paths()), digits()).to_html()
    script = str(GeodesicSlider._esm)
    assert script.count("export default") == 1
    assert "</script" not in script
    assert "</style" not in asset("geodesic_slider.css")
    assert (one.t, one.payload["step"], len(one.indices)) == (0.5, 0.01, 300)
    for name, path in paths().items():
        for key, p in path.control_points.items():
            assert torch.equal(p, before[name][key])


def test_it_is_a_public_name():
    assert mc.GeodesicSlider is GeodesicSlider
    payload, tracks = geodesic_payload(paths()["curve"], digits(), images=8, chosen=1)
    assert list(tracks) == [payload["paths"][0]["name"]] == ["path"]
    assert payload["title"] == "How predictions move from A to B"
