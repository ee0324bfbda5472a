"""Distances between distributions: closed forms, laws, an outside oracle, extreme logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from information.networks import Own
from reference_geodesics import categorical_distance, js, said
from torch import Tensor, nn

import mcbook as mc
from mcbook.information.distances import hellinger_squared

inf = math.inf


@st.composite
def distributions(draw: st.DrawFn, count: int = 2) -> Tensor:
    """Distributions over the same few classes, some of them with zeros."""
    classes = draw(st.integers(2, 6))
    entry = st.one_of(st.just(0.0), st.floats(1e-12, 1))
    found = []
    for _ in range(count):
        raw = draw(st.lists(entry, min_size=classes, max_size=classes).filter(lambda p: sum(p) > 0))
        found.append([x / math.fsum(raw) for x in raw])
    return torch.tensor(found, dtype=torch.float64)


@given(distributions())
def test_they_are_those_of_the_definitions(pq: Tensor) -> None:
    (lp, lq), (p, q) = pq.log(), pq.tolist()
    assert float(mc.fisher_distance(lp, lq)) == pytest.approx(categorical_distance(p, q), abs=1e-7)
    assert float(mc.js_divergence(lp, lq)) == pytest.approx(js(p, q), abs=1e-14)
    chord = math.fsum((math.sqrt(x) - math.sqrt(y)) ** 2 for x, y in zip(p, q, strict=True))
    assert float(hellinger_squared(lp, lq)) == pytest.approx(4 * chord, abs=1e-14)


@given(distributions())
def test_the_sphere_of_geoopt_agrees(pq: Tensor) -> None:
    sphere = geoopt.Sphere()
    far = 2 * sphere.dist(pq[0].sqrt(), pq[1].sqrt())
    assert float(mc.fisher_distance(*pq.log())) == pytest.approx(float(far), abs=1e-3)
    if 0.01 < float(far) < 3.1:  # arccos is exact enough there
        assert float(mc.fisher_distance(*pq.log())) == pytest.approx(float(far), abs=1e-9)


@given(distributions(3))
def test_they_are_metrics_with_known_ranges_and_order(pqr: Tensor) -> None:
    p, q, r = pqr.log()
    for d in (mc.fisher_distance, lambda a, b: mc.js_divergence(a, b).sqrt()):
        assert float(d(p, q)) == float(d(q, p))
        assert float(d(p, r)) <= float(d(p, q) + d(q, r)) + 1e-7
        assert float(d(p, p)) < 1e-7
    assert float(mc.fisher_distance(p, p)) == 0
    far, eighth = float(mc.fisher_distance(p, q)), float(mc.js_divergence(p, q))
    assert 0 <= far <= math.pi + 1e-12
    assert 0 <= eighth <= math.log(2) + 1e-12
    assert math.sqrt(8 * eighth) <= far + 1e-7
    assert far <= math.pi / math.sqrt(8 * math.log(2)) * math.sqrt(8 * eighth) + 1e-7
    assert far**2 * 8 / math.pi**2 - 1e-12 <= float(hellinger_squared(p, q)) <= far**2 + 1e-12


def test_distributions_with_nothing_in_common_are_a_half_circle_apart() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.1, 0.9]], dtype=torch.float64).log()
    assert float(mc.fisher_distance(p, q)) == pytest.approx(math.pi, abs=1e-15)
    assert float(mc.js_divergence(p, q)) == pytest.approx(math.log(2), abs=1e-15)
    assert float(hellinger_squared(p, q)) == pytest.approx(8, abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_steps_are_as_exact_as_large_ones(dtype: torch.dtype) -> None:
    """Where arccos gives 0 and Jensen-Shannon nothing but rounding."""
    z = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)
    dz = 1e-4 * torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    p = z.softmax(0)
    speed = float((p * dz**2).sum() - (p * dz).sum() ** 2) ** 0.5
    lp, lq = ((z + s * dz).log_softmax(0).to(dtype) for s in (-0.5, 0.5))
    close = {torch.float32: 3e-3, torch.float64: 1e-8}[dtype]
    assert float(mc.fisher_distance(lp, lq)) == pytest.approx(speed, rel=close)
    if dtype is torch.float64:
        assert math.sqrt(8 * float(mc.js_divergence(lp, lq))) == pytest.approx(speed, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([120.0, -120.0, 0.0], [-120.0, 120.0, 0.0]),
        ([120.0, -120.0, 0.0], [120.0, -120.0, 0.0]),
        ([1e4, -1e4, 0.0], [0.0, -1e4, 1e4]),
        ([0.0, -inf, 1.0], [1.0, -inf, 0.0]),
        ([0.0, -inf, 1.0], [0.5, 0.3, 0.2]),
        ([-inf, -inf, 1.0], [1.0, -inf, -inf]),
    ],
)
def test_extreme_logits_have_values_and_gradients(
    first: list[float], second: list[float], dtype: torch.dtype
) -> None:
    z, w = (torch.tensor([x], dtype=dtype, requires_grad=True) for x in (first, second))
    lp, lq = z.log_softmax(1), w.log_softmax(1)
    p, q = ([math.exp(v) for v in x[0].tolist()] for x in (lp, lq))
    chord = math.fsum((math.sqrt(x) - math.sqrt(y)) ** 2 for x, y in zip(p, q, strict=True))
    for f, slow in ((hellinger_squared, 4 * chord), (mc.js_divergence, js(p, q))):
        value = f(lp, lq)
        assert float(value.detach()) == pytest.approx(slow, abs=1e-6)
        for slope in torch.autograd.grad(value.sum(), (z, w), retain_graph=True):
            assert slope.isfinite().all()
    far = float(mc.fisher_distance(lp, lq).detach())
    assert far == pytest.approx(categorical_distance(p, q), abs=2e-3)


@settings(max_examples=5)
@given(distributions())
def test_gradients_are_the_finite_differences(pq: Tensor) -> None:
    z = (0.9 * pq + 0.1 / pq.shape[1]).log()
    for f in (hellinger_squared, mc.js_divergence):
        assert torch.autograd.gradcheck(
            lambda a, b, f=f: f(a.log_softmax(0), b.log_softmax(0)),
            tuple(x.clone().requires_grad_() for x in z),
        )


def test_leading_axes_are_kept() -> None:
    lp = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    for f in (mc.fisher_distance, mc.js_divergence, hellinger_squared):
        found = f(lp[1:], lp[:-1])
        assert found.shape == (3, 3)
        assert torch.equal(found[1, 2], f(lp[2, 2], lp[1, 2]))


# what a network says --------------------------------------------------------------------------


def test_log_probabilities_are_those_of_the_slow_one(
    tiny: mc.Data, untouched: Callable, same_random_state: None
) -> None:
    model = Own(0).train()
    model.drop.eval()
    unchanged = untouched(model)
    x = tiny.test.x
    lp = mc.log_probabilities(model, x)
    unchanged()
    assert lp.dtype == torch.float64
    assert lp.shape == (len(x), 10)
    assert not lp.requires_grad
    slow = torch.tensor(said(model, None, x), dtype=torch.float64)
    torch.testing.assert_close(lp.exp(), slow, rtol=1e-5, atol=1e-7)
    for size in (1, 7, 30):
        torch.testing.assert_close(mc.log_probabilities(model, x, size), lp, rtol=1e-4, atol=1e-5)


class Says(nn.Module):
    """A network that gives what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_networks_without_weights_and_zero_probabilities_are_taken() -> None:
    lp = mc.log_probabilities(Says(), torch.tensor([[0.0, -inf], [0.0, 0.0]]))
    assert lp.tolist() == [[0.0, -inf], [-math.log(2)] * 2]
    assert mc.log_probabilities(Says(), torch.tensor([[-900.0, 0.0]])).tolist() == [[-900.0, 0.0]]


@pytest.mark.parametrize("bad", [math.nan, inf])
def test_outputs_that_are_no_distribution_are_counted(bad: float) -> None:
    z = torch.zeros(7, 3)
    z[1, 0] = z[4, 2] = z[4, 1] = bad
    with pytest.raises(FloatingPointError, match="found NaN or infinity for 2 of 7 images"):
        mc.log_probabilities(Says(), z, 3)
    with pytest.raises(FloatingPointError, match="for 1 of 1 images"):
        mc.log_probabilities(Says(), torch.full((1, 3), -inf))


def test_bad_input_is_refused(tiny: mc.Data) -> None:
    with pytest.raises(ValueError, match="at least one image, found none"):
        mc.log_probabilities(Own(0), tiny.test.x[:0])
    for shape in ((3,), (3, 2, 2)):
        found = rf"logits \[3, classes\] from the network, found \[{', '.join(map(str, shape))}\]"
        with pytest.raises(ValueError, match=found):
            mc.log_probabilities(Says(), torch.zeros(shape))

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ValueError, match="from the network, found tuple"):
        mc.log_probabilities(Pair(), torch.zeros(3, 2))
