"""Layerwise linear feature connectivity: paths, normalization, memory, bad input."""

from __future__ import annotations

import copy
import math
import weakref

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import mcbook as mc
from mcbook.paths import Path
from tests import reference
from tests.analysis.test_features import assert_same, drawn, relu_net, slow_row
from tests.analysis.test_observing import Failing, Idle, Recurrent, SequenceFirst, build, inputs


class Bent(Path):
    """Two straight pieces by way of a third network."""

    def coefficients(self, t: float) -> Tensor:
        c = [1 - 2 * t, 2 * t, 0] if t < 0.5 else [0, 2 - 2 * t, 2 * t - 1]
        return torch.tensor(c, dtype=torch.float64)

    def coefficient_velocities(self, t: float) -> Tensor:
        return torch.tensor([-2.0, 2, 0] if t < 0.5 else [0, -2.0, 2], dtype=torch.float64)


def bent(name: str) -> Path:
    states = [build(name, s).state_dict() for s in (0, 2, 1)]
    points = {n: torch.stack([s[n] for s in states]) for n, x in states[0].items()
              if x.is_floating_point()}  # fmt: skip
    return Bent(build(name, 0), points, (0, 0.5, 1))


# paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["perceptron", "residual"])
def test_a_straight_line_is_the_pair(name: str) -> None:
    a, b, x = build(name, 0), build(name, 1), inputs(name)
    found = mc.feature_connectivity(a, b, x)
    path = mc.LinearPath(a, b)
    for other in (
        mc.feature_connectivity(path, x=x),
        mc.feature_connectivity(path, None, x),
        mc.feature_connectivity(path, x),  # type: ignore[arg-type]
    ):
        pd.testing.assert_frame_equal(found, other, check_exact=True)


@pytest.mark.parametrize("name", ["perceptron", "residual"])
def test_a_bent_path_is_measured_against_the_mixture_of_its_ends(name: str) -> None:
    path, x = bent(name), inputs(name)
    a, b = build(name, 0), build(name, 1)
    found = mc.feature_connectivity(path, x=x, alphas=(0, 0.25, 0.5, 0.8, 1))
    ends = found[found["alpha"].isin([0, 1])]
    assert (ends[["cos", "coef"]] - 1).abs().max().max() <= 1e-12
    c, first = build(name, 2).state_dict(), a.state_dict()
    last = list(dict.fromkeys(found["layer"]))[-1]
    for alpha, weights in (
        (0.25, reference.mixture(first, c, 0.5)),
        (0.5, c),
        (0.8, reference.mixture(c, b.state_dict(), 0.6)),
    ):
        middle = build(name, 0)
        middle.load_state_dict(weights)
        of = [reference.calls(model, x, [last])[0][2] for model in (middle, a, b)]
        row = found[(found["layer"] == last) & (found["alpha"] == alpha)]
        slow = pd.DataFrame([{"layer": last, "kind": "linear", **slow_row(*of, alpha)}])
        assert_same(row.reset_index(drop=True), slow)
    straight = mc.feature_connectivity(a, b, x, 0.5)
    assert (straight["cos"] - found[found["alpha"] == 0.5]["cos"].values).abs().max() > 1e-3


# normalization ------------------------------------------------------------------------------


def by_hand(a: nn.Module, m: nn.Module, b: nn.Module, x: Tensor, layer: str) -> pd.Series:
    of = [reference.calls(model, x, [layer])[0][2] for model in (m, a, b)]
    return pd.Series(slow_row(*of, 0.4))


@pytest.mark.parametrize("on", ["x", "statistics"])
def test_reset_is_a_reset_of_all_three(on: str) -> None:
    a, b, x = build("residual", 0), build("residual", 1), inputs("residual")
    images = x if on == "x" else inputs("residual", 30)[11:]
    options = {} if on == "x" else {"statistics": images}
    found = mc.feature_connectivity(a, b, x, 0.4, normalization="reset", **options)
    middle = mc.LinearPath(a, b).model_at(0.4)
    a, m, b = (mc.reset_batch_norm(model, images) for model in (a, middle, b))
    for layer in ("0", "2.conv2", "6"):
        row = found[found["layer"] == layer].iloc[0].drop(["layer", "kind"])
        slow = by_hand(a, m, b, x, layer)
        pd.testing.assert_series_equal(row.astype(float), slow, check_names=False, rtol=1e-10)
    if on == "x":  # and against the slow one
        slow = by_hand(*(reference.batch_norm_statistics(model, x) for model in (a, m, b)), x, "6")
        assert row["cos"] == pytest.approx(slow["cos"], abs=1e-10)
    default = mc.feature_connectivity(a, b, x, 0.4, normalization=None, **options)
    assert_same(default, mc.feature_connectivity(a, b, x, 0.4, normalization="reset", **options))
    assert (default["cos"] - mc.feature_connectivity(a, b, x, 0.4)["cos"]).abs().max() > 1e-4


