"""Lengths of paths: slow oracles, laws, what changes nothing, bad input."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from information.networks import NETWORKS, PATHS, Own, beyond
from reference_geodesics import categorical_distance, js, length, speed
from torch import Tensor, nn

import mcbook as mc
from mcbook.information.fisher import logit_speed_squared, nodes_of

ROOT8 = math.sqrt(8)


@cache
def images() -> Tensor:
    return mc.load_data("digits", device="cpu").test.x[:12]


@cache
def path_of(network: str, kind: str, seed: int) -> mc.Path:
    """A path between two networks of that sort; `optimised` is on its way to a geodesic."""
    a, b = (NETWORKS[network](2 * seed + s) for s in (0, 1))
    if kind == "optimised":
        return mc.fit_geodesic(a, b, images(), points=5, steps=6, seed=seed, progress=False)
    return PATHS[kind](a, b, seed)


anywhere = st.builds(
    path_of,
    st.sampled_from(list(NETWORKS)),
    st.sampled_from([*PATHS, "optimised"]),
    st.integers(0, 1),
)


def ends(path: mc.Path) -> tuple[nn.Module, nn.Module]:
    return path.model_at(0), path.model_at(1)


# oracles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("network", ["mlp", "convnet, group norm", "own"])
def test_lengths_are_those_of_the_slow_sum(network: str, kind: str) -> None:
    path, x = path_of(network, kind, 0), images()
    nodes = sorted({*(k / 4 for k in range(5)), *path.knots})
    points = [path.at(t) for t in nodes]
    net = path.model_at(0)
    fisher = length(net, points, x, lambda p, q: categorical_distance(p, q) ** 2)
    assert mc.fisher_length(path, x, 5) == pytest.approx(fisher, rel=1e-4)
    assert mc.js_length(path, x, 5) == pytest.approx(length(net, points, x, js), rel=1e-4)
    steps = [
        length(net, [p, q], x, lambda p, q: categorical_distance(p, q) ** 2)
        for p, q in pairwise(points)
    ]
    gaps = [t - s for s, t in pairwise(nodes)]
    energy = math.fsum(d**2 / dt for d, dt in zip(steps, gaps, strict=True))
    assert mc.fisher_energy(path, x, 5) == pytest.approx(energy, rel=1e-4)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("t", [0.0, 0.31, 0.65, 1.0])
def test_the_speed_is_that_of_the_explicit_fisher_matrix(kind: str, t: float) -> None:
    path, x = path_of("mlp", kind, 0), images()[:5]
    slow = speed(path.model_at(t), path.velocity(t), x)
    assert mc.fisher_speed(path, x, t) == pytest.approx(slow, rel=1e-5)
    assert slow > 0.1


def doubled(path: mc.Path) -> mc.Path:
    points = {name: p.double() for name, p in path.control_points.items()}
    return path._restored(path.model_at(0).double(), points, path.knots)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_speed_is_the_finite_difference_and_its_integral_the_length(network: str) -> None:
    """Of everything that moves: frozen tensors, buffers, batch norm's statistics."""
    path, x = doubled(path_of(network, "bezier", 0)), images().double()
    for t in (0.2, 0.7):
        h = 1e-5
        lp, lq = (
            mc.log_probabilities(mc.reset_batch_norm(path.model_at(s), x), x)
            for s in (t - h, t + h)
        )
        step = math.sqrt(float(mc.fisher_distance(lp, lq).square().mean()))
        assert mc.fisher_speed(path, x, t) == pytest.approx(step / (2 * h), rel=1e-4)
    count = 60
    middles = [(k + 0.5) / count for k in range(count)]
    whole = math.fsum(mc.fisher_speed(path, x, t) for t in middles) / count
    assert 0.94 * whole < mc.fisher_length(path, x, count + 1) < 1.01 * whole


def test_at_a_knot_the_speed_is_that_of_the_piece_that_begins() -> None:
    path, x = path_of("mlp", "polychain", 0), images()
    knot = path.knots[1]
    before, at, after = (mc.fisher_speed(path, x, t) for t in (knot - 1e-5, knot, knot + 1e-5))
    assert at == pytest.approx(after, rel=1e-3)
    assert abs(at - before) > 0.05 * at


