"""Second-order estimates of the loss on a line."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.analysis.taylor import Expansion, TaylorProfile, taylor_profile
from tests import reference
from tests.analysis.networks import NETWORKS, build, inputs


def data_for(name: str) -> mc.Data:
    """Random inputs with random labels of three classes."""
    x, labels = inputs(name, 9), torch.arange(9) % 3
    split = mc.Split(x, labels)
    return mc.Data(split, split, ("a", "b", "c"), name, "0" * 16)


def three(end: Expansion) -> tuple[float, float, float]:
    return end.loss, end.slope, end.curvature


# the derivatives ----------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["endpoints", "normed"])
def test_the_derivatives_are_those_of_the_loss_on_the_line(
    which: str, tiny: mc.Data, request: pytest.FixtureRequest
) -> None:
    """Image by image, since a kink of ReLU or pooling may by chance be as near as the step."""
    models = request.getfixturevalue(which)
    agreed = []
    for split, start, end in (("train", 0, 1), ("test", 2, 3), ("test", 3, 2)):
        a, b, images = models[start], models[end], tiny.split(split)
        for i in range(5):
            one = mc.Split(images.x[i : i + 1], images.y[i : i + 1])
            found = taylor_profile(a, b, replace(tiny, test=one)).a
            slow = reference.derivatives(a, b, one.x, one.y, 1e-5)
            agreed.append(np.allclose(three(found), slow, rtol=1e-3, atol=1e-4))
    assert np.mean(agreed) > 0.85


@pytest.mark.parametrize("which", ["endpoints", "normed"])
def test_over_many_images_they_are_means(
    which: str, tiny: mc.Data, request: pytest.FixtureRequest
) -> None:
    a, b = request.getfixturevalue(which)[:2]
    parts = [
        taylor_profile(a, b, replace(tiny, test=mc.Split(*xy)))
        for xy in zip(tiny.train.x.split(7), tiny.train.y.split(7), strict=True)
    ]
    found = taylor_profile(a, b, tiny, "train")
    for whole, ends in ((found.a, [p.a for p in parts]), (found.b, [p.b for p in parts])):
        expected = np.mean([three(end) for end in ends], axis=0)
        np.testing.assert_allclose(three(whole), expected, rtol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_of_every_kind_of_layer(name: str) -> None:
    a, b, data = build(name, 0), build(name, 1), data_for(name)
    found = taylor_profile(a, b, data)
    slow = reference.derivatives(a, b, data.test.x, data.test.y)
    np.testing.assert_allclose(three(found.a), slow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dim", [0, 1, None])
def test_a_computed_weight_moves_with_what_it_is_computed_from(dim: int | None) -> None:
    """PyTorch's own second derivative of weight norm is wrong."""

    def build_normed(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 5), dim=dim),
            nn.Tanh(),
            nn.Linear(5, 3),
        )

    a, b, data = build_normed(0), build_normed(1), data_for("tied")
    slow = reference.derivatives(a, b, data.test.x, data.test.y)
    found = taylor_profile(a, b, data)
    np.testing.assert_allclose(three(found.a), slow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stored", [True, False])
def test_statistics_of_every_norm_move_if_they_are_stored(stored: bool) -> None:
    def build_normed(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4, affine=False, track_running_stats=stored),
            nn.Tanh(),
            nn.Conv2d(4, 4, 3),
            nn.InstanceNorm2d(4, affine=stored, track_running_stats=stored),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(64, 3),
        )
        model(torch.randn(5, 2, 8, 8))
        return model

    a, b, data = build_normed(0), build_normed(1), data_for("convolutions")
    if not stored:  # batch norm then looks at all images together; so does the oracle at one
        data = replace(data, test=mc.Split(data.test.x[:1], data.test.y[:1]))
    slow = reference.derivatives(a, b, data.test.x, data.test.y)
    found = taylor_profile(a, b, data)
    np.testing.assert_allclose(three(found.a), slow, rtol=1e-5, atol=1e-6)


