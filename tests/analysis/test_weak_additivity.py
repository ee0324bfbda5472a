"""Weak additivity, against everything kept and in closed form."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.analysis.observing import find_calls
from mcbook.models import library
from tests import reference
from tests.analysis.test_features import (
    PERMUTABLE,
    assert_same,
    digits_pairs,
    drawn,
    mixed,
    permuted_pair,
    relu_net,
)
from tests.analysis.test_observing import MAKE, build, inputs


class Parametric(nn.Module):
    """Activations with a parameter, with two sizes, and over the units of a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.prelu = nn.Linear(6, 8), nn.PReLU(8)
        self.second, self.glu = nn.Linear(8, 8), nn.GLU()
        self.third, self.softmax = nn.Linear(4, 5), nn.Softmax(dim=1)
        self.norm, self.output = nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.glu(self.second(self.prelu(self.first(x))))
        return self.output(self.norm(self.softmax(self.third(z))))


MAKE_ALL = {n: m for n, m in MAKE.items() if n in ("convolutions", "lines", "residual", "in place",
                                                   "perceptron")}  # fmt: skip


def slow_row(module: nn.Module, a: tuple, b: tuple, alpha: float) -> dict[str, float]:
    """One row from the inputs and outputs of both networks, all of them kept."""
    (z_a, out_a), (z_b, out_b) = a, b
    left = ((1 - alpha) * out_a + alpha * out_b).flatten(1).tolist()
    right = module((1 - alpha) * z_a + alpha * z_b).detach().flatten(1).tolist()
    pairs = list(zip(left, right, strict=True))
    dists = [reference.apart(u, v) for u, v in pairs]
    flat = [[x for row in side for x in row] for side in (left, right)]
    signs = [
        sum((p > 0) == (q > 0) and (p < 0) == (q < 0) for p, q in zip(u, v, strict=True)) / len(u)
        for u, v in zip(z_a.flatten(1).tolist(), z_b.flatten(1).tolist(), strict=True)
    ]
    dist_mean, dist_std, zeros = reference.spread(dists)
    whole, cos_data = reference.apart(*flat), reference.cosine(*flat)
    return {
        "alpha": alpha, "dist": math.nan if whole is None else whole, "dist_mean": dist_mean,
        "dist_std": dist_std, "cos": reference.spread([reference.cosine(*p) for p in pairs])[0],
        "cos_data": math.nan if cos_data is None else cos_data,
        "signs": sum(signs) / len(signs), "samples": len(left), "zeros": zeros,
    }  # fmt: skip


def slow_table(
    a: nn.Module, b: nn.Module, x: Tensor, alphas: tuple[float, ...], layers: list[str] | None
) -> pd.DataFrame:
    kinds = find_calls(a, x, layers, ("activation",))
    names = sorted({call.module for call in kinds})
    of_a, of_b = (
        {f"{name}:{i}": (h, z) for i, (name, h, z) in enumerate(reference.calls(m, x, names))}
        for m in (a, b)
    )
    rows = []
    for call, one, other in zip(kinds, of_a.values(), of_b.values(), strict=True):
        for alpha in alphas:
            module = copy.deepcopy(mixed(a, b, alpha).eval().get_submodule(call.module))
            rows.append({"layer": call.name, "kind": call.kind,
                         **slow_row(module, one, other, alpha)})  # fmt: skip
    return pd.DataFrame(rows)


# against everything kept --------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE_ALL)
def test_streamed_is_what_everything_kept_gives(name: str) -> None:
    a, b, x = build(name, 0), build(name, 1), inputs(name)
    slow = slow_table(a, b, x, (0.3, 0.5), None)
    assert slow["dist"].min() > 1e-3
    for size in (None, 1, 4, 100):
        assert_same(mc.weak_additivity(a, b, x, (0.3, 0.5), batch_size=size), slow)


def test_activations_with_weights_are_those_of_the_network_between() -> None:
    a, b, x = build(Parametric, 0), build(Parametric, 1), inputs("perceptron")
    with torch.no_grad():
        b.prelu.weight.add_(1)
    found = mc.weak_additivity(a, b, x, (0.3, 0.5), batch_size=4)
    assert list(found["layer"].unique()) == ["prelu", "glu", "softmax"]
    assert_same(found, slow_table(a, b, x, (0.3, 0.5), None))
    named = mc.weak_additivity(a, b, x, 0.3, ["norm", "prelu"])
    assert named["kind"].tolist() == ["activation", "other"]
    assert_same(named, slow_table(a, b, x, (0.3,), ["norm", "prelu"]))


def test_in_place_is_as_out_of_place() -> None:
    x = inputs("residual")
    plain, other = (
        mc.weak_additivity(build(name, 0), build(name, 1), x) for name in ("residual", "in place")
    )
    assert_same(plain, other, 1e-12)
    silu = mc.weak_additivity(build("convolutions", 0), build("convolutions", 1),
                              inputs("convolutions"), layers="6")  # fmt: skip
    assert silu["dist"].item() > 1e-3