@given(st.lists(st.floats(-30, 30), min_size=3, max_size=3), st.integers(0, 99))
def test_the_squared_speed_of_logits_is_a_variance(z: list[float], seed: int) -> None:
    logits = torch.tensor(z, dtype=torch.float64)
    dz = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p = logits.softmax(0)
    slow = float((p * dz**2).sum() - (p * dz).sum() ** 2)
    found = float(logit_speed_squared(logits, dz))
    assert found == pytest.approx(slow, abs=1e-12)
    assert found >= 0
    assert float(logit_speed_squared(logits, dz + 1e6)) == pytest.approx(slow, abs=1e-6)


# laws -----------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(anywhere, st.integers(2, 11))
def test_no_path_is_shorter_than_the_bound(path: mc.Path, points: int) -> None:
    x = images()
    a, b = ends(path)
    long, js_long = mc.fisher_length(path, x, points), mc.js_length(path, x, points)
    assert long >= mc.fisher_lower_bound(a, b, x) - 1e-9
    assert js_long >= mc.js_lower_bound(a, b, x) - 1e-9
    assert ROOT8 * js_long <= long + 1e-9
    assert long**2 <= mc.fisher_energy(path, x, points) + 1e-9


@settings(max_examples=8)
@given(anywhere)
def test_more_nodes_never_make_it_shorter(path: mc.Path) -> None:
    for measure in (mc.fisher_length, mc.js_length):
        lengths = [measure(path, images(), points) for points in (5, 9, 17, 33)]
        assert all(s <= t + 1e-9 for s, t in pairwise(lengths))


def test_a_coarse_js_length_can_be_below_the_fisher_bound() -> None:
    """So that each length has its own bound."""
    path, x = path_of("convnet, group norm", "linear", 0), images()
    assert ROOT8 * mc.js_length(path, x, 2) < 0.99 * mc.fisher_lower_bound(*ends(path), x)


def test_the_grid_is_even_and_has_the_knots() -> None:
    path = path_of("mlp", "polychain", 0)
    assert nodes_of(path, 5) == [0, 0.2, 0.25, 0.5, 0.65, 0.75, 1]
    chain = mc.PolychainPath(*ends(path), 11)  # knots k / 12: a few are not those of a grid
    assert nodes_of(chain, 13) == list(chain.knots)
    assert len(nodes_of(chain, 25)) == 25
    even = nodes_of(path_of("mlp", "linear", 0), 26)
    gaps = [t - s for s, t in pairwise(even)]
    assert gaps[0] == pytest.approx(gaps[-1], rel=1e-12)  # all of them, the last one too
    assert max(gaps) == pytest.approx(1 / 25, rel=1e-12)


class Reparametrised(mc.Path):
    """The straight line, faster and faster: `t²` of the way."""

    def coefficients(self, t: float) -> Tensor:
        return torch.tensor([1 - t * t, t * t], dtype=torch.float64)

    def coefficient_velocities(self, t: float) -> Tensor:
        return torch.tensor([-2 * t, 2 * t], dtype=torch.float64)