def test_repair_corrects_the_middle_alone(endpoints: list[nn.Module], small: mc.Data) -> None:
    a, b = (copy.deepcopy(model).double() for model in endpoints[:2])
    x, images = small.test.x[:20].double(), small.train.x.double()
    found = mc.feature_connectivity(a, b, x, (0, 0.4), normalization="repair", statistics=images)
    middle = mc.repair(mc.LinearPath(a, b), 0.4, images)
    for layer in ("linear1", "linear2", "output"):
        row = found[(found["layer"] == layer) & (found["alpha"] == 0.4)].iloc[0]
        slow = by_hand(a, middle, b, x, layer)
        row = row.drop(["layer", "kind"]).astype(float)
        pd.testing.assert_series_equal(row, slow, check_names=False, rtol=1e-9)
    assert (found[found["alpha"] == 0]["cos"] - 1).abs().max() <= 1e-12
    plain = mc.feature_connectivity(a, b, x, 0.4)
    assert found["coef_data"].iloc[-1] > plain["coef_data"].iloc[-1]  # variance is given back
    assert_same(plain, mc.feature_connectivity(a, b, x, 0.4, normalization=None))


# memory -------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Notes the largest batch that came by, and how many samples in all."""

    seen: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["seen"] = []

    def __deepcopy__(self, memo: dict) -> Recorder:
        return self  # one list for all copies

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x


def test_the_batches_and_what_is_kept_do_not_grow_with_the_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = (build(lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU()), s) for s in (0, 1))
    recorder = Recorder()
    a.append(recorder)
    b.append(recorder)
    monkeypatch.setattr("mcbook.analysis.observing._MEMORY", 2 * 8 * 8 * 5)
    alive: list[int] = []
    kept = Tensor.clone

    for function in (mc.feature_connectivity, mc.weak_additivity, mc.commutativity,
                     mc.feature_defects):  # fmt: skip
        largest = []
        for count in (10, 40):
            recorder.seen.clear()
            alive.clear()
            references: list = []

            def clone(z: Tensor, *args: object, refs: list = references, **o: object) -> Tensor:
                copied = kept(z, *args, **o)
                refs.append(weakref.ref(copied))
                alive.append(sum(t.numel() for r in refs if (t := r()) is not None))
                return copied

            monkeypatch.setattr(Tensor, "clone", clone)
            function(a, b, drawn(count, 6), batch_size=None)
            monkeypatch.setattr(Tensor, "clone", kept)
            assert sum(recorder.seen) >= 2 * count
            largest.append((max(recorder.seen), max(alive)))
        assert largest[0] == largest[1]
        assert largest[0][0] <= 5


# zeros --------------------------------------------------------------------------------------


def test_dead_samples_are_counted_layer_by_layer() -> None:
    a = relu_net(torch.eye(2, dtype=torch.float64))
    a.append(nn.ReLU())
    b = relu_net(2 * torch.eye(2, dtype=torch.float64))
    b.append(nn.ReLU())
    x = torch.tensor([[1.0, 2], [-1, -2], [-3, 1], [0, 0]], dtype=torch.float64)
    found = mc.feature_connectivity(a, b, x, 0.5, ["0", "1"]).set_index("layer")
    assert found["samples"].tolist() == [4, 4]
    assert found["zeros"].tolist() == found["zeros_ends"].tolist() == [1, 2]
    assert (found[["cos", "coef", "cos_ends"]] - 1).abs().max().max() <= 1e-12
    single = mc.feature_connectivity(a, b, x[2:], 0.5, "1").iloc[0]
    assert (single["zeros"], single["cos"]) == (1, pytest.approx(1))
    assert math.isnan(single["cos_std"])  # of one number


def test_what_cancels_up_to_rounding_is_zero() -> None:
    """The next number below 1 is apart by rounding; 0.9999 is another number, in float32 too."""
    x = torch.tensor([[1.0], [-3.0]])
    for weight, zeros in ((1.0, 2), (1 - 2.0**-24, 2), (0.9999, 0)):
        a, b = (relu_net(torch.tensor([[w]])).float() for w in (1.0, -weight))
        found = mc.feature_connectivity(a, b, x, 0.5).iloc[0]
        assert found["zeros"] == zeros
        assert (found["cos"] == pytest.approx(1)) == (zeros == 0)


# in place -----------------------------------------------------------------------------------


class Stream(nn.Module):
    """What a layer and an activation have read is added to, in place or not."""

    def __init__(self, inplace: bool):
        super().__init__()
        self.stem, self.branch, self.output = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.relu, self.inplace = nn.ReLU(), inplace

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        y = self.branch(h) + self.relu(h)
        if self.inplace:
            h += y
        else:
            h = h + y
        return self.output(h)


