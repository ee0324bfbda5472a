"""Networks that make the features of a layer hard to get right, and input that is no input."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import mcbook as mc
from tests.analysis.test_features import assert_same, drawn, relu_net
from tests.analysis.test_observing import build, inputs

Measure = Callable[..., pd.DataFrame]
MEASURES = [mc.feature_connectivity, mc.weak_additivity, mc.commutativity, mc.feature_defects]
each_measure = pytest.mark.parametrize("measure", MEASURES, ids=lambda f: f.__name__)


class OwnReLU(nn.Module):
    """An activation that may overwrite its input, and has no attribute that says so."""

    def __init__(self, overwrite: bool):
        super().__init__()
        self.overwrite = overwrite

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(x) if self.overwrite else F.relu(x)


def own(overwrite: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), OwnReLU(overwrite), nn.Linear(8, 3))


def contained(overwrite: bool) -> nn.Module:
    inner = nn.Sequential(nn.ReLU(overwrite), nn.Linear(8, 8))
    return nn.Sequential(nn.Linear(6, 8), inner, nn.Linear(8, 3))


@pytest.mark.parametrize("measure", [mc.weak_additivity, mc.feature_defects])
@pytest.mark.parametrize("make", [own, contained])
def test_inputs_that_are_overwritten_are_seen_before(
    make: Callable[[bool], nn.Module], measure: Measure
) -> None:
    x = inputs("perceptron")
    plain, overwritten = (
        measure(*(build(lambda f=f: make(f), seed) for seed in (0, 1)), x, layers="1")
        for f in (False, True)
    )
    assert_same(plain, overwritten)


class Twice(nn.Module):
    """A block with layers of its own that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.out = nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.block(x)))


def test_a_container_does_not_shift_the_calls_of_what_is_in_it() -> None:
    a, b, x = build(Twice, 0), build(Twice, 1), inputs("perceptron")
    inner = ["block.0:1", "block.0:2"]
    alone = mc.feature_defects(a, b, x, layers=inner)
    both = mc.feature_defects(a, b, x, layers=[*inner, "block:1", "block:2"])
    assert_same(both[both["layer"].isin(inner)].reset_index(drop=True), alone)


def far_apart() -> tuple[nn.Module, nn.Module]:
    """Finite networks between which the features are not."""
    one = torch.eye(2)
    a, b = relu_net(1e30 * one, 1e-30 * one), relu_net(1e-30 * one, 1e30 * one)
    return a.float(), b.float()


@pytest.mark.parametrize("measure", [mc.feature_connectivity, mc.feature_defects])
def test_features_between_that_are_not_finite_are_refused(measure: Measure) -> None:
    with pytest.raises(ValueError, match="expected finite features of"):
        measure(*far_apart(), torch.ones(3, 2))


@pytest.mark.parametrize("measure", [mc.feature_connectivity, mc.commutativity, mc.feature_defects])
def test_features_at_the_ends_that_are_not_finite_are_refused(measure: Measure) -> None:
    w = 1e30 * torch.eye(2)
    a, b = relu_net(w, w).float(), relu_net(2 * w, w).float()
    with pytest.raises(ValueError, match="expected finite features of"):
        measure(a, b, 1e3 * torch.ones(3, 2))


@each_measure
def test_parametrised_weights(measure: Measure) -> None:
    def make() -> nn.Module:
        normed = nn.utils.parametrizations.weight_norm
        return nn.Sequential(normed(nn.Linear(6, 8)), nn.ReLU(), normed(nn.Linear(8, 3)))

    table = measure(build(make, 0), build(make, 1), inputs("perceptron"))
    assert set(table["layer"]) <= {"0", "1", "2"}


@each_measure
def test_integers_into_an_embedding(measure: Measure) -> None:
    def make() -> nn.Module:
        embedding = nn.Embedding(5, 6)
        return nn.Sequential(embedding, nn.Linear(6, 8), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))

    x = torch.randint(5, (7, 3), generator=torch.Generator().manual_seed(0))
    table = measure(build(make, 0), build(make, 1), x)
    assert set(table["layer"]) <= {"1", "2", "4"}


class Adding(nn.Module):
    """A module without children that reads two tensors."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.add, self.last = nn.Linear(6, 6), Adding(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.add(self.first(x), x))


def test_a_module_that_reads_two_tensors_is_left_out_and_by_name_refused() -> None:
    a, b, x = build(TwoInputs, 0), build(TwoInputs, 1), inputs("perceptron")
    assert list(mc.feature_defects(a, b, x)["layer"]) == ["first", "last"]
    with pytest.raises(TypeError, match="'add' to read one tensor .* found torch.float64, torch"):
        mc.feature_defects(a, b, x, layers="add")
    assert list(mc.feature_connectivity(a, b, x, 0.5, layers="add")["layer"]) == ["add"]


class Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 2, 3, stride=2)
        self.up = nn.ConvTranspose2d(2, 1, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x).relu(), output_size=x.shape[-2:])


@pytest.mark.parametrize("measure", [mc.commutativity, mc.feature_defects])
def test_a_layer_that_is_given_more_than_its_input_is_refused(measure: Measure) -> None:
    with pytest.raises(TypeError, match="'up' to read one tensor .* nothing else"):
        measure(build(Sized, 0), build(Sized, 1), drawn(4, 1, 6, 6))


class Standardised(nn.Linear):
    """A linear layer whose weight is computed in its forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


