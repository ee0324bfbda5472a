from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import mcbook as mc
from mcbook import weights
from tests import reference


def pair(data: mc.Data) -> tuple[nn.Module, nn.Module]:
    a, b = (mc.build_model("mlp", data, width=5, norm="batch", seed=s) for s in (0, 1))
    return a, b


@given(st.floats(0, 1))
def test_it_is_the_mixture_and_what_interpolate_gives(tiny: mc.Data, t: float) -> None:
    a, b = pair(tiny)
    path = mc.LinearPath(a, b)
    point = path.at(t)
    slow = reference.mixture(a.state_dict(), b.state_dict(), t)
    mixed = weights.interpolate(weights.of(a), weights.of(b), t)
    for name, x in point.items():
        torch.testing.assert_close(x.double(), slow[name].double(), rtol=1e-6, atol=1e-6)
        assert torch.equal(x, mixed[name])


@given(st.floats(0, 1), st.floats(0, 1))
def test_distances_along_it_are_proportional_to_t(tiny: mc.Data, s: float, t: float) -> None:
    a, b = (m.double() for m in pair(tiny))
    path = mc.LinearPath(a, b)
    whole = weights.distance(weights.of(a), weights.of(b))
    between = weights.distance(path.at(s), path.at(t))
    assert math.isclose(between, abs(t - s) * whole, abs_tol=1e-9 * whole)


@given(st.floats(0, 1))
def test_walked_backwards_it_is_the_same_line(tiny: mc.Data, t: float) -> None:
    a, b = (m.double() for m in pair(tiny))
    there, back = mc.LinearPath(a, b).at(t), mc.LinearPath(b, a).at(1 - t)
    for name, x in there.items():
        torch.testing.assert_close(x, back[name], rtol=1e-12, atol=1e-12)


def test_its_velocity_is_b_minus_a_everywhere(tiny: mc.Data) -> None:
    a, b = pair(tiny)
    path = mc.LinearPath(a, b)
    for t in (0.0, 0.4, 1.0):
        for name, v in path.velocity(t).items():
            assert torch.equal(v, b.state_dict()[name] - a.state_dict()[name])


def test_it_has_two_control_points_and_no_knots_between(tiny: mc.Data) -> None:
    a, b = pair(tiny)
    path = mc.LinearPath(a, b)
    assert path.knots == (0.0, 1.0)
    assert path.kind == "linear"
    for name, p in path.control_points.items():
        assert torch.equal(p, torch.stack([a.state_dict()[name], b.state_dict()[name]]))


def test_halves_and_networks_of_low_precision(tiny: mc.Data) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        a, b = (m.to(dtype) for m in pair(tiny))
        path = mc.LinearPath(a, b)
        assert path.at(0.5)["linear1.weight"].dtype == dtype
        assert path.velocity(0.5)["linear1.weight"].dtype == dtype
