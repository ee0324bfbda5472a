"""What modules make and inherit, against everything kept and in closed form."""

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
from tests.analysis.test_features import PERMUTABLE, assert_same, drawn, mixed, permuted_pair
from tests.analysis.test_observing import MAKE, build, inputs

ALL = ("linear", "activation", "other")


def slow_row(module: nn.Module, of: list[tuple[Tensor, Tensor]], alpha: float) -> dict[str, float]:
    """One row from input and output in A, in B and between, all of them kept."""
    (h_a, z_a), (h_b, z_b), (_, z) = of
    bar = ((1 - alpha) * z_a + alpha * z_b).flatten().tolist()
    with torch.no_grad():
        alone = copy.deepcopy(module)((1 - alpha) * h_a + alpha * h_b).flatten().tolist()
    own = z.flatten().tolist()
    made = [p - q for p, q in zip(alone, bar, strict=True)]
    inherited = [p - q for p, q in zip(own, alone, strict=True)]
    total = [p + q for p, q in zip(made, inherited, strict=True)]
    lengths = [math.sqrt(reference.inner(v, v)) for v in (total, made, inherited, bar)]
    cosine = reference.cosine(made, inherited)
    return {
        "alpha": alpha,
        **{
            n: v / lengths[3] for n, v in zip(("total", "made", "inherited"), lengths, strict=False)
        },
        "angle": math.nan if cosine is None else cosine,
    }


def slow_table(
    a: nn.Module,
    b: nn.Module,
    x: Tensor,
    alphas: tuple[float, ...],
    middle: Callable[[float], nn.Module] | None = None,
) -> pd.DataFrame:
    kinds = find_calls(a, x, None, ALL)
    names = sorted({call.module for call in kinds})
    ends = [reference.calls(model, x, names) for model in (a, b)]
    between = {}
    for alpha in alphas:
        model = (middle or (lambda t: mixed(a, b, t)))(alpha).double().eval()
        between[alpha] = model, reference.calls(model, x, names)
    rows = []
    for i, call in enumerate(kinds):
        for alpha in alphas:
            model, kept = between[alpha]
            of = [seen[i][1:] for seen in (*ends, kept)]
            row = slow_row(model.get_submodule(call.module), of, alpha)
            rows.append({"layer": call.name, "kind": call.kind, **row})
    return pd.DataFrame(rows)


def assert_rows(found: pd.DataFrame, expected: pd.DataFrame, tolerance: float = 1e-10) -> None:
    """Equal, the angle where both of its legs are more than rounding."""
    legs = expected[["made", "inherited"]].min(axis=1) > 1e-9
    assert_same(found.drop(columns="angle"), expected.drop(columns="angle"), tolerance)
    assert_same(found[legs], expected[legs], 1e-9)


# against everything kept --------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_streamed_is_what_everything_kept_gives(name: str) -> None:
    a, b, x = build(name, 0), build(name, 1), inputs(name)
    slow = slow_table(a, b, x, (0.3, 0.5))
    assert slow["total"].max() > 1e-2
    for size in (None, 1, 4, 100):
        assert_rows(mc.feature_defects(a, b, x, (0.3, 0.5), batch_size=size), slow)


def test_in_place_is_as_out_of_place() -> None:
    x = inputs("residual")
    plain, other = (
        mc.feature_defects(build(name, 0), build(name, 1), x) for name in ("residual", "in place")
    )
    assert_rows(plain, other, 1e-12)


@pytest.mark.parametrize("on", ["x", "statistics"])
def test_reset_is_a_reset_of_all_three(on: str) -> None:
    a, b, x = build("residual", 0), build("residual", 1), inputs("residual")
    images = x if on == "x" else inputs("residual", 30)[11:]
    options = {} if on == "x" else {"statistics": images}
    found = mc.feature_defects(a, b, x, 0.4, normalization="reset", **options)
    path = mc.LinearPath(a, b)
    slow = slow_table(
        *(mc.reset_batch_norm(model, images) for model in (a, b)), x, (0.4,),
        lambda t: mc.reset_batch_norm(path.model_at(t), images),
    )  # fmt: skip
    assert_rows(found, slow)
    assert_rows(mc.feature_defects(a, b, x, 0.4, normalization=None, **options), slow)
    assert (found["total"] - mc.feature_defects(a, b, x, 0.4)["total"]).abs().max() > 1e-4


def test_a_network_of_torchvision() -> None:
    make = library("torchvision").models.resnet18
    a, b = (build(lambda: make(weights=None, num_classes=5), s) for s in (0, 1))
    found = mc.feature_defects(a, b, drawn(2, 3, 32, 32))
    # each of eight blocks calls its ReLU twice
    assert (found["kind"] == "activation").sum() == 1 + 2 * 8
    assert (found["kind"] == "other").sum() == 20 + 2  # norms, and two kinds of pooling
    sums = found["made"] ** 2 + found["inherited"] ** 2
    sums += (2 * found["angle"] * found["made"] * found["inherited"]).fillna(0)
    pd.testing.assert_series_equal(found["total"] ** 2, sums, check_names=False, rtol=1e-9)