def test_a_linear_layer_with_a_forward_of_its_own_has_no_commutativity() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Standardised(8, 3))

    a, b, x = build(make, 0), build(make, 1), inputs("perceptron")
    with pytest.raises(TypeError, match="'2' is a Standardised with a forward of its own"):
        mc.commutativity(a, b, x)
    assert list(mc.commutativity(a, b, x, "0")["layer"]) == ["0"]


def commutativity_by_runs(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    """Of the last of three layers, by running it on both inputs."""
    with torch.no_grad():
        a(x), b(x)  # hooks compute the weights
        h = {net: net[:2](x) for net in (a, b)}

        def linear(net: nn.Module, other: nn.Module) -> Tensor:
            return net[2](h[other]) - net[2].bias

        left = linear(a, a) + linear(b, b)
        right = linear(a, b) + linear(b, a)
        return float((left - right).square().sum() / (left.norm() * right.norm()))


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "pruned"])
def test_weights_that_hooks_compute(kind: str) -> None:
    def make() -> nn.Module:
        last = nn.Linear(8, 3).double()
        if kind == "pruned":
            prune.l1_unstructured(last, "weight", 0.5)
        else:
            last = getattr(nn.utils, kind)(last)
        return nn.Sequential(nn.Linear(6, 8).double(), nn.ReLU(), last)

    nets = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these hooks are deprecated, and in use
        for seed in (0, 1):
            torch.manual_seed(seed)
            with torch.no_grad():
                nets.append(make().eval())
    a, b = nets
    x = inputs("perceptron")
    with torch.no_grad():
        a(x), b(x)
        found = mc.commutativity(a, b, x).iloc[-1]["dist"]
        assert found == pytest.approx(commutativity_by_runs(a, b, x))
        middle = mc.LinearPath(a, b).model_at(0.5)
        middle(x)
        h_a, h_b = a[:2](x), b[:2](x)
        left = (a[2](h_a) + b[2](h_b)) / 2
        made = middle[2]((h_a + h_b) / 2) - left
        additive = mc.weak_additivity(a, b, x, layers="2").iloc[0]
        right = made + left
        expected = float(made.square().sum() / (left.norm() * right.norm()))
        assert additive["dist"] == pytest.approx(expected)
        defect = mc.feature_defects(a, b, x, layers="2").iloc[0]
        assert defect["made"] == pytest.approx(float(made.norm() / left.norm()))


class PairOfLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.layer(x)
        return z, z


@pytest.mark.parametrize("measure", [mc.logit_blend, mc.stitch])
def test_a_network_that_puts_out_no_logits_is_refused(measure: Measure) -> None:
    split = mc.Split(inputs("perceptron"), torch.zeros(11, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected logits .* found tuple"):
        measure(build(PairOfLogits, 0), build(PairOfLogits, 1), split)


class Looping(nn.Module):
    """More calls where there are more samples than two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return self.out(self.layer(x) if len(x) > 2 else x)


def test_more_calls_than_the_first_samples_made_are_refused() -> None:
    with pytest.raises(ValueError, match="expected every forward pass to call layer as the first"):
        mc.feature_connectivity(build(Looping, 0), build(Looping, 1), inputs("perceptron"))


class Squeezing(nn.Module):
    """Loses the axis of a single sample."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)[:, :, None].squeeze().relu())


class Shared(nn.Module):
    """A module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.stack = nn.Sequential(self.a, nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x)


def test_squeezed_samples_and_second_names() -> None:
    x = inputs("perceptron")
    table = mc.feature_connectivity(build(Squeezing, 0), build(Squeezing, 1), x, 0.5)
    assert list(table["layer"]) == ["first", "last"]
    linear = mc.commutativity(build(Squeezing, 0), build(Squeezing, 1), x)
    assert list(linear["layer"]) == ["first", "last"]
    a, b = build(Shared, 0), build(Shared, 1)
    named = mc.feature_connectivity(a, b, x, 0.5, layers=["stack.0", "stack.1"])
    assert list(named["layer"]) == ["a", "stack.1"]


@each_measure
@pytest.mark.parametrize("size", [0, -1])
def test_no_batch_is_no_batch_size(measure: Measure, size: int) -> None:
    a, b = build("perceptron", 0), build("perceptron", 1)
    with pytest.raises(ValueError, match=f"batch size of at least 1, found {size}"):
        measure(a, b, inputs("perceptron"), batch_size=size)


def test_alphas_are_numbers_of_any_library() -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    expected = list(mc.feature_connectivity(a, b, x, 0.5)["cos"])
    for half in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array([0.5]), [0.5]):
        assert list(mc.feature_connectivity(a, b, x, half)["cos"]) == expected
    with pytest.raises(LookupError, match="unknown layer 3"):
        mc.feature_connectivity(a, b, x, layers=[3])


@each_measure
def test_half_precision_gradients_and_inference_mode(measure: Measure) -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    half = measure(a.bfloat16(), b.bfloat16(), x.bfloat16())
    assert np.isfinite(half.select_dtypes(float).iloc[-1].to_numpy()).all()
    a, b = build("perceptron", 0), build("perceptron", 1)
    plain = measure(a, b, x)
    with torch.inference_mode():
        assert_same(measure(a, b, x), plain)
    assert_same(measure(a, b, x.clone().requires_grad_()), plain)