def test_a_network_of_torchvision() -> None:
    make = library("torchvision").models.mobilenet_v2
    a, b = (build(lambda: make(weights=None, num_classes=5), s) for s in (0, 1))
    x = drawn(2, 3, 32, 32)
    found = mc.weak_additivity(a, b, x, 0.5)
    assert len(found) == sum(isinstance(m, nn.ReLU6) for m in a.modules())
    layer = "features.1.conv.0.2"
    slow = slow_table(a, b, x, (0.5,), [layer])
    assert_same(found[found["layer"] == layer].reset_index(drop=True), slow)


# closed form --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MAKE_ALL)
def test_equal_networks_and_the_ends_are_additive(name: str, precision: torch.dtype) -> None:
    a, b, x = build(name, 0).to(precision), build(name, 1).to(precision), inputs(name)
    for found in (mc.weak_additivity(a, a, x, (0, 0.5, 1)), mc.weak_additivity(a, b, x, (0, 1))):
        assert found[["dist", "dist_mean", "dist_std"]].abs().max().max() == 0
        assert (found[["cos", "cos_data"]] - 1).abs().max().max() <= 1e-12
    assert (mc.weak_additivity(a, a, x)["signs"] == 1).all()


def test_at_one_half_it_is_the_definition_for_relu() -> None:
    """`|relu(u) + relu(v) - relu(u + v)|² / (|..| |..|)`: ReLU is homogeneous."""
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    u, v = (model[0](x).detach() for model in (a, b))
    left, right = u.relu() + v.relu(), (u + v).relu()
    expected = (left - right).square().sum() / (left.norm() * right.norm())
    row = mc.weak_additivity(a, b, x).iloc[0]
    assert (row["layer"], row["alpha"]) == ("1", 0.5)
    assert row["dist"] == pytest.approx(float(expected), rel=1e-12)


def test_relu_is_additive_where_signs_agree_or_one_is_zero() -> None:
    z_a = torch.tensor([[1.0, -2, 0], [3, 0, -1], [1, 1, 1]], dtype=torch.float64)
    z_b = torch.tensor([[4.0, -1, 2], [1, -2, 0], [1, -1, -5]], dtype=torch.float64)
    a, b = (relu_net(z.T, torch.eye(3).double()) for z in (z_a, z_b))
    row = mc.weak_additivity(a, b, torch.eye(3).double()[:2], 0.3).iloc[0]
    assert row["dist"] <= 1e-30
    assert row["signs"] == pytest.approx((2 / 3 + 1 / 3) / 2)  # a zero has a sign of its own
    row = mc.weak_additivity(a, b, torch.eye(3).double(), 0.5).iloc[0]
    assert row["dist"] == pytest.approx(0.5 / math.sqrt(12.75 * 12.25))
    assert row["signs"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3)


def test_opposite_inputs_are_masked_and_counted() -> None:
    w, x = drawn(5, 6), drawn(20, 6, seed=1)
    x[7] = 0
    a, b = relu_net(w, drawn(2, 5)), relu_net(-w, drawn(2, 5))
    found = mc.weak_additivity(a, b, x, (0.25, 0.5)).set_index("alpha")
    assert found.loc[0.5, ["samples", "zeros"]].tolist() == [20, 20]
    assert found.loc[0.5, ["dist", "dist_mean", "dist_std", "cos", "cos_data"]].isna().all()
    assert found.loc[0.25, "zeros"] == 1
    assert found.loc[0.25].notna().all()
    assert (found["signs"] == 1 / 20).all()


# laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), PERMUTABLE)
def test_the_order_of_units_does_not_matter(name: str, options: dict, tiny: mc.Data) -> None:
    a, b, pa, pb = permuted_pair(name, tiny, **options)
    x = tiny.test.x[:9].double()
    assert_same(mc.weak_additivity(a, b, x), mc.weak_additivity(pa, pb, x))


@pytest.mark.usefixtures("same_random_state")
def test_measuring_changes_nothing(untouched: Callable[[nn.Module], Callable[[], None]]) -> None:
    a, b, x = build("in place", 0), build("in place", 1), inputs("in place")
    same = x.clone()
    compare = [untouched(a), untouched(b)]
    first, again = (mc.weak_additivity(a, b, x) for _ in range(2))
    for check in compare:
        check()
    assert torch.equal(x, same)
    pd.testing.assert_frame_equal(first, again, check_exact=True)


def test_a_network_without_activations_is_refused() -> None:
    a, b = (nn.Sequential(nn.Flatten(), build("tied", s).output) for s in (0, 1))
    with pytest.raises(ValueError, match="modules of kind activation, found none.*layers="):
        mc.weak_additivity(a, b, drawn(3, 6))


def test_levels_on_digits(digits: mc.Data) -> None:
    worst = {
        kind: [mc.weak_additivity(a, b, digits.test.x)["dist"].max() for a, b in pairs]
        for kind, pairs in digits_pairs().items()
    }
    kinds = ("spawned", "matched", "independent")
    for spawned, matched, independent in zip(*(worst[k] for k in kinds), strict=True):
        assert spawned <= 1e-3
        assert spawned < matched < independent < 0.1