# closed form --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["convolutions", "residual", "perceptron"])
def test_made_and_inherited_add_up_to_the_total(name: str) -> None:
    a, b, x = build(name, 0), build(name, 1), inputs(name)
    found = mc.feature_defects(a, b, x, (0.2, 0.6))
    sums = found["made"] ** 2 + found["inherited"] ** 2
    sums += (2 * found["angle"] * found["made"] * found["inherited"]).fillna(0)
    pd.testing.assert_series_equal(
        found["total"] ** 2, sums, check_names=False, rtol=1e-10, atol=1e-12
    )
    assert found["angle"].dropna().abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_a_linear_layer_makes_what_does_not_commute(alpha: float) -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    found = mc.feature_defects(a, b, x, alpha).set_index("layer")
    of_a, of_b = (reference.calls(model, x, ["0", "2", "4"]) for model in (a, b))
    for (name, h_a, z_a), (_, h_b, z_b) in zip(of_a, of_b, strict=True):
        change = a.get_submodule(name).weight.detach() - b.get_submodule(name).weight.detach()
        made = alpha * (1 - alpha) * float(((h_a - h_b) @ change.T).norm())
        length = float(((1 - alpha) * z_a + alpha * z_b).norm())
        assert found.loc[name, "made"] == pytest.approx(made / length, rel=1e-10, abs=1e-14)
    commuting = mc.commutativity(a, b, x).set_index("layer")
    assert (commuting["dist"] > 1e-20).tolist() == (found.loc[["0", "2", "4"], "made"] > 1e-10
                                                    ).tolist()  # fmt: skip


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_an_activation_makes_what_is_not_additive(alpha: float) -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    found = mc.feature_defects(a, b, x, alpha).set_index("layer")
    additive = mc.weak_additivity(a, b, x, alpha).set_index("layer")
    of_a, of_b = (reference.calls(model, x, ["1", "3"]) for model in (a, b))
    for (name, z_a, out_a), (_, z_b, out_b) in zip(of_a, of_b, strict=True):
        function = torch.relu if name == "1" else torch.tanh
        right = function((1 - alpha) * z_a + alpha * z_b)
        left = (1 - alpha) * out_a + alpha * out_b
        made = float((right - left).norm() / left.norm())
        assert found.loc[name, "made"] == pytest.approx(made, rel=1e-10)
        # dist is relative to both sides, made to the mixture
        dist = made**2 * float(left.norm() / right.norm())
        assert additive.loc[name, "dist"] == pytest.approx(dist, rel=1e-10)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MAKE)
def test_equal_networks_and_the_ends_have_none(name: str, precision: torch.dtype) -> None:
    a, b, x = build(name, 0).to(precision), build(name, 1).to(precision), inputs(name)
    columns = ["total", "made", "inherited"]
    assert mc.feature_defects(a, b, x, (0, 1))[columns].max().max() == 0
    assert mc.feature_defects(a, a, x, 0.3)[columns].max().max() == 0


def test_what_is_made_once_is_inherited_by_all_that_follows() -> None:
    """Only the first two layers differ, so that the rest makes nothing where it is linear."""
    a, b = build("perceptron", 0), build("perceptron", 1)
    b[4] = a[4]
    found = mc.feature_defects(a, b, inputs("perceptron")).set_index("layer")
    assert found.loc["0", ["total", "made", "inherited"]].max() <= 1e-15
    assert found.loc["1", "inherited"] <= 1e-15
    assert found.loc["1", "made"] == pytest.approx(found.loc["1", "total"], rel=1e-12)
    assert found.loc["4", "made"] <= 1e-14
    assert found.loc["4", "inherited"] == pytest.approx(found.loc["4", "total"], rel=1e-12)
    assert found.loc["4", "total"] > 1e-3


def test_a_norm_makes_and_pooling_of_means_does_not() -> None:
    def make() -> nn.Module:
        conv, norm, pool = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(2)
        return nn.Sequential(conv, norm, pool, nn.LayerNorm(1), nn.MaxPool2d(1))

    a, b = build(make, 0), build(make, 1)
    found = mc.feature_defects(a, b, drawn(9, 1, 4, 4)).set_index("layer")
    assert found["kind"].tolist() == ["linear", *["other"] * 4]
    assert found.loc["0", "made"] <= 1e-15
    assert found.loc["1", "made"] > 1e-3
    assert found.loc["2", "made"] <= 1e-15
    assert found.loc["4", "made"] <= 1e-15
    named = mc.feature_defects(a, b, drawn(9, 1, 4, 4), layers=["2", "0"])
    assert named["layer"].tolist() == ["0", "2"]


# laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), PERMUTABLE)
def test_the_order_of_units_does_not_matter(name: str, options: dict, tiny: mc.Data) -> None:
    a, b, pa, pb = permuted_pair(name, tiny, **options)
    x = tiny.test.x[:9].double()
    for normalization in ("none", "reset"):
        found = mc.feature_defects(a, b, x, normalization=normalization)
        assert_rows(mc.feature_defects(pa, pb, x, normalization=normalization), found)


@pytest.mark.usefixtures("same_random_state")
@pytest.mark.parametrize("normalization", ["none", "reset"])
def test_measuring_changes_nothing(
    normalization: str, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    a, b, x = build("in place", 0), build("in place", 1), inputs("in place")
    same = x.clone()
    compare = [untouched(a), untouched(b)]
    first, again = (mc.feature_defects(a, b, x, normalization=normalization) for _ in range(2))
    for check in compare:
        check()
    assert torch.equal(x, same)
    pd.testing.assert_frame_equal(first, again, check_exact=True)


def test_repair_and_unknown_ways_are_refused() -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    with pytest.raises(ValueError, match="normalization 'none' or 'reset', found 'repair'"):
        mc.feature_defects(a, b, x, normalization="repair")
    with pytest.raises(mc.UnknownNameError, match="unknown normalization 'rest'"):
        mc.feature_defects(a, b, x, normalization="rest")
