"""Layerwise linear feature connectivity, against everything kept and in closed form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.analysis.features import checked_alphas
from mcbook.analysis.observing import find_calls
from mcbook.models import library
from mcbook.paths import Path
from tests import reference
from tests.analysis.test_observing import MAKE, Switch, build, inputs

MEANS = ["cos", "coef", "cos_data", "coef_data", "cos_ends", "cos_ends_data", "cos_abs"]


def mixed(a: nn.Module, b: nn.Module, alpha: float) -> nn.Module:
    """The network between, its weights mixed by the oracle."""
    model = mc.LinearPath(a, b).model_at(0.0).double()
    model.load_state_dict(reference.mixture(a.state_dict(), b.state_dict(), alpha))
    return model


def slow_row(m: Tensor, a: Tensor, b: Tensor, alpha: float) -> dict[str, float]:
    """One row, sample by sample, from features that were all kept."""
    rows = [z.flatten(1).tolist() for z in (m, a, b)]
    t = [[(1 - alpha) * p + alpha * q for p, q in zip(u, v, strict=True)]
         for u, v in zip(rows[1], rows[2], strict=True)]  # fmt: skip
    cosines = [reference.cosine(u, v) for u, v in zip(rows[0], t, strict=True)]
    ends = [reference.cosine(u, v) for u, v in zip(rows[1], rows[2], strict=True)]
    coefs = [
        None if cos is None else reference.inner(u, v) / reference.inner(v, v)
        for cos, u, v in zip(cosines, rows[0], t, strict=True)
    ]
    flat = [[x for row in part for x in row] for part in (rows[0], t, rows[1], rows[2])]
    cos, cos_std, zeros = reference.spread(cosines)
    cos_ends, cos_ends_std, zeros_ends = reference.spread(ends)
    coef, coef_std, _ = reference.spread(coefs)
    return {
        "alpha": alpha, "cos": cos, "cos_std": cos_std,
        "cos_abs": reference.spread([c if c is None else abs(c) for c in cosines])[0],
        "cos_data": reference.cosine(flat[0], flat[1]), "cos_ends": cos_ends,
        "cos_ends_std": cos_ends_std, "cos_ends_data": reference.cosine(flat[2], flat[3]),
        "coef": coef, "coef_std": coef_std,
        "coef_data": reference.inner(flat[0], flat[1]) / reference.inner(flat[1], flat[1]),
        "samples": len(m), "zeros": zeros, "zeros_ends": zeros_ends,
    }  # fmt: skip


def slow_table(a: nn.Module, b: nn.Module, x: Tensor, alphas: Sequence[float]) -> pd.DataFrame:
    kinds = find_calls(a, x, None, ("linear", "activation"))
    names = sorted({call.module for call in kinds})
    of_a, of_b = reference.calls(a, x, names), reference.calls(b, x, names)
    middle = {alpha: reference.calls(mixed(a, b, alpha), x, names) for alpha in alphas}
    rows = []
    for i, call in enumerate(kinds):
        assert of_a[i][0] == call.module
        for alpha in alphas:
            row = slow_row(middle[alpha][i][2], of_a[i][2], of_b[i][2], alpha)
            rows.append({"layer": call.name, "kind": call.kind, **row})
    return pd.DataFrame(rows)


@functools.cache
def digits_pairs() -> dict[str, list[tuple[nn.Module, nn.Module]]]:
    """Trained perceptrons: spawned at five epochs, independent, and these matched by weights."""
    data = mc.load_data("digits", device="cpu")
    spawned = [
        mc.spawn(mc.build_model("mlp", data, width=(128, 128), seed=s), data, 5, 60,
                 seeds=(2 * s, 2 * s + 1), optimizer="adam", lr=1e-3, batch_size=64)
        for s in range(3)
    ]  # fmt: skip
    first = [a for a, _ in spawned]
    independent = list(pairwise([*first, first[0]]))
    matched = [(a, mc.weight_matching(a, b).model) for a, b in independent]
    return {"spawned": spawned, "independent": independent, "matched": matched}


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, tolerance: float = 1e-10) -> None:
    pd.testing.assert_frame_equal(found, expected, rtol=tolerance, atol=tolerance)


# against everything kept --------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_streamed_is_what_everything_kept_gives(name: str) -> None:
    a, b, x = build(name, 0), build(name, 1), inputs(name)
    alphas = (0.2, 0.5)
    slow = slow_table(a, b, x, alphas)
    assert slow["cos_ends"].min() < 0.9  # they are unlike
    for size in (None, 1, 4, 11, 100):
        found = mc.feature_connectivity(a, b, x, alphas, batch_size=size)
        assert_same(found, slow)


def test_a_perceptron_by_hand() -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")

    def features(w: dict[str, Tensor]) -> list[Tensor]:
        z = x @ w["0.weight"].T + w["0.bias"]
        h = z.clamp(min=0)
        y = h @ w["2.weight"].T + w["2.bias"]
        return [z, h, y, y.tanh(), y.tanh() @ w["4.weight"].T + w["4.bias"]]

    of_a, of_b = features(a.state_dict()), features(b.state_dict())
    middle = features(reference.mixture(a.state_dict(), b.state_dict(), 0.3))
    found = mc.feature_connectivity(a, b, x, 0.3).drop(columns=["layer", "kind"])
    rows = [slow_row(*several, 0.3) for several in zip(middle, of_a, of_b, strict=True)]
    assert_same(found, pd.DataFrame(rows))


def test_in_place_is_as_out_of_place() -> None:
    x = inputs("residual")
    tables = [
        mc.feature_connectivity(build(name, 0), build(name, 1), x) for name in ("residual",
                                                                                "in place")
    ]  # fmt: skip
    assert_same(tables[0], tables[1], 1e-12)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_of_torchvision(name: str) -> None:
    models = library("torchvision").models
    a, b = (build(lambda: models.get_model(name, weights=None, num_classes=5), s) for s in (0, 1))
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layers = ["fc", "layer2.0.relu:2", "conv1"] if name == "resnet18" else ["features.1.conv.0.2"]
    found = mc.feature_connectivity(a, b, x, (0, 0.5, 1), layers, batch_size=2)
    assert list(found["layer"].unique()) == (layers[::-1] if name == "resnet18" else layers)
    whole = mc.feature_connectivity(a, b, x, 0.5)
    convolutions = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in a.modules())
    assert (whole["kind"] == "linear").sum() == convolutions
    half = found[found["alpha"] == 0.5].set_index("layer")
    assert_same(half, whole.set_index("layer").loc[half.index])
    ends = found[found["alpha"] != 0.5]
    assert (ends[["cos", "coef"]] - 1).abs().max().max() <= 1e-12
    assert_same(whole[whole["layer"] == layers[-1]].reset_index(drop=True),
                slow_torchvision(a, b, x, layers[-1]))  # fmt: skip


def slow_torchvision(a: nn.Module, b: nn.Module, x: Tensor, layer: str) -> pd.DataFrame:
    models = (mixed(a, b, 0.5), a, b)
    of = [reference.calls(model, x, [layer])[0][2] for model in models]
    kind = "linear" if layer == "conv1" else "activation"
    return pd.DataFrame([{"layer": layer, "kind": kind, **slow_row(*of, 0.5)}])


# closed form --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MAKE)
def test_at_the_ends_and_between_equals_all_is_one(name: str, precision: torch.dtype) -> None:
    a, b, x = build(name, 0).to(precision), build(name, 1).to(precision), inputs(name)
    found = mc.feature_connectivity(a, b, x, (0, 1), batch_size=4)
    one = found[["cos", "cos_abs", "cos_data", "coef", "coef_data"]]
    assert (one - 1).abs().max().max() <= 1e-12
    assert found["alpha"].unique().tolist() == [0, 1]
    equal = mc.feature_connectivity(a, a, x, (0, 0.3, 0.5, 1))
    assert (equal[MEANS] - 1).abs().max().max() <= 1e-12
    assert equal[["zeros", "zeros_ends"]].max().max() == 0


def relu_net(*weights: Tensor, biases: Sequence[Tensor] | None = None) -> nn.Module:
    layers: list[nn.Module] = []
    for i, w in enumerate(weights):
        layer = nn.Linear(*w.T.shape, bias=biases is not None).double()
        with torch.no_grad():
            layer.weight.copy_(w)
            if biases is not None:
                layer.bias.copy_(biases[i])
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_where_only_the_last_layer_differs_connection_is_exact() -> None:
    a, b = build("perceptron", 0), build("perceptron", 0)
    b[4] = build("perceptron", 1)[4]
    found = mc.feature_connectivity(a, b, inputs("perceptron"), (0, 0.1, 0.5, 0.8, 1))
    columns = ["cos", "coef", "cos_data", "coef_data"]
    assert (found[columns] - 1).abs().max().max() <= 1e-12
    assert found["cos_ends"].iloc[-1] < 0.9


@pytest.mark.parametrize("c", [0.5, 2.0, 10.0])
def test_a_rescaled_pair_mixes_in_direction_and_not_in_scale(c: float) -> None:
    first, second = drawn(8, 6), drawn(3, 8, seed=1)
    a, b = relu_net(first, second), relu_net(c * first, second / c)
    found = mc.feature_connectivity(a, b, drawn(20, 6, seed=2), (0, 0.25, 0.5, 0.9, 1))
    assert (found[["cos", "cos_data", "cos_ends"]] - 1).abs().max().max() <= 1e-12
    for layer, alpha, coef, std in found[["layer", "alpha", "coef", "coef_std"]].values:
        factor = 1 + alpha * (1 - alpha) * (c + 1 / c - 2) if layer == "2" else 1
        assert coef == pytest.approx(factor, abs=1e-12)
        assert std <= 1e-12
    if c == 2:
        coef = found[(found["layer"] == "2") & (found["alpha"] == 0.5)]["coef"].item()
        assert (coef, 1 / coef) == pytest.approx((1.125, 0.889), abs=1e-3)


def test_inputs_of_opposite_signs_are_masked_and_counted() -> None:
    w, x = drawn(5, 6), drawn(20, 6, seed=1)
    x[3] = 0  # and one that is zero everywhere
    found = mc.feature_connectivity(relu_net(w, drawn(2, 5)), relu_net(-w, drawn(2, 5)), x,
                                    (0.25, 0.5)).set_index(["layer", "alpha"])  # fmt: skip
    assert found.loc[("0", 0.5), ["samples", "zeros", "zeros_ends"]].tolist() == [20, 20, 1]
    assert found.loc[("0", 0.25), ["samples", "zeros", "zeros_ends"]].tolist() == [20, 1, 1]
    assert found.loc[("0", 0.25), "cos"] == pytest.approx(1, abs=1e-12)
    assert found.loc[("0", 0.25), "cos_ends"] == pytest.approx(-1, abs=1e-12)
    assert found.loc[("1", 0.5), "zeros"] == 20  # the mixture is not zero, the network is
    assert found.loc[("1", 0.5), "coef_data"] == 0
    undefined = ["cos", "cos_std", "cos_abs", "coef", "coef_std"]
    for layer in ("0", "1", "2"):
        assert found.loc[(layer, 0.5), undefined].isna().all()
        assert found.loc[(layer, 0.25), undefined].notna().all()
    assert found["cos_ends"].notna().all()


def test_the_cosine_has_a_sign() -> None:
    """`B = (-W1, -W2)` without activation: at 1/2 nothing is left; at 1/4 the product is W/4."""
    a, b = relu_net(drawn(5, 6)), relu_net(-drawn(5, 6))
    a.append(relu_net(drawn(3, 5))[0])
    b.append(relu_net(-drawn(3, 5))[0])
    x = drawn(9, 6, seed=3)
    row = mc.feature_connectivity(a, b, x, 0.25, "1").iloc[0]
    assert (row["cos"], row["coef"], row["cos_ends"]) == pytest.approx((1, 0.25, 1), abs=1e-12)
    b[1] = a[1]  # ends are opposite, and the mixture turns round where B weighs more
    row = mc.feature_connectivity(a, b, x, 0.75, "1").iloc[0]
    assert (row["cos"], row["cos_ends"], row["cos_abs"]) == pytest.approx((1, -1, 1), abs=1e-12)

    class Kink(Path):
        def coefficients(self, t: float) -> Tensor:
            return torch.tensor([1 - 3 * t + 2 * t * t, 2 * t * t - t, 4 * t - 4 * t * t])[
                [0, 2, 1]
            ]

        def coefficient_velocities(self, t: float) -> Tensor:
            return torch.zeros(3)

    w = relu_net(drawn(5, 6)).state_dict()["0.weight"]
    path = Kink(relu_net(w), {"0.weight": torch.stack([w, -w, w])})
    row = mc.feature_connectivity(path, x, alphas=0.5).iloc[0]
    assert (row["cos"], row["cos_abs"], row["coef"]) == pytest.approx((-1, 1, -1), abs=1e-12)


def theorem_1() -> tuple[nn.Module, nn.Module, Tensor]:
    """ReLU that is linear, weights that differ only where what they read agrees (and any bias).

    Of each hidden layer the first three units differ; the last five read only such that agree.
    """
    sizes = [(8, 6), (8, 8), (8, 8), (3, 8)]
    first = [drawn(*shape, seed=i) for i, shape in enumerate(sizes)]
    second = [drawn(*shape, seed=10 + i) for i, shape in enumerate(sizes)]
    biases = [[30 + drawn(n, seed=20 + i) for i, (n, _) in enumerate(sizes)] for _ in range(2)]
    for i, (u, v) in enumerate(zip(first, second, strict=True)):
        if i < 3:
            v[3:] = u[3:]  # units that agree
        if i > 0:
            v[:, :3] = u[:, :3]  # weights of what differs agree
            if i < 3:
                u[3:, :3] = v[3:, :3] = 0
        biases[1][i][:3] += 1
    scale = 0.1
    a = relu_net(*[scale * w for w in first], biases=biases[0])
    b = relu_net(*[scale * w for w in second], biases=biases[1])
    return a, b, drawn(25, 6, seed=40)


def test_theorem_1() -> None:
    a, b, x = theorem_1()
    alphas = (0, 0.2, 0.5, 0.7, 1)
    assert mc.weak_additivity(a, b, x, alphas)["dist"].max() <= 1e-24
    commuting = mc.commutativity(a, b, x)
    assert commuting["dist"].max() <= 1e-24
    assert commuting["dist_weights"].min() > 1e-3
    assert commuting["dist_features"].iloc[1:].min() > 1e-6
    found = mc.feature_connectivity(a, b, x, alphas)
    assert (found[["cos", "coef", "cos_data", "coef_data"]] - 1).abs().max().max() <= 1e-12
    assert found["cos_ends"].min() < 1 - 1e-6
    assert mc.feature_defects(a, b, x, alphas)["total"].max() <= 1e-12


# laws ---------------------------------------------------------------------------------------


def permuted_pair(name: str, data: mc.Data, **options: object) -> list[nn.Module]:
    """A, B, and both after the same random element of the group."""
    shell = [build(lambda: mc.build_model(name, data, **options), s).eval() for s in (0, 1)]
    spec = mc.trace_symmetry(shell[0])
    p = spec.random(seed=3, restless=True)
    return [*shell, *(mc.permute(model, p, spec) for model in shell)]


PERMUTABLE = [("mlp", {"width": (9, 7)}), ("convnet", {"width": 4}), ("resnet20", {"width": 2})]


@pytest.mark.parametrize(("name", "options"), PERMUTABLE)
def test_the_order_of_units_does_not_matter(name: str, options: dict, tiny: mc.Data) -> None:
    a, b, pa, pb = permuted_pair(name, tiny, **options)
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), pa.parameters(), strict=True))
    x = tiny.test.x[:9].double()
    for normalization in ("none", "reset"):
        found = mc.feature_connectivity(a, b, x, normalization=normalization)
        other = mc.feature_connectivity(pa, pb, x, normalization=normalization)
        assert_same(found, other)
    assert (mc.feature_connectivity(a, pb, x)["cos_ends"] - found["cos_ends"]).abs().max() > 1e-3


@pytest.mark.usefixtures("same_random_state")
@pytest.mark.parametrize("normalization", ["none", "reset", "repair"])
def test_measuring_changes_nothing(
    normalization: str, normed: list[nn.Module], tiny: mc.Data,
    untouched: Callable[[nn.Module], Callable[[], None]],
) -> None:  # fmt: skip
    compare = [untouched(model) for model in normed[:2]]
    x = tiny.test.x.clone()
    first, again = (
        mc.feature_connectivity(*normed[:2], x, normalization=normalization) for _ in range(2)
    )
    for check in compare:
        check()
    assert torch.equal(x, tiny.test.x)
    pd.testing.assert_frame_equal(first, again, check_exact=True)


# trained networks ---------------------------------------------------------------------------


def test_levels_on_digits(digits: mc.Data) -> None:
    for kind, pairs in digits_pairs().items():
        for a, b in pairs:
            found = mc.feature_connectivity(a, b, digits.test.x)
            off = 1 - found["cos"]
            logits = off[found["layer"] == "output"]
            if kind == "spawned":
                assert off.max() <= 1e-3
                assert (found["coef"] - 1).abs().max() <= 0.01
                hidden = found["kind"] == "activation"
                assert (10 * off < 1 - found["cos_ends"])[hidden].all()
            elif kind == "matched":
                assert off.max() <= 0.015
                assert found["coef"].min() >= 0.8
            else:
                assert logits[found["alpha"] == 0.5].item() >= 0.05


def test_alphas_are_each_once_and_inside() -> None:
    assert checked_alphas(1) == [1.0]
    assert checked_alphas((0.5, 0.25, 0.5)) == [0.5, 0.25]
    for alphas, message in (((), "at least one alpha"), (-0.1, "the weight of B, found -0.1"),
                            ((0.5, 1.01), "found 1.01"), (float("nan"), "found nan")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            mc.feature_connectivity(build("tied", 0), build("tied", 1), inputs("tied"), alphas)


def test_a_way_that_depends_on_the_input_is_refused() -> None:
    a, b = build(Switch, 0), build(Switch, 1)
    x = torch.cat([torch.ones(3, 6), -torch.ones(3, 6)]).double()
    with pytest.raises(ValueError, match="every forward pass to call left as the first one did"):
        mc.feature_connectivity(a, b, x, batch_size=3)