@pytest.mark.parametrize("function", [mc.feature_connectivity, mc.weak_additivity,
                                      mc.commutativity, mc.feature_defects])  # fmt: skip
def test_what_was_read_may_be_overwritten_later(function: object) -> None:
    plain, other = (
        function(build(lambda: Stream(i), 0), build(lambda: Stream(i), 1), drawn(9, 6))  # noqa: B023
        for i in (False, True)
    )
    assert_same(plain, other, 1e-12)


# bad input ----------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_together_are_refused() -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    path = mc.LinearPath(a, b)
    with pytest.raises(TypeError, match="no second network beside a path.*found Sequential"):
        mc.feature_connectivity(path, b, x)
    with pytest.raises(TypeError, match="no second network beside a path.*found Tensor"):
        mc.feature_connectivity(path, x, x)  # type: ignore[arg-type]
    for arguments in ((path,), (a, b)):
        with pytest.raises(
            TypeError, match="expected inputs as x, such as data.test.x, found none"
        ):
            mc.feature_connectivity(*arguments)
    with pytest.raises(TypeError, match="Module or a Path as A, found dict"):
        mc.feature_connectivity({}, b, x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Module as B, found Tensor"):
        mc.feature_connectivity(a, x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Module as B, found LinearPath"):
        mc.feature_connectivity(a, path, x)  # type: ignore[arg-type]
    with pytest.raises(mc.IncompatibleError, match="of one architecture, but 0.weight"):
        mc.feature_connectivity(a, build("tied", 0), x)


FUNCTIONS = [mc.feature_connectivity, mc.weak_additivity, mc.commutativity, mc.feature_defects]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_all_refuse_the_same(function: object) -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    with pytest.raises(mc.UnknownNameError, match="unknown layer '00'"):
        function(a, b, x, layers="00")
    with pytest.raises(ValueError, match="at least one image"):
        function(a, b, x[:0])
    with pytest.raises(ValueError, match="finite inputs, found NaN"):
        function(a, b, x * torch.nan)
    with pytest.raises(TypeError, match="expected a tensor of images"):
        function(a, b, x.numpy())
    with pytest.raises(TypeError, match="expected a torch.nn.Module, found str|as A, found str"):
        function("a", b, x)
    with pytest.raises(mc.IncompatibleError, match="of one architecture"):
        function(a, build("tied", 0), x)
    with torch.no_grad():
        b[2].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 NaN or infinite entries of 56 in 2.weight of B"):
        function(a, b, x)
    with pytest.raises(ValueError, match="expected a forward pass to call the layer 'idle'"):
        function(build(Idle, 0), build(Idle, 1), x, layers="idle")
    a, b = build("repeated", 0), build("repeated", 1)
    with pytest.raises(ValueError, match="'again' called 2 times.*again:1, again:2"):
        function(a, b, x, layers="again")
    assert set(function(a, b, x, layers="again:2")["layer"]) == {"again:2"}
    a, b = build(Recurrent, 0), build(Recurrent, 1)
    tokens = drawn(3, 5, 6)
    with pytest.raises(TypeError, match="layer 'cell' to put out one tensor, found tuple"):
        function(a, b, tokens, layers="cell")
    with pytest.raises(ValueError, match="the first axis must be that of the samples"):
        function(build(SequenceFirst, 0), build(SequenceFirst, 1), tokens, layers="first")
    with pytest.raises(RuntimeError, match="what comes next"):
        function(build(Failing, 0), build(Failing, 1), x)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f is not mc.commutativity])
def test_alphas_outside_are_refused(function: object) -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    for alphas, message in ((1.5, "found 1.5"), ([], "found none"), ([0.5, -1], "found -1.0")):
        with pytest.raises(ValueError, match=message):
            function(a, b, x, alphas=alphas)


def test_an_unknown_normalization_is_refused() -> None:
    a, b, x = build("perceptron", 0), build("perceptron", 1), inputs("perceptron")
    with pytest.raises(mc.UnknownNameError, match="unknown normalization 'rest'.*'reset'"):
        mc.feature_connectivity(a, b, x, normalization="rest")
    with pytest.raises(ValueError, match="at least one image"):
        mc.feature_connectivity(a, b, x, normalization="reset", statistics=x[:0])


def test_features_that_are_not_finite_are_refused_by_layer() -> None:
    big = 1e300 * torch.eye(2, dtype=torch.float64)
    a, b = relu_net(big, big), relu_net(big, big)
    with pytest.raises(ValueError, match="expected finite features of 0, found NaN or infinite"):
        mc.feature_connectivity(a, b, torch.full((2, 2), 1e300, dtype=torch.float64))