def test_the_clock_changes_the_energy_and_not_the_length() -> None:
    line, x = path_of("mlp", "linear", 0), images()
    late = Reparametrised(line.model_at(0), line.control_points)
    long = mc.fisher_length(line, x, 61)
    assert mc.fisher_length(late, x, 61) == pytest.approx(long, rel=1e-3)
    energies = [mc.fisher_energy(p, x, 61) for p in (line, late)]
    assert abs(energies[1] - energies[0]) > 0.05 * energies[0]
    assert mc.fisher_speed(late, x, 0.6) == pytest.approx(
        1.2 * mc.fisher_speed(line, x, 0.36), rel=1e-5
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", PATHS)
def test_a_path_that_stands_still_has_length_0(network: str, kind: str) -> None:
    a, x = NETWORKS[network](0), images()
    path = PATHS[kind](a, a, 0)
    if kind != "linear":  # the bends too
        still = {name: p[:1].expand_as(p).clone() for name, p in path.control_points.items()}
        path = path._restored(a, still, path.knots)
    assert mc.fisher_length(path, x, 9) == 0
    assert mc.fisher_energy(path, x, 9) == 0
    assert mc.fisher_lower_bound(a, a, x) == 0
    assert mc.js_length(path, x, 9) < 1e-6
    assert mc.fisher_speed(path, x, 0.4) == 0


# what changes nothing -------------------------------------------------------------------------


def close(path: mc.Path, other: mc.Path, x: Tensor, y: Tensor | None = None) -> None:
    y = x if y is None else y
    for measure in (mc.fisher_length, mc.js_length, mc.fisher_energy):
        assert measure(other, y, 7) == pytest.approx(measure(path, x, 7), rel=2e-3)
    assert mc.fisher_lower_bound(*ends(other), y) == pytest.approx(
        mc.fisher_lower_bound(*ends(path), x), rel=1e-3
    )
    assert mc.fisher_speed(other, y, 0.37) == pytest.approx(
        mc.fisher_speed(path, x, 0.37), rel=1e-4
    )


@pytest.mark.parametrize("network", [n for n in NETWORKS if n != "own"])
@pytest.mark.parametrize("kind", ["linear", "bezier"])
def test_the_same_permutation_of_every_control_point(network: str, kind: str) -> None:
    a, b = NETWORKS[network](0), NETWORKS[network](1)
    spec = mc.trace_symmetry(a)
    p = spec.random(seed=3)
    moved = [mc.permute(model, p, spec) for model in (a, b)]
    assert any(
        not torch.equal(x, y) for x, y in zip(a.parameters(), moved[0].parameters(), strict=True)
    )
    if kind == "linear":
        close(mc.LinearPath(a, b), mc.LinearPath(*moved), images())
    else:
        bend = copy.deepcopy(a)
        bend.load_state_dict(beyond(a, b, 5))
        bends = [[bend], [mc.permute(bend, p, spec)]]
        close(mc.BezierPath(a, b, bends[0]), mc.BezierPath(*moved, bends[1]), images())
    # a permutation of B alone changes the line, and not the bound
    other = mc.LinearPath(a, moved[1])
    assert mc.fisher_lower_bound(a, moved[1], images()) == pytest.approx(
        mc.fisher_lower_bound(a, b, images()), rel=1e-4
    )
    assert (
        abs(
            mc.fisher_length(other, images(), 9)
            / mc.fisher_length(mc.LinearPath(a, b), images(), 9)
            - 1
        )
        > 1e-3
    )


def test_the_same_rescaling_of_every_control_point() -> None:
    def rescaled(model: nn.Module) -> nn.Module:
        model = copy.deepcopy(model)
        s = torch.tensor([0.3, 2.0, 5.0, 1.0, 0.7, 1.4])
        with torch.no_grad():
            model.linear1.weight.mul_(s[:, None])
            model.linear1.bias.mul_(s)
            model.linear2.weight.div_(s)
        return model

    a, b = NETWORKS["mlp"](0), NETWORKS["mlp"](1)
    close(mc.LinearPath(a, b), mc.LinearPath(rescaled(a), rescaled(b)), images())


def test_a_common_shift_of_the_logits() -> None:
    def shifted(model: nn.Module, by: float) -> nn.Module:
        model = copy.deepcopy(model)
        with torch.no_grad():
            model.output.bias.add_(by)
        return model

    a, b = NETWORKS["mlp"](0), NETWORKS["mlp"](1)
    close(mc.LinearPath(a, b), mc.LinearPath(shifted(a, 3.0), shifted(b, -7.0)), images())


@pytest.mark.parametrize("network", NETWORKS)
def test_order_of_the_inputs_batches_and_direction(network: str) -> None:
    path, x = path_of(network, "bezier", 1), images()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    close(path, path, x, x[order])
    for size in (1, 5, 12):
        for measure in (mc.fisher_length, mc.js_length, mc.fisher_energy):
            whole = measure(path, x, 5)
            assert measure(path, x, 5, batch_size=size) == pytest.approx(whole, rel=1e-3)
        assert mc.fisher_speed(path, x, 0.4, batch_size=size) == pytest.approx(
            mc.fisher_speed(path, x, 0.4), rel=1e-9
        )
        a, b = ends(path)
        for bound in (mc.fisher_lower_bound, mc.js_lower_bound):
            assert bound(a, b, x, batch_size=size) == pytest.approx(bound(a, b, x), rel=1e-4)
    back = {name: p.flip(0) for name, p in path.control_points.items()}
    reversed_ = path._restored(path.model_at(1), back, path.knots)
    for measure in (mc.fisher_length, mc.js_length, mc.fisher_energy):
        assert measure(reversed_, x, 9) == pytest.approx(measure(path, x, 9), rel=1e-4)
    assert mc.fisher_speed(reversed_, x, 0.3) == pytest.approx(
        mc.fisher_speed(path, x, 0.7), rel=1e-4
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_and_chance_are_left_alone(
    network: str, untouched: Callable, same_random_state: None
) -> None:
    a, b = (NETWORKS[network](s).train() for s in (0, 1))
    unchanged = [untouched(model) for model in (a, b)]
    path = mc.LinearPath(a, b)
    points = {name: p.clone() for name, p in path.control_points.items()}
    first = mc.fisher_length(path, images(), 3)
    mc.fisher_speed(path, images(), 0.5)
    bound = mc.fisher_lower_bound(a, b, images())
    mc.js_lower_bound(a, b, images())
    for check in unchanged:
        check()
    assert all(torch.equal(p, path.control_points[n]) for n, p in points.items())
    # dropout does nothing: twice is the same
    assert mc.fisher_length(path, images(), 3) == first
    assert mc.fisher_lower_bound(a, b, images()) == bound


def test_statistics_of_batch_norm_are_measured_where_they_are_asked_for(tiny: mc.Data) -> None:
    path, x = path_of("mlp, batch norm", "linear", 0), images()
    reset = mc.fisher_length(path, x, 5)
    assert mc.fisher_length(path, x, 5, "reset", x) == reset
    others = {
        mc.fisher_length(path, x, 5, "reset", tiny.train.x),
        mc.fisher_length(path, x, 5, "none"),
        mc.fisher_length(path, x, 5, "repair"),
        reset,
    }
    assert len(others) == 4
    assert mc.fisher_length(path, x, 5, "none", tiny.train.x) in others
    plain = path_of("mlp", "linear", 0)
    assert mc.fisher_length(plain, x, 5, "none") == mc.fisher_length(plain, x, 5)


# bad input ------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    path, x = path_of("mlp", "linear", 0), images()
    net = path.model_at(0)
    for measure in (mc.fisher_length, mc.fisher_energy, mc.js_length):
        with pytest.raises(TypeError, match=r"a path, such as LinearPath\(a, b\), found Network"):
            measure(net, x)
        for points in (1, 0, -3):
            with pytest.raises(ValueError, match=f"at least 2 points, found {points}"):
                measure(path, x, points)
        with pytest.raises(ValueError, match="at least one image, found none"):
            measure(path, x[:0])
        with pytest.raises(mc.UnknownNameError, match="unknown normalization 'resett'"):
            measure(path, x, 3, "resett")
    with pytest.raises(TypeError, match="expected a path, such as"):
        mc.fisher_speed(net, x, 0.5)
    with pytest.raises(ValueError, match="at least one image, found none"):
        mc.fisher_speed(path, x[:0], 0.5)
    for t in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"expected t in \[0, 1\]"):
            mc.fisher_speed(path, x, t)


def test_networks_that_give_nan_are_named_by_their_images(tiny: mc.Data) -> None:
    path, x = path_of("mlp", "linear", 0), images().clone()
    x[3] = x[7] = math.nan
    with pytest.raises(FloatingPointError, match="NaN or infinity for 2 of 12 images"):
        mc.fisher_length(path, x, 3)
    with pytest.raises(FloatingPointError, match="NaN or infinity for 2 of 12 images"):
        mc.fisher_lower_bound(*ends(path), x)
    data = replace(tiny, train=mc.Split(x, torch.zeros(12, dtype=torch.int64)))
    with pytest.raises(FloatingPointError, match="for 2 of 12 images"):
        mc.certify(path, data, 3, progress=False)
    with pytest.raises(FloatingPointError, match="for 2 of 12 images"):
        mc.fit_geodesic(*ends(path), x, steps=2, progress=False)


def test_a_network_of_its_own_is_measured_whole() -> None:
    """What is frozen, or a buffer, moves too."""
    path, x = mc.LinearPath(Own(0), Own(1)), images()
    points = {n: p.clone() for n, p in path.control_points.items()}
    points["scale"][1] = points["scale"][0]
    other = path._restored(path.model_at(0), points, path.knots)
    assert abs(mc.fisher_speed(path, x, 0.5) / mc.fisher_speed(other, x, 0.5) - 1) > 1e-3
