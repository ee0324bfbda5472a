"""Shortest paths that are known in closed form: coins, softmaxes, tables, normal distributions."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_geodesics import (
    Gaussian,
    Table,
    bernoulli_distance,
    categorical_distance,
    coin,
    gaussian_distance,
    great_circle,
    js,
    js_series,
    rows,
    table_distance,
)
from torch import nn

import mcbook as mc


def shortest(a: nn.Module, b: nn.Module, count: int = 1, **options: Any) -> tuple[mc.Path, mc.Path]:
    """The path that a search gives, and the one at which it ended."""
    seen: list[mc.Path] = []

    def watch(path: mc.Path) -> dict[str, float]:
        seen.append(path)
        return {}

    found = mc.fit_geodesic(a, b, rows(count), watch=watch, progress=False, **options)
    return found, seen[-1]


def labelled(count: int, classes: int, y: torch.Tensor) -> mc.Data:
    part = mc.Split(rows(count), y)
    names = tuple(map(str, range(classes)))
    return mc.Data(train=part, test=part, classes=names, name="own", fingerprint="own")


# one coin -------------------------------------------------------------------------------------


def test_two_coins_are_a_quarter_of_the_sphere_apart() -> None:
    a, b = coin(0.2), coin(0.9)
    assert bernoulli_distance(0.2, 0.9) == pytest.approx(math.pi / 2, abs=1e-15)
    assert mc.fisher_lower_bound(a, b, rows(1)) == pytest.approx(math.pi / 2, abs=1e-12)
    for points in (2, 3, 10, 61):
        # one parameter: every way that does not turn back is as short as any
        found = mc.fisher_length(mc.LinearPath(a, b), rows(1), points)
        assert found == pytest.approx(math.pi / 2, abs=1e-12)


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_any_two_coins(p: float, q: float) -> None:
    a, b = coin(p), coin(q)
    found = mc.fisher_length(mc.LinearPath(a, b), rows(1), 7)
    assert found == pytest.approx(bernoulli_distance(p, q), abs=1e-7)


def test_the_energy_spaces_its_nodes_evenly_on_the_circle() -> None:
    _, last = shortest(coin(0.2), coin(0.9), kind="polychain", bends=7, between=False, steps=200)
    chances = last.control_points["logits"].softmax(2)[:, 0, 1].tolist()
    angles = [math.asin(math.sqrt(p)) for p in chances]
    gaps = [t - s for s, t in pairwise(angles)]
    assert gaps == pytest.approx([math.pi / 4 / 8] * 8, rel=0.01)


# a softmax of three classes -------------------------------------------------------------------

Z0, Z1 = [2.0, 0.0, -1.0], [-2.0, 1.0, 1.5]


def test_a_softmax_of_biases() -> None:
    a, b, x = Table([Z0]), Table([Z1]), rows(1)
    p, q = (torch.tensor(z, dtype=torch.float64).softmax(0).tolist() for z in (Z0, Z1))
    assert categorical_distance(p, q) == pytest.approx(2.11582, abs=1e-5)
    assert mc.fisher_lower_bound(a, b, x) == pytest.approx(categorical_distance(p, q), abs=1e-12)
    assert mc.fisher_length(mc.LinearPath(a, b), x, 1001) == pytest.approx(2.16152, abs=1e-5)
    # logit-linear, by the integral of the speed in closed form
    dz = torch.tensor(Z1, dtype=torch.float64) - torch.tensor(Z0, dtype=torch.float64)
    count, total = 2000, 0.0
    for k in range(count):
        t = (k + 0.5) / count
        r = (torch.tensor(Z0, dtype=torch.float64) + t * dz).softmax(0)
        total += math.sqrt(float((r * dz**2).sum() - (r * dz).sum() ** 2)) / count
    assert mc.fisher_length(mc.LinearPath(a, b), x, 1001) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("energy", ["hellinger", "jsd", "exact"])
def test_it_is_bent_into_the_great_circle(energy: str) -> None:
    a, b = Table([Z0]), Table([Z1])
    p, q = (torch.tensor(z, dtype=torch.float64).softmax(0).tolist() for z in (Z0, Z1))
    far = categorical_distance(p, q)
    found, last = shortest(a, b, bends=4, energy=energy, steps=400)
    for path in (found, last):
        # a thirtieth of what the logit-linear way is too long
        assert far - 1e-9 <= mc.fisher_length(path, rows(1), 101) < far + 0.0015
    for t in (0.2, 0.5, 0.7):
        assert last.at(t)["logits"].softmax(1)[0].tolist() == pytest.approx(
            great_circle(p, q, t), abs=0.01
        )
    data = labelled(1, 3, torch.tensor([0]))
    line = mc.certify(mc.LinearPath(a, b), data, 41, progress=False)
    assert mc.certify(last, data, 41, progress=False).unevenness < 0.3 * line.unevenness


def test_a_chain_lies_on_the_great_circle() -> None:
    a, b = Table([Z0]), Table([Z1])
    p, q = (torch.tensor(z, dtype=torch.float64).softmax(0).tolist() for z in (Z0, Z1))
    count = 10
    how = {"kind": "polychain", "bends": count - 1, "between": False}
    _, last = shortest(a, b, steps=500, lr=0.1, **how)
    for k, z in enumerate(last.control_points["logits"]):
        expected = great_circle(p, q, k / count)
        assert z.softmax(1)[0].tolist() == pytest.approx(expected, abs=1e-3)
    length = mc.fisher_length(last, rows(1), count + 1)
    assert length == pytest.approx(categorical_distance(p, q), abs=1e-6)
    data = labelled(1, 3, torch.tensor([0]))
    assert mc.certify(last, data, count + 1, progress=False).unevenness < 1e-2


def test_two_distributions_of_the_specification() -> None:
    p, q = [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]
    found = mc.fisher_distance(*torch.tensor([p, q], dtype=torch.float64).log())
    assert float(found) == pytest.approx(1.5074337, abs=1e-7)
    assert categorical_distance(p, q) == pytest.approx(1.5074337, abs=1e-7)


# a table: the network that can do whatever it likes -------------------------------------------


def test_a_table_attains_the_bound_and_its_loss_is_convex() -> None:
    n, classes, count = 20, 5, 12
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(2, n, classes, generator=generator, dtype=torch.float64)
    a, b = Table(z[0]), Table(z[1])
    bound = mc.fisher_lower_bound(a, b, rows(n))
    assert bound == pytest.approx(table_distance(*z.softmax(2).tolist()), abs=1e-12)
    line = mc.fisher_length(mc.LinearPath(a, b), rows(n), count + 1)
    assert line > 1.05 * bound
    how = {"kind": "polychain", "bends": count - 1, "between": False, "steps": 400}
    found, _ = shortest(a, b, n, **how)
    y = torch.randint(classes, (n,), generator=generator)
    sure = mc.certify(found, labelled(n, classes, y), count + 1, progress=False)
    assert 1 - 1e-12 <= sure.ratio < 1 + 1e-5
    assert sure.lengths == pytest.approx(sure.distances, abs=0.02)
    loss = sure.table["loss"].to_numpy()
    assert len(loss) == count + 1
    assert (loss[2:] - 2 * loss[1:-1] + loss[:-2] > -1e-3).all()
    assert (loss <= loss[0] + (loss[-1] - loss[0]) * sure.table["t"] + 1e-4).all()
    for i in range(n):
        expected = great_circle(*z[:, i].softmax(1).tolist(), 0.5)
        middle = found.at(0.5)["logits"][i].softmax(0).tolist()
        assert middle == pytest.approx(expected, abs=0.03)


# normal distributions -------------------------------------------------------------------------


def test_normal_distributions_are_a_hyperbolic_plane() -> None:
    a, b = Gaussian(-1.0, 0.5), Gaussian(2.0, 1.5)
    far = gaussian_distance(-1.0, 0.5, 2.0, 1.5)
    assert far == pytest.approx(3.14225, abs=1e-5)
    line = mc.fisher_length(mc.LinearPath(a, b), rows(1), 401)
    assert line == pytest.approx(3.64356 + 1e-4, abs=2e-4)
    # the bound sees the two functions alone: through distributions that are not normal it is less
    assert mc.fisher_lower_bound(a, b, rows(1)) < 0.9 * far
    found, _ = shortest(a, b, bends=4, steps=400)
    assert far - 1e-3 < mc.fisher_length(found, rows(1), 101) < far + 0.01
    # the circle through both ends with its middle on the axis σ = 0, in units of μ / √2 and σ
    u, v = (m / math.sqrt(2) for m in (-1.0, 2.0))
    middle = (v**2 + 1.5**2 - u**2 - 0.5**2) / (2 * (v - u))
    radius = math.hypot(u - middle, 0.5)
    for t in (0.25, 0.5, 0.75):
        here = found.at(t)
        away = math.hypot(float(here["mu"]) / math.sqrt(2) - middle, float(here["sigma"]))
        assert away == pytest.approx(radius, rel=0.02)


@given(
    st.floats(-2, 2), st.floats(0.4, 1.5), st.floats(-0.02, 0.02), st.floats(-0.02, 0.02)
)  # fmt: skip
def test_small_steps_of_normal_distributions(m: float, s: float, dm: float, ds: float) -> None:
    found = mc.fisher_lower_bound(Gaussian(m, s), Gaussian(m + dm, s + ds), rows(1))
    assert found == pytest.approx(gaussian_distance(m, s, m + dm, s + ds), rel=2e-3, abs=1e-7)


# Jensen and Shannon ---------------------------------------------------------------------------


def test_the_divergence_is_its_series() -> None:
    p, q = [0.5, 0.3, 0.2], [0.2, 0.35, 0.45]
    found = float(mc.js_divergence(*torch.tensor([p, q], dtype=torch.float64).log()))
    assert found == pytest.approx(js_series(p, q), abs=1e-15)
    assert found == pytest.approx(js(p, q), abs=1e-15)


def test_it_is_an_eighth_of_the_squared_distance_in_the_limit() -> None:
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    dp = torch.tensor([0.5, -0.2, -0.3], dtype=torch.float64)
    errors = []
    for step in (0.2, 0.1, 0.05, 0.025):
        lp, lq = (p - step / 2 * dp).log(), (p + step / 2 * dp).log()
        eighth, far = float(mc.js_divergence(lp, lq)), float(mc.fisher_distance(lp, lq))
        errors.append(1 - math.sqrt(8 * eighth) / far)
        at_middle = math.sqrt(float((step * dp).square().div(p).sum()))
        assert far == pytest.approx(at_middle, rel=step**2)
    # of second order: half the step is a quarter of the error
    assert all(s > 0 for s in errors)
    assert all(t == pytest.approx(s / 4, rel=0.1) for s, t in pairwise(errors))