class Measured(nn.Module):
    """Normalises each image by itself, whatever statistics it also keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.register_buffer("mean", torch.rand(4))
        self.register_buffer("var", torch.rand(4) + 1)
        self.output = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = F.instance_norm(self.conv(x), self.mean, self.var, use_input_stats=True)
        return self.output(torch.tanh(z).flatten(1))


def test_statistics_that_are_measured_are_measured() -> None:
    torch.manual_seed(0)
    a, b, data = Measured(), Measured(), data_for("convolutions")
    slow = reference.derivatives(a, b, data.test.x, data.test.y)
    found = taylor_profile(a, b, data)
    np.testing.assert_allclose(three(found.a), slow, rtol=1e-5, atol=1e-6)


def test_a_logistic_regression_by_hand() -> None:
    """One layer, one image: `L = log Σ e^z - z_y` with z linear in t."""
    torch.manual_seed(0)
    a, b = nn.Linear(6, 3).double(), nn.Linear(6, 3).double()
    x = torch.randn(1, 6, dtype=torch.float64)
    split = mc.Split(x, torch.tensor([2]))
    found = taylor_profile(a, b, mc.Data(split, split, ("a", "b", "c"), "one", "0" * 16))
    z, velocity = a(x)[0].detach(), (b(x) - a(x))[0].detach()
    p = z.softmax(0)
    slope = float(p @ velocity - velocity[2])
    curvature = float(p @ velocity**2 - (p @ velocity) ** 2)
    assert three(found.a) == pytest.approx((-float(p[2].log()), slope, curvature), rel=1e-12)


def test_near_an_end_what_is_missing_is_of_third_order(digits: mc.Data) -> None:
    data = digits.subset(train=100, test=50)
    for seed in (0, 2):
        a, b = (
            mc.train(
                mc.build_model("mlp", data, width=16, act="tanh", seed=s), data, 5, seed=s
            ).double()
            for s in (seed, seed + 1)
        )
        data_64 = replace(data, test=mc.Split(data.test.x.double(), data.test.y))
        found = taylor_profile(a, b, data_64)
        missing = []
        for t in (0.02, 0.01):
            model = copy.deepcopy(a)
            model.load_state_dict(reference.mixture(a.state_dict(), b.state_dict(), t))
            loss, _ = reference.evaluate(model, data_64.test.x, data_64.test.y)
            missing.append(abs(loss - float(found.a.at(t))))
        assert 6 < missing[0] / missing[1] < 10


# the profile --------------------------------------------------------------------------------


def test_the_table_and_the_barrier_are_their_formulas(
    endpoints: list[nn.Module], tiny: mc.Data
) -> None:
    a, b = endpoints[:2]
    found = taylor_profile(a, b, tiny, points=7)
    table = found.table
    assert list(table.columns) == ["t", "from_a", "from_b", "mean"]
    np.testing.assert_allclose(table["t"], np.linspace(0, 1, 7))
    for row in table.itertuples():
        t, s = row.t, 1 - row.t
        from_a = found.a.loss + t * found.a.slope + t * t / 2 * found.a.curvature
        from_b = found.b.loss + s * found.b.slope + s * s / 2 * found.b.curvature
        assert row.from_a == pytest.approx(from_a)
        assert row.from_b == pytest.approx(from_b)
        assert row.mean == pytest.approx(s * from_a + t * from_b)
    ends = [mc.evaluate(m, tiny.test)[0] for m in (a, b)]
    assert table["mean"].iloc[[0, -1]].tolist() == pytest.approx(ends, rel=1e-5)
    middle = table["mean"].iloc[3] - (found.a.loss + found.b.loss) / 2
    assert found.barrier() == pytest.approx(middle)
    by_hand = (found.a.slope + found.b.slope) / 4 + (found.a.curvature + found.b.curvature) / 16
    assert found.barrier() == pytest.approx(by_hand)
    assert len(taylor_profile(a, b, tiny).table) == 25


def test_of_a_parabola_it_is_exact() -> None:
    """`L(t) = 3 - 2 t + 5 t²`: both ends say the same, and the barrier is -5/4."""
    a, b = Expansion(3, -2, 10), Expansion(6, -8, 10)
    t = np.linspace(0, 1, 5)
    np.testing.assert_allclose(a.at(t), 3 - 2 * t + 5 * t**2)
    np.testing.assert_allclose(b.at(1 - t), a.at(t))
    found = TaylorProfile(None, a, b, "test", "made up")  # type: ignore[arg-type]
    assert found.barrier() == pytest.approx(3 - 1 + 5 / 4 - (3 + 6) / 2)


def test_from_a_network_to_itself_nothing_changes(normed: list[nn.Module], tiny: mc.Data) -> None:
    found = taylor_profile(normed[0], normed[0], tiny)
    estimates = found.table[["from_a", "from_b", "mean"]]
    np.testing.assert_allclose(estimates, found.a.loss, rtol=1e-12)
    assert found.a.slope == found.a.curvature == 0
    assert abs(found.barrier()) < 1e-15


def test_walked_backwards_it_is_mirrored(endpoints: list[nn.Module], tiny: mc.Data) -> None:
    a, b = endpoints[2:4]
    there, back = taylor_profile(a, b, tiny), taylor_profile(b, a, tiny)
    assert there.barrier() == pytest.approx(back.barrier(), rel=1e-12)
    np.testing.assert_allclose(there.table["from_a"], back.table["from_b"][::-1], rtol=1e-12)
    np.testing.assert_allclose(there.table["mean"], back.table["mean"][::-1], rtol=1e-12)


@pytest.mark.parametrize("which", ["endpoints", "normed"])
def test_permuting_both_networks_changes_nothing(
    which: str, tiny: mc.Data, request: pytest.FixtureRequest
) -> None:
    a, b = request.getfixturevalue(which)[:2]
    spec = mc.trace_symmetry(a)
    before = taylor_profile(a, b, tiny)
    for seed in range(2):
        p = spec.random(seed)
        after = taylor_profile(mc.permute(a, p, spec), mc.permute(b, p, spec), tiny)
        for end, other in ((before.a, after.a), (before.b, after.b)):
            np.testing.assert_allclose(three(other), three(end), rtol=1e-9, atol=1e-12)


def test_batches_do_not_matter_and_precision_little(normed: list[nn.Module], tiny: mc.Data) -> None:
    a, b = normed[:2]
    whole = taylor_profile(a, b, tiny, "train").table
    for size in (1, 13, 69):
        parts = taylor_profile(a, b, tiny, "train", batch_size=size).table
        np.testing.assert_allclose(parts, whole, rtol=1e-9)
    low = taylor_profile(a, b, tiny, "train", precision="float32").table
    assert not low.equals(whole)
    np.testing.assert_allclose(low, whole, rtol=1e-3)


@pytest.mark.parametrize("name", ["convolutions", "separate attention", "tied"])
@pytest.mark.usefixtures("same_random_state")
def test_looking_changes_nothing(
    name: str, untouched: Callable[[nn.Module], Callable[[], None]]
) -> None:
    a, b, data = build(name, 0), build(name, 1), data_for(name)
    a.requires_grad_(False)
    compare = [untouched(m) for m in (a, b)]
    with torch.no_grad():
        first, again = (taylor_profile(a, b, data) for _ in range(2))
    assert first.table.equals(again.table)
    for check in compare:
        check()
    assert all(p.requires_grad for p in b.parameters())


def test_it_says_what_it_is(endpoints: list[nn.Module], tiny: mc.Data) -> None:
    found = taylor_profile(endpoints[0], endpoints[1], tiny, points=5)
    assert repr(found) == (
        f"TaylorProfile(test loss on {tiny.name}, 5 points, "
        f"barrier at the midpoint {found.barrier():.3g})"
    )


# what it is on trained networks -------------------------------------------------------------


def test_it_does_not_see_the_wall(endpoints: list[nn.Module], digits: mc.Data) -> None:
    for a, b in zip(endpoints[::2], endpoints[1::2], strict=True):
        losses = [mc.evaluate(mc.LinearPath(a, b).model_at(t), digits.test)[0] for t in (0, 0.5, 1)]
        wall = losses[1] - (losses[0] + losses[2]) / 2
        assert taylor_profile(a, b, digits).barrier() < 0.7 * wall


# bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "tset"}, mc.UnknownNameError, "unknown split 'tset'.*'test'"),
        ({"precision": "float"}, mc.UnknownNameError, "unknown precision 'float'.*'float64'"),
        ({"points": 1}, ValueError, "at least 2 points, found 1"),
    ],
)
def test_options_that_are_none_are_refused(
    endpoints: list[nn.Module], tiny: mc.Data, options: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        taylor_profile(endpoints[0], endpoints[1], tiny, **options)


def test_what_does_not_fit_is_refused(endpoints: list[nn.Module], tiny: mc.Data) -> None:
    a, b = endpoints[:2]
    with pytest.raises(mc.IncompatibleError, match=r"linear1.weight is \[16, 64\] in A and \[9"):
        taylor_profile(a, mc.build_model("mlp", tiny, width=(9, 16)), tiny)
    with pytest.raises(TypeError, match="expected data, as load_data .* found Split"):
        taylor_profile(a, b, tiny.test)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a torch.nn.Module, found LinearPath"):
        taylor_profile(mc.LinearPath(a, b), b, tiny)  # type: ignore[arg-type]
    empty = replace(tiny, test=mc.Split(tiny.test.x[:0], tiny.test.y[:0]))
    with pytest.raises(ValueError, match="at least one test image, found none"):
        taylor_profile(a, b, empty)
    bad = copy.deepcopy(b)
    with torch.no_grad():
        bad.output.bias[0] = math.nan
    with pytest.raises(ValueError, match="1 NaN or infinite entries of 10 in output.bias of B"):
        taylor_profile(a, bad, tiny)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(ValueError, match=r"more than 9 classes\] .*found \[30, 4\]"):
        taylor_profile(flat, flat, tiny)
