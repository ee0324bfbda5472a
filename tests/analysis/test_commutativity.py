"""Commutativity, against layers that read each other's inputs and in closed form."""

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
    permuted_pair,
    relu_net,
)
from tests.analysis.test_observing import MAKE, build, inputs


def odd_convolutions() -> nn.Module:
    """What a convolution can be: grouped, dilated, padded around, transposed, over 1 to 3 axes."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=(2, 1), padding_mode="reflect"),
        nn.Tanh(),
        nn.Conv2d(4, 8, (3, 2), padding="same", padding_mode="circular", dilation=(2, 1), groups=2),
        nn.Tanh(),
        nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2,
                           dilation=(1, 2), bias=False),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 6, (2, 3), groups=6),
        nn.Flatten(2),
        nn.Conv1d(6, 4, 5, stride=7, padding_mode="replicate", padding=2),
        nn.Tanh(),
        nn.ConvTranspose1d(4, 2, 6, stride=3, bias=False),
        nn.Unflatten(2, (2, 2, -1)),
        nn.Conv3d(2, 2, (1, 2, 3), groups=2),
        nn.ConvTranspose3d(2, 4, (2, 1, 2), stride=(1, 2, 1), groups=1),
        nn.Flatten(),
        nn.LazyLinear(3),
    )  # fmt: skip


def odd(seed: int) -> nn.Module:
    def make() -> nn.Module:
        model = odd_convolutions()
        model(torch.zeros(1, 2, 8, 7))
        return model

    return build(make, seed)


def linear_map(layer: nn.Module, weight: Tensor, h: Tensor) -> Tensor:
    """The layer itself with another weight and its bias zero, run on `h`; `[n, d]`."""
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.zero_()
        return layer(h).flatten(1)


def slow_row(a: nn.Module, b: nn.Module, h_a: Tensor, h_b: Tensor) -> dict[str, float]:
    """One row by the definitions, from four runs of the layers."""
    w_a, w_b = a.weight.detach(), b.weight.detach()
    left = linear_map(a, w_a, h_a) + linear_map(b, w_b, h_b)
    right = linear_map(a, w_a, h_b) + linear_map(b, w_b, h_a)
    dists = [reference.apart(u, v) for u, v in zip(left.tolist(), right.tolist(), strict=True)]
    apart = [reference.apart(u.flatten().tolist(), v.flatten().tolist())
             for u, v in ((left, right), (w_a, w_b), (h_a, h_b))]  # fmt: skip
    dist, dist_weights, dist_features = (math.nan if v is None else v for v in apart)
    # independent weights of mean zero: no products of two, so each weight alone, one after another
    alone = 0.0
    for i in range(w_a.numel()):
        one = torch.zeros(w_a.numel(), dtype=torch.float64)
        one[i] = 1
        alone += float(linear_map(a, one.view_as(w_a), h_a - h_b).square().sum())
    chance = alone * float((w_a - w_b).square().mean())
    mean, std, zeros = reference.spread(dists)
    product = dist_weights * dist_features
    return {
        "dist": dist, "dist_mean": mean, "dist_std": std, "dist_weights": dist_weights,
        "dist_features": dist_features, "ratio": dist / product if product else math.nan,
        "overlap": float((left - right).square().sum()) / chance if chance else math.nan,
        "samples": len(left), "zeros": zeros,
    }  # fmt: skip


def slow_table(
    a: nn.Module, b: nn.Module, x: Tensor, layers: list[str] | None = None
) -> pd.DataFrame:
    kinds = find_calls(a, x, layers, ("linear",))
    names = sorted({call.module for call in kinds})
    of_a, of_b = reference.calls(a, x, names), reference.calls(b, x, names)
    rows = []
    for call, (name, h_a, _), (_, h_b, _) in zip(kinds, of_a, of_b, strict=True):
        pair = (model.get_submodule(name) for model in (a, b))
        rows.append({"layer": call.name, **slow_row(*pair, h_a, h_b)})
    return pd.DataFrame(rows)


# against the slow ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MAKE, "odd"])
def test_it_is_what_four_runs_of_the_layers_give(name: str) -> None:
    if name == "odd":
        a, b, x = odd(0), odd(1), drawn(7, 2, 8, 7)
    else:
        a, b, x = build(name, 0), build(name, 1), inputs(name)
    slow = slow_table(a, b, x)
    later = slow["dist_features"] > 0
    assert later.sum() >= 1
    assert slow["dist"][later].min() > 1e-4
    for size in (None, 1, 3):
        found = mc.commutativity(a, b, x, batch_size=size)
        assert_same(found, slow)


def test_a_network_of_torchvision() -> None:
    make = library("torchvision").models.mobilenet_v2
    a, b = (build(lambda: make(weights=None, num_classes=5), s) for s in (0, 1))
    x = drawn(2, 3, 32, 32)
    found = mc.commutativity(a, b, x)
    assert len(found) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in a.modules())
    layer = "features.1.conv.0.0"  # depthwise
    slow = slow_table(a, b, x, [layer])
    assert_same(found[found["layer"] == layer].reset_index(drop=True), slow)


def test_in_place_is_as_out_of_place() -> None:
    x = inputs("residual")
    plain, other = (
        mc.commutativity(build(name, 0), build(name, 1), x) for name in ("residual", "in place")
    )
    assert_same(plain, other, 1e-12)


@pytest.mark.parametrize("layer", ["2", "4", "12", "13", "15"])
def test_overlap_against_weights_that_are_drawn(layer: str) -> None:
    """Over 400 draws of `W_A - W_B`; the estimate must be within 5 of its standard errors."""
    a, b, x = odd(0), odd(1), drawn(4, 2, 8, 7)
    pair = (a.get_submodule(layer), b.get_submodule(layer))
    h_a, h_b = (reference.calls(model, x, [layer])[0][1] for model in (a, b))
    found = mc.commutativity(a, b, x, layer)["overlap"].item()
    change = pair[0].weight.detach() - pair[1].weight.detach()
    generator = torch.Generator().manual_seed(0)
    root = change.square().mean().sqrt()
    squares = torch.stack([
        linear_map(pair[0], root * torch.randn(change.shape, generator=generator,
                                               dtype=torch.float64), h_a - h_b).square().sum()
        for _ in range(400)
    ])  # fmt: skip
    top = linear_map(pair[0], change, h_a - h_b).square().sum()
    error = float(squares.std() / squares.mean()) / 20
    assert found == pytest.approx(float(top / squares.mean()), rel=5 * error)
    assert error < 0.05


# closed form --------------------------------------------------------------------------------


def test_equal_networks_commute() -> None:
    for name in ("perceptron", "residual", "convolutions"):
        found = mc.commutativity(build(name, 0), build(name, 0), inputs(name))
        columns = ["dist", "dist_mean", "dist_std", "dist_weights", "dist_features"]
        assert found[columns].abs().max().max() == 0
        assert found[["ratio", "overlap"]].isna().all().all()


@pytest.mark.parametrize("bias", [True, False])
def test_one_equal_factor_is_enough(bias: bool) -> None:
    a, b = build("perceptron", 0), build("perceptron", 1)
    b[0] = build("perceptron", 0)[0]  # the second layer reads the same
    b[4].weight.data.copy_(a[4].weight)  # the third does the same
    if not bias:
        for layer in (a[0], a[2], a[4], b[0], b[2], b[4]):
            layer.bias = None
    found = mc.commutativity(a, b, inputs("perceptron")).set_index("layer")
    assert found["dist"].abs().max() == 0
    assert found["dist_weights"].tolist() == [0, pytest.approx(2, abs=1.9), 0]
    assert found.loc["2", "dist_weights"] > 0.1
    assert found.loc["4", "dist_features"] > 0.01
    assert found.loc["2", "dist_features"] == 0
    assert found[["ratio", "overlap"]].isna().all().all()


def test_equation_9() -> None:
    """The residual of A and π(B) is `(W_A - P W_B P'ᵀ)(H_A - P' H_B)`, units of B permuted."""
    w = [drawn(7, 6, seed=0), drawn(5, 7, seed=1), drawn(3, 5, seed=2)]
    v = [drawn(7, 6, seed=3), drawn(5, 7, seed=4), drawn(3, 5, seed=5)]
    x = drawn(20, 6, seed=6)
    p, q = torch.eye(7)[torch.randperm(7)].double(), torch.eye(5)[torch.randperm(5)].double()
    a = relu_net(*w)
    moved = relu_net(p @ v[0], q @ v[1] @ p.T, v[2] @ q.T)
    h_a, h_b = (x @ w[0].T).relu(), (x @ v[0].T).relu()
    residual = (h_a - h_b @ p.T) @ (w[1] - q @ v[1] @ p.T).T
    left = h_a @ w[1].T + h_b @ v[1].T @ q.T
    right = h_a @ (q @ v[1] @ p.T).T + h_b @ p.T @ w[1].T
    torch.testing.assert_close(left - right, residual, rtol=1e-10, atol=1e-10)
    found = mc.commutativity(a, moved, x).set_index("layer")
    expected = residual.square().sum() / (left.norm() * right.norm())
    assert found.loc["2", "dist"] == pytest.approx(float(expected), rel=1e-10)


def test_biases_play_no_part() -> None:
    a, b, x = build("convolutions", 0), build("convolutions", 1), inputs("convolutions")
    plain = mc.commutativity(a, b, x, "0")
    with torch.no_grad():
        a[0].bias.add_(3)
        b[0].bias.sub_(5)
    assert_same(mc.commutativity(a, b, x, "0"), plain)


def test_what_avoids_each_other_overlaps_nowhere() -> None:
    """Weights differ in one input, features in the other; then both in the same."""
    a, b = (relu_net(torch.diag(torch.tensor(d)), torch.tensor([w]))
            for d, w in (([1.0, 1], [1.0, 1]), ([1.0, 2], [3.0, 1])))  # fmt: skip
    a, b = a.double(), b.double()
    x = torch.tensor([[1.0, 1], [2, 1], [0, 3]], dtype=torch.float64)
    row = mc.commutativity(a, b, x, "2").iloc[0]
    assert (row["dist"], row["ratio"], row["overlap"]) == (0, 0, 0)
    assert row["dist_weights"] > 0.5
    assert row["dist_features"] > 0.1
    with torch.no_grad():
        b[2].weight.copy_(torch.tensor([[1.0, 3]]))
    # of two inputs one differs: |dw dh|² is twice what it is by chance
    assert mc.commutativity(a, b, x, "2")["overlap"].item() == pytest.approx(2)


def test_sides_that_are_zero_are_masked_and_counted() -> None:
    a, b = (relu_net(drawn(4, 6, seed=s), drawn(3, 4, seed=s + 2)) for s in (0, 1))
    x = drawn(9, 6, seed=7)
    x[2] = x[5] = 0
    found = mc.commutativity(a, b, x).set_index("layer")
    assert found["zeros"].tolist() == [2, 2]
    assert found["samples"].tolist() == [9, 9]
    assert found[["dist", "dist_mean", "dist_std"]].notna().all().all()
    nothing = mc.commutativity(a, b, 0 * x).set_index("layer")
    assert (nothing["zeros"] == 9).all()
    assert nothing[["dist", "dist_mean", "dist_std", "dist_features"]].isna().all().all()


# laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), PERMUTABLE)
def test_the_order_of_units_does_not_matter(name: str, options: dict, tiny: mc.Data) -> None:
    a, b, pa, pb = permuted_pair(name, tiny, **options)
    x = tiny.test.x[:9].double()
    found = mc.commutativity(a, b, x)
    assert_same(found, mc.commutativity(pa, pb, x))
    assert (mc.commutativity(a, pb, x)["dist"] - found["dist"]).abs().max() > 1e-3


def test_it_is_symmetric() -> None:
    a, b, x = odd(0), odd(1), drawn(7, 2, 8, 7)
    assert_same(mc.commutativity(a, b, x), mc.commutativity(b, a, x))


@pytest.mark.usefixtures("same_random_state")
def test_measuring_changes_nothing(untouched: Callable[[nn.Module], Callable[[], None]]) -> None:
    a, b, x = build("in place", 0), build("in place", 1), inputs("in place")
    same = x.clone()
    compare = [untouched(a), untouched(b)]
    first, again = (mc.commutativity(a, b, x) for _ in range(2))
    for check in compare:
        check()
    assert torch.equal(x, same)
    pd.testing.assert_frame_equal(first, again, check_exact=True)


def test_layers_without_a_matrix_are_refused_by_name() -> None:
    a, b, x = build("residual", 0), build("residual", 1), inputs("residual")
    for layer, kind in (("1", "ReLU"), ("2.norm1", "BatchNorm2d"), ("3", "Block")):
        message = (
            f"linear layers or convolutions as PyTorch has them, found that '{layer}' is a {kind}"
        )
        with pytest.raises(TypeError, match=message):
            mc.commutativity(a, b, x, ["0", layer])


def test_levels_on_digits(digits: mc.Data) -> None:
    dists = {
        kind: [mc.commutativity(a, b, digits.test.x).set_index("layer")["dist"] for a, b in pairs]
        for kind, pairs in digits_pairs().items()
    }
    for i in range(3):
        for layer in ("linear2", "output"):
            spawned, matched, independent = (
                dists[kind][i][layer] for kind in ("spawned", "matched", "independent")
            )
            assert spawned < matched < independent
            assert independent >= 5 * matched
            assert dists["spawned"][i]["linear1"] == 0
