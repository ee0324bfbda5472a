"""The loss over a plane: right at the networks, on their lines, and everywhere else."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.analysis.planes import LossPlane, curve_plane, loss_plane
from mcbook.tables import decode_table, encode_table
from mcbook.viz.figure import Figure
from tests import reference, reference_analysis


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 8))
        self.again = nn.Linear(8, 8)
        self.again.weight = self.body[3].weight
        self.output = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.tanh(self.again(torch.tanh(self.body(x)))))


def tied(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tied()


def three(name: str, data: mc.Data) -> list[nn.Module]:
    """Three networks of random weights, whose statistics have seen images."""
    options: dict = {
        "mlp": {"width": (8, 7)},
        "batch": {"width": 8, "norm": "batch"},
        "convnet": {"width": 3},
        "tied": {},
    }[name]
    kind = {"batch": "mlp"}.get(name, name)
    models = [
        tied(s) if name == "tied" else mc.build_model(kind, data, seed=s, **options)
        for s in (0, 1, 2)
    ]
    for model in models:
        model.train()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(2)
            for batch in data.train.x.split(35):
                model(batch)
    return [model.eval() for model in models]


NAMES = ["mlp", "batch", "convnet", "tied"]


# what stands where --------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["none", "reset"])
@pytest.mark.parametrize("name", NAMES)
def test_every_point_is_a_new_network_measured_image_by_image(
    tiny: mc.Data, name: str, normalization: str
) -> None:
    a, b, c = three(name, tiny)
    # inside the triangle and a little beyond, where mixed variances are still positive
    plane = loss_plane(a, b, c, tiny, points=3, margin=0.05, normalization=normalization)
    for i, y in enumerate(plane.y):
        for j, x in enumerate(plane.x):
            reset_on = tiny.train.x if normalization == "reset" else None
            model = reference_analysis.in_plane(a, b, c, x, y, reset_on)
            loss, accuracy = reference.evaluate(model, tiny.test.x, tiny.test.y)
            assert math.isclose(plane.loss[i, j], loss, rel_tol=2e-4)
            assert math.isclose(plane.accuracy[i, j], accuracy, abs_tol=1e-9)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", NAMES)
def test_at_the_networks_is_what_evaluate_says(tiny: mc.Data, name: str, split: str) -> None:
    models = three(name, tiny)
    for normalization in ("none", "reset"):
        plane = loss_plane(*models, tiny, points=2, split=split, normalization=normalization)
        assert list(plane.measured) == list(plane.places) == ["A", "B", "C"]
        for model, (loss, accuracy) in zip(models, plane.measured.values(), strict=True):
            if normalization == "reset":
                model = mc.reset_batch_norm(model, tiny.train.x)
            expected = mc.evaluate(model, tiny.split(split))
            assert math.isclose(loss, expected[0], rel_tol=1e-6)
            assert accuracy == expected[1]


def test_grid_points_on_the_networks_are_the_networks(tiny: mc.Data) -> None:
    models = three("batch", tiny)
    places = loss_plane(*models, tiny, points=2).places
    for model, (x, y) in zip(models, places.values(), strict=True):
        plane = loss_plane(
            *models, tiny, points=2, x_range=(x, x + 1), y_range=(y, y + 1), normalization="none"
        )
        assert math.isclose(plane.loss[0, 0], mc.evaluate(model, tiny.test)[0], rel_tol=1e-5)
        assert not math.isclose(plane.loss[1, 1], plane.loss[0, 0], rel_tol=1e-3)


@pytest.mark.parametrize("normalization", ["none", "reset"])
@pytest.mark.parametrize("name", ["mlp", "batch"])
def test_the_line_from_a_to_b_is_the_profile(tiny: mc.Data, name: str, normalization: str) -> None:
    a, b, c = three(name, tiny)
    length = reference.distance(dict(a.named_parameters()), dict(b.named_parameters()))
    plane = loss_plane(
        a, b, c, tiny, 9, x_range=(0, length), y_range=(0, 1), normalization=normalization
    )
    prof = mc.profile(mc.LinearPath(a, b), tiny, 9, ("test",), normalization=normalization)
    np.testing.assert_allclose(plane.loss[0], prof.table["test_loss"], rtol=1e-5)
    np.testing.assert_allclose(plane.accuracy[0], prof.table["test_accuracy"], atol=1e-9)
    np.testing.assert_allclose(plane.x, prof.table["distance_a"], rtol=1e-5)
    assert not np.allclose(plane.loss[1], plane.loss[0], rtol=1e-4)


def test_c_may_move_in_the_plane(tiny: mc.Data) -> None:
    a, b, c = three("mlp", tiny)
    plane = loss_plane(a, b, c, tiny, 5)
    for beta, gamma in ((-0.4, 0.7), (1.3, 2.0), (0.2, -1.0)):
        moved = copy.deepcopy(a)
        with torch.no_grad():
            for p, q, r in zip(moved.parameters(), b.parameters(), c.parameters(), strict=True):
                p.add_(beta * (q - p) + gamma * (r - p))
        # on the other side of the line, the second axis points the other way
        down = gamma < 0
        rows = (-plane.y[-1], -plane.y[0]) if down else (plane.y[0], plane.y[-1])
        other = loss_plane(a, b, moved, tiny, 5, x_range=(plane.x[0], plane.x[-1]), y_range=rows)
        np.testing.assert_allclose(other.loss[::-1] if down else other.loss, plane.loss, rtol=2e-4)
        x, y, off = plane.position(moved)
        (length, _), (s, h) = plane.places["B"], plane.places["C"]
        assert math.isclose(x, beta * length + gamma * s, rel_tol=1e-4)
        assert math.isclose(y, gamma * h, rel_tol=1e-4)
        assert off < 1e-4 * length
        assert math.isclose(other.places["C"][1], abs(gamma) * h, rel_tol=1e-4)


# coordinates --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_positions_are_those_of_gram_and_schmidt(tiny: mc.Data, name: str) -> None:
    a, b, c = three(name, tiny)
    other = copy.deepcopy(c)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.linspace(-1, 1, p.numel()).reshape(p.shape))
    plane = loss_plane(a, b, c, tiny, 2, normalization="reset")
    for model in (a, b, c, other):
        expected = reference_analysis.coordinates(a, b, c, model)
        np.testing.assert_allclose(plane.position(model), expected, rtol=1e-6, atol=1e-6)
        assert plane.position(model) == plane.position(model.state_dict())
    for model, place in zip((a, b, c), plane.places.values(), strict=True):
        np.testing.assert_allclose(plane.position(model), (*place, 0), atol=1e-6)
    assert plane.position(other)[2] > 0.1


def test_distances_in_the_plane_are_those_of_the_networks(tiny: mc.Data) -> None:
    models = dict(zip("ABC", three("convnet", tiny), strict=True))
    plane = loss_plane(*models.values(), tiny, 2)
    for first, second in ("AB", "BC", "AC"):
        apart = math.dist(plane.places[first], plane.places[second])
        weights = (dict(models[n].named_parameters()) for n in (first, second))
        assert math.isclose(apart, reference.distance(*weights), rel_tol=1e-6)


def test_a_curve_lies_in_the_plane_of_its_bend(tiny: mc.Data) -> None:
    a, b, c = three("batch", tiny)
    for kind in (mc.BezierPath, mc.PolychainPath):
        path = kind(a, b, [c])
        plane = curve_plane(path, tiny, 3)
        assert list(plane.places) == ["A", "B", "bend"]
        trace = plane.trace(path, 5)
        length = plane.places["B"][0]
        assert trace[:, 2].max() < 1e-6 * length
        for t, (x, y, _) in zip(np.linspace(0, 1, 5), trace, strict=True):
            weight = path.coefficients(float(t)).numpy()
            place = weight @ np.array([plane.places[n] for n in ("A", "bend", "B")])
            np.testing.assert_allclose((x, y), place, atol=1e-5 * length)
        same = loss_plane(a, b, c, tiny, 3)
        np.testing.assert_array_equal(same.loss, plane.loss)
        assert same.position(c) == plane.position(c)
    # where the curve goes, the plane has the curve's losses
    x, y, _ = trace[2]
    at = curve_plane(path, tiny, 2, x_range=(x, x + 1), y_range=(y, y + 1))
    prof = mc.profile(path, tiny, 3, ("test",))
    assert math.isclose(at.loss[0, 0], prof.table["test_loss"].iloc[1], rel_tol=1e-4)


def test_knots_are_on_the_trace(tiny: mc.Data) -> None:
    a, b, c = three("mlp", tiny)
    path = mc.PolychainPath(a, b, [c], knots=(0, 0.3, 1))
    trace = curve_plane(path, tiny, 2).trace(path, 3)
    assert len(trace) == 4
    np.testing.assert_allclose(trace[1], (*curve_plane(path, tiny, 2).places["bend"], 0), atol=1e-5)


def test_a_path_outside_is_off_the_plane(tiny: mc.Data) -> None:
    a, b, c = three("mlp", tiny)
    d = mc.build_model("mlp", tiny, width=(8, 7), seed=9)
    trace = loss_plane(a, b, c, tiny, 2).trace(mc.BezierPath(a, b, [d]), 5)
    np.testing.assert_allclose(trace[[0, -1], 2], 0, atol=1e-5)
    assert trace[1:-1, 2].min() > 0.1


# the grid -----------------------------------------------------------------------------------


def test_the_grid_covers_the_networks_with_a_margin(tiny: mc.Data) -> None:
    models = three("mlp", tiny)
    for margin in (0.0, 0.25):
        plane = loss_plane(*models, tiny, 4, margin=margin)
        for axis, grid in enumerate((plane.x, plane.y)):
            values = [place[axis] for place in plane.places.values()]
            extent = max(values) - min(values)
            assert math.isclose(grid[0], min(values) - margin * extent, abs_tol=1e-9)
            assert math.isclose(grid[-1], max(values) + margin * extent, abs_tol=1e-9)
            np.testing.assert_allclose(np.diff(grid), (grid[-1] - grid[0]) / 3)
    plane = loss_plane(*models, tiny, 3, x_range=(-1, 3), y_range=(2, 4))
    assert plane.x.tolist() == [-1, 1, 3]
    assert plane.y.tolist() == [2, 3, 4]
    assert plane.loss.shape == plane.accuracy.shape == (3, 3)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_matter(tiny: mc.Data, batch_size: int) -> None:
    models = three("mlp", tiny)
    whole, parts = (loss_plane(*models, tiny, 2, batch_size=n) for n in (2048, batch_size))
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-5)
    np.testing.assert_array_equal(parts.accuracy, whole.accuracy)


# what is kept -------------------------------------------------------------------------------


@pytest.mark.usefixtures("same_random_state")
@pytest.mark.parametrize("name", ["batch", "convnet"])
def test_nothing_is_changed_and_it_repeats_to_the_last_bit(
    tiny: mc.Data, name: str, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    models = three(name, tiny)
    models[1].train()
    unchanged = [untouched(m) for m in models]
    path = mc.BezierPath(models[0], models[1], [models[2]])
    before = {n: x.clone() for n, x in path.control_points.items()}
    first, again = loss_plane(*models, tiny, 3), curve_plane(path, tiny, 3)
    np.testing.assert_array_equal(first.loss, again.loss)
    for check in unchanged:
        check()
    assert all(torch.equal(x, before[n]) for n, x in path.control_points.items())


def test_integer_buffers_are_those_of_a(tiny: mc.Data) -> None:
    class Counting(nn.Module):
        """Puts out how often it was trained, so that another number would be seen."""

        def __init__(self, count: int, seed: int):
            super().__init__()
            self.model = mc.build_model("mlp", tiny, width=4, seed=seed)
            self.register_buffer("count", torch.tensor(count))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x) * self.count

    a, b, c = (Counting(n, n) for n in (1, 20, 300))
    plane = loss_plane(a, b, c, tiny, 2)
    assert math.isclose(plane.measured["A"][0], mc.evaluate(a, tiny.test)[0], rel_tol=1e-6)
    for name, model in (("B", b), ("C", c)):
        expected = mc.evaluate(model.model, tiny.test)[0]
        assert math.isclose(plane.measured[name][0], expected, rel_tol=1e-6)


def test_statistics_come_from_the_training_images(tiny: mc.Data) -> None:
    models = three("batch", tiny)
    other = replace(tiny, train=tiny.subset(train=30).train)
    one, two = (loss_plane(*models, d, 2) for d in (tiny, other))
    assert one.normalization == "reset"
    assert not np.allclose(one.loss, two.loss, rtol=1e-3)
    assert loss_plane(*three("mlp", tiny), tiny, 2).normalization == "none"


# records and figures ------------------------------------------------------------------------


def test_a_table_brings_back_all_but_the_weights(tiny: mc.Data) -> None:
    models = three("mlp", tiny)
    plane = loss_plane(*models, tiny, 3, split="train", names=("A", "B", "π(B)"), y_range=(-3, 9))
    table = plane.table()
    assert len(table) == 3 + 9
    text = json.dumps(encode_table(table), allow_nan=False)
    for stored in (table, decode_table(json.loads(text)), table.sample(frac=1, random_state=0)):
        back = LossPlane.from_table(stored)
        for what in ("x", "y", "loss", "accuracy"):
            np.testing.assert_array_equal(getattr(back, what), getattr(plane, what))
        assert back.places == plane.places
        assert back.measured == plane.measured
        facts = (back.split, back.normalization, back.data_name)
        assert facts == ("train", "none", tiny.name)
    pd.testing.assert_frame_equal(LossPlane.from_table(table).table(), table)
    with pytest.raises(ValueError, match="read from a table"):
        back.position(models[0])
    row = table[(table["x"] == plane.x[2]) & (table["y"] == plane.y[1])].iloc[0]
    assert (row["loss"], row["place"]) == (plane.loss[1, 2], "")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.drop(columns="loss"), "found none called loss"),
        (lambda t: t.iloc[:-1], "3 columns and 3 rows, found 8 rows"),
        (lambda t: pd.concat([t, t.iloc[-1:]]), "found 10 rows"),
        (lambda t: pd.concat([t, t.assign(split="train")]), "one plane, found those of 2"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "several of one name"),
    ],
)
def test_other_tables_are_refused(tiny: mc.Data, spoil: Callable, message: str) -> None:
    table = loss_plane(*three("mlp", tiny), tiny, 3).table()
    with pytest.raises(ValueError, match=message):
        LossPlane.from_table(spoil(table))


def test_it_is_drawn(tiny: mc.Data) -> None:
    a, b, c = three("mlp", tiny)
    path = mc.BezierPath(a, b, [c])
    plane = curve_plane(path, tiny, 5)
    figure = plane.plot(path)
    assert isinstance(figure, Figure)
    assert figure.alt.startswith("Test loss over a plane through A, B and bend")
    assert "Test error" in plane.plot(what="error").alt
    high, low = float(plane.loss.max()), float(plane.loss.min())
    cap = (high + low) / 2
    assert f"cut at {cap:g}" in plane.plot(cap=cap).alt
    assert plane.loss.max() == high
    stored = LossPlane.from_table(plane.table())
    assert stored.plot(plane.trace(path)).html() == figure.html()
    assert plane.plot().html() != figure.html()
    with pytest.raises(mc.UnknownNameError, match=r"'lose'; did you mean 'loss'"):
        plane.plot(what="lose")
    assert "A, B, bend; test loss on digits" in repr(plane)


# refused ------------------------------------------------------------------------------------


def test_three_networks_on_a_line_are_no_plane(tiny: mc.Data) -> None:
    a, b, _ = three("mlp", tiny)
    line = mc.LinearPath(a, b)
    for t in (0.0, 0.3, 1.0):
        with pytest.raises(ValueError, match="found C on the line through A and B"):
            loss_plane(a, b, line.model_at(t), tiny)
    with pytest.raises(ValueError, match="found A and B of the same parameters"):
        loss_plane(a, copy.deepcopy(a), b, tiny)
    with pytest.raises(ValueError, match="found bend on the line through A and B"):
        curve_plane(mc.BezierPath(a, b), tiny)


def test_a_thin_triangle_is_a_plane(tiny: mc.Data) -> None:
    a, b, c = three("mlp", tiny)
    near = mc.LinearPath(mc.LinearPath(a, b).model_at(0.5), c).model_at(1e-3)
    plane, thin = loss_plane(a, b, c, tiny, 2), loss_plane(a, b, near, tiny, 2)
    assert math.isclose(thin.places["C"][1], 1e-3 * plane.places["C"][1], rel_tol=1e-2)
    assert thin.position(c)[2] < 1e-2 * plane.places["B"][0]


def test_other_architectures_are_refused(tiny: mc.Data) -> None:
    a, b, c = three("mlp", tiny)
    wide = mc.build_model("mlp", tiny, width=(9, 7))
    with pytest.raises(mc.IncompatibleError, match=r"A .*and C .*\[8, 64\]"):
        loss_plane(a, b, wide, tiny)
    with pytest.raises(mc.IncompatibleError, match=r"A .*and Q .*\[8, 64\]"):
        loss_plane(a, wide, c, tiny, names=("A", "Q", "C"))
    plane = loss_plane(a, b, c, tiny, 2)
    with pytest.raises(mc.IncompatibleError, match=r"\[8, 64\], found \[9, 64\]"):
        plane.position(wide)
    with pytest.raises(mc.IncompatibleError, match="found nothing"):
        plane.position({})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"points": 1}, ValueError, "at least 2 points, found 1"),
        ({"margin": -0.1}, ValueError, "margin of at least 0, found -0.1"),
        ({"margin": math.nan}, ValueError, "margin of at least 0, found nan"),
        ({"x_range": (1, 1)}, ValueError, r"x_range to be two increasing numbers, found \(1, 1\)"),
        ({"y_range": (0, math.inf)}, ValueError, "y_range to be two increasing numbers"),
        ({"names": ("A", "B")}, ValueError, r"three different names, found \['A', 'B'\]"),
        ({"names": ("A", "B", "A")}, ValueError, "three different names"),
        ({"split": "tset"}, mc.UnknownNameError, "unknown split 'tset'"),
        ({"normalization": "rest"}, mc.UnknownNameError, "'rest'; did you mean 'reset'"),
        ({"normalization": "repair"}, mc.UnknownNameError, "normalization of a plane 'repair'"),
    ],
)
def test_bad_options_are_refused(
    tiny: mc.Data, options: dict, error: type[Exception], message: str
) -> None:
    models = three("mlp", tiny)
    path = mc.BezierPath(models[0], models[1], [models[2]])
    for measure in (lambda: loss_plane(*models, tiny, **options),
                    lambda: curve_plane(path, tiny, **options)):  # fmt: skip
        with pytest.raises(error, match=message):
            measure()


def test_other_arguments_are_refused(tiny: mc.Data) -> None:
    a, b, c = three("mlp", tiny)
    with pytest.raises(TypeError, match="expected data"):
        loss_plane(a, b, c, tiny.test)
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, found OrderedDict"):
        loss_plane(a, b, c.state_dict(), tiny)
    with pytest.raises(TypeError, match="expected a path"):
        curve_plane(a, tiny)
    with pytest.raises(ValueError, match="exactly 1 bend, found 0"):
        curve_plane(mc.LinearPath(a, b), tiny)
    with pytest.raises(ValueError, match="exactly 1 bend, found 2"):
        curve_plane(mc.BezierPath(a, b, [c, c]), tiny)
    plane = loss_plane(a, b, c, tiny, 2)
    with pytest.raises(TypeError, match="expected a path"):
        plane.trace(a)
    with pytest.raises(ValueError, match="at least 2 points"):
        plane.trace(mc.LinearPath(a, b), 1)
    spoiled = copy.deepcopy(c)
    next(iter(spoiled.parameters())).data[0] = math.nan
    with pytest.raises(ValueError, match="of C"):
        loss_plane(a, b, spoiled, tiny)


def test_negative_mixed_variances_are_refused(tiny: mc.Data) -> None:
    models = three("batch", tiny)
    models[0].get_submodule("norm1").running_var.div_(50)
    with pytest.raises(ValueError, match=r"negative ones in .*running_var.*normalization=.reset"):
        loss_plane(*models, tiny, 3, margin=0.5, normalization="none")
    assert np.isfinite(loss_plane(*models, tiny, 3, margin=0.5).loss).all()
