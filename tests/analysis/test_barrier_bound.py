"""The bound of a barrier: above every barrier, right layer by layer, and only where it holds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import mcbook as mc
from mcbook.analysis.barrier_bound import _SLOPES, _slope, barrier_bound
from tests import reference, reference_analysis


def perceptron(seed: int, *widths: int, act: type[nn.Module] = nn.ReLU, scale: float = 2.0):
    """Of random weights, larger than PyTorch's."""
    sizes = (6, *widths, 4)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for i in range(len(sizes) - 1):
            layers += [nn.Linear(sizes[i], sizes[i + 1]), act()]
        model = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(scale)
    return model


def images(count: int = 20, seed: int = 0) -> Tensor:
    return 2 * torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def logits_between(a: nn.Module, b: nn.Module, x: Tensor, points: int) -> list[Tensor]:
    """The logits on a uniform grid, in float64."""
    path = mc.LinearPath(copy.deepcopy(a).double(), copy.deepcopy(b).double())
    with torch.no_grad():
        return [path.model_at(t)(x.double()) for t in np.linspace(0, 1, points).tolist()]


def barrier(logits: list[Tensor], y: Tensor) -> float:
    """Of the loss."""
    ts = np.linspace(0, 1, len(logits)).tolist()
    return reference.barrier(ts, [float(F.cross_entropy(z, y)) for z in logits])


# the theorem --------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10**6),
    widths=st.lists(st.integers(1, 6), max_size=3),
    act=st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU]),
    scale=st.floats(0.1, 6),
)
def test_no_barrier_is_above_it(
    seed: int, widths: list[int], act: type[nn.Module], scale: float
) -> None:
    a, b = (perceptron(seed + i, *widths, act=act, scale=scale) for i in (0, 1))
    x = images(seed=seed)
    found = barrier_bound(a, b, x)
    slack = 1e-9 * (1 + found.bound)
    assert found.bound >= found.sharp - slack
    assert (found.along["bound"] >= found.along["sharp"] - slack).all()
    table = found.table
    assert (table["error_bound"] >= table["error"] - slack).all()
    generator = torch.Generator().manual_seed(seed)
    logits = logits_between(a, b, x, 61)
    for _ in range(3):  # for any labels
        y = torch.randint(4, (len(x),), generator=generator)
        assert barrier(logits[::3], y) <= found.sharp + slack
        assert barrier(logits, y) <= found.bound + slack


def test_it_is_above_the_barriers_of_trained_networks(
    endpoints: list[nn.Module], digits: mc.Data
) -> None:
    for a, b in zip(endpoints[:4:2], endpoints[1:4:2], strict=True):
        for split in ("train", "test"):
            found = barrier_bound(a, b, digits.split(split).x)
            for points in (21, 61):
                prof = mc.profile(mc.LinearPath(a, b), digits, points, (split,))
                assert prof.barrier(split) <= found.sharp <= found.bound
            # it is loose: so the text says
            assert found.bound > 2 * found.sharp > 4 * prof.barrier(split)


@pytest.mark.parametrize("widths", [(5,), (5, 4), (3, 6, 4)])
def test_every_number_is_the_mean_over_images_one_by_one(widths: tuple[int, ...]) -> None:
    a, b = perceptron(0, *widths), perceptron(1, *widths)
    x = images(6)
    found = barrier_bound(a, b, x, points=5)
    apart, errors, bounds = reference_analysis.errors_of_mixing(a, b, x, found.at)
    table = found.table
    assert table["layer"].tolist() == [str(2 * i) for i in range(len(widths) + 1)]
    np.testing.assert_allclose(table["mismatch"], apart, rtol=1e-5)
    np.testing.assert_allclose(table["error"], errors, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table["error_bound"], bounds, rtol=1e-5, atol=1e-12)
    assert math.isclose(found.bound, math.sqrt(2) * bounds[-1], rel_tol=1e-5)
    for row in found.along.itertuples():
        _, errors, bounds = reference_analysis.errors_of_mixing(a, b, x, row.t)
        assert math.isclose(row.sharp, math.sqrt(2) * errors[-1], rel_tol=1e-5, abs_tol=1e-6)
        assert math.isclose(row.bound, math.sqrt(2) * bounds[-1], rel_tol=1e-5, abs_tol=1e-12)
    assert found.along["t"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.sharp == found.along["sharp"].max()
    assert found.sharp_at == found.along["t"][found.along["sharp"].argmax()]


def test_its_highest_t_is_found_between_the_points() -> None:
    a, b = perceptron(0, 5, 4, 3), perceptron(1, 5, 4, 3, scale=0.5)
    coarse, fine = (barrier_bound(a, b, images(), points=n) for n in (3, 81))
    assert math.isclose(coarse.bound, fine.bound, rel_tol=1e-12)
    assert math.isclose(coarse.at, fine.at, abs_tol=1e-9)
    assert abs(coarse.at - 0.5) > 0.05
    assert coarse.bound > coarse.along["bound"].max()
    assert fine.bound >= fine.along["bound"].max() > 0.99 * fine.bound


@pytest.mark.parametrize("act", [nn.ReLU, nn.Sigmoid])
def test_one_hidden_layer_has_a_closed_form(act: type[nn.Module]) -> None:
    a, b = perceptron(3, 5, act=act), perceptron(4, 5, act=act)
    x = images()
    with torch.no_grad():
        mismatch = float((a[0](x) - b[0](x)).norm(dim=1).mean())
    norms = sum(float(torch.linalg.matrix_norm(m[2].weight.detach(), 2)) for m in (a, b))
    slope = 0.25 if act is nn.Sigmoid else 1.0
    found = barrier_bound(a, b, x)
    assert math.isclose(found.bound, math.sqrt(2) / 4 * slope * norms * mismatch, rel_tol=1e-5)
    assert math.isclose(found.at, 0.5, abs_tol=1e-9)


def test_without_hidden_layers_the_loss_is_convex() -> None:
    found = barrier_bound(perceptron(0), perceptron(1), images())
    assert found.bound == 0
    assert found.sharp < 1e-12


def test_identical_networks_have_none() -> None:
    a = perceptron(0, 5, 4)
    found = barrier_bound(a, copy.deepcopy(a), images())
    assert (found.bound, found.sharp) == (0, 0)
    assert found.table["mismatch"].tolist() == [0, 0, 0]


def test_walked_backwards_it_is_the_same() -> None:
    a, b = perceptron(0, 5, 4), perceptron(1, 5, 4, scale=1.0)
    there, back = barrier_bound(a, b, images()), barrier_bound(b, a, images())
    assert math.isclose(there.bound, back.bound, rel_tol=1e-9)
    assert math.isclose(there.sharp, back.sharp, rel_tol=1e-9)
    assert math.isclose(there.at, 1 - back.at, abs_tol=1e-6)
    np.testing.assert_array_equal(there.table["norm_a"], back.table["norm_b"])


# permutations -------------------------------------------------------------------------------


def test_one_permutation_of_both_changes_nothing(tiny: mc.Data) -> None:
    a, b = (mc.build_model("mlp", tiny, width=(7, 6), seed=s) for s in (0, 1))
    spec = mc.trace_symmetry(a)
    p = spec.random(seed=3)
    both = [mc.permute(m, p, spec) for m in (a, b)]
    found, moved = barrier_bound(a, b, tiny.test.x), barrier_bound(*both, tiny.test.x)
    assert math.isclose(found.bound, moved.bound, rel_tol=1e-9)
    assert math.isclose(found.sharp, moved.sharp, rel_tol=1e-9)
    alone = barrier_bound(a, both[1], tiny.test.x)
    assert not math.isclose(found.bound, alone.bound, rel_tol=1e-3)
    np.testing.assert_allclose(alone.table["norm_b"], found.table["norm_b"], rtol=1e-6)


def test_it_falls_where_a_planted_permutation_is_undone(
    endpoints: list[nn.Module], digits: mc.Data
) -> None:
    a = endpoints[0]
    spec = mc.trace_symmetry(a)
    noisy = copy.deepcopy(a)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in noisy.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator))
    b = mc.permute(noisy, spec.random(seed=1), spec)
    back = mc.activation_matching(a, b, digits, images=600, progress=False).model
    before, after = (barrier_bound(a, m, digits.test.x) for m in (b, back))
    assert after.bound < 0.2 * before.bound
    assert after.sharp < 0.1 * before.sharp
    assert (after.table["mismatch"][:-1] < 0.2 * before.table["mismatch"][:-1]).all()


# which networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("act", [*_SLOPES, nn.LeakyReLU, nn.ELU, lambda: nn.LeakyReLU(-1.7),
                                 lambda: nn.ELU(2.5)])  # fmt: skip
def test_no_activation_is_steeper_than_it_is_said_to_be(act: Callable[[], nn.Module]) -> None:
    module = act()
    z = torch.linspace(-12, 12, 48001, dtype=torch.float64)
    slopes = (module(z).diff() / z.diff()).abs()
    steepest = _slope(module)
    assert steepest is not None
    assert slopes.max() <= steepest + 1e-9
    assert slopes.max() > 0.999 * steepest


def test_networks_of_the_library_and_others_like_them(tiny: mc.Data) -> None:
    for options in ({"standardize": True}, {"act": "tanh"}, {"bias": False}, {"act": "gelu"}):
        a, b = (mc.build_model("mlp", tiny, width=(5, 4), seed=s, **options) for s in (0, 1))
        found = barrier_bound(a, b, tiny.test.x)
        assert found.table["layer"].tolist() == ["linear1", "linear2", "output"]
        assert found.bound > found.sharp > 0
    # one activation in two places, something without effect, a stack in a stack

    def nested(seed: int) -> nn.Module:
        one, two, three = (m for m in perceptron(seed, 5, 4) if isinstance(m, nn.Linear))
        act = nn.ReLU(inplace=True)
        return nn.Sequential(
            nn.Dropout(0.5),
            nn.Sequential(one, act, nn.Dropout(0.5)),
            two,
            nn.Identity(),
            act,
            three,
        )

    found = barrier_bound(nested(0), nested(1), images())
    plain = barrier_bound(perceptron(0, 5, 4), perceptron(1, 5, 4), images())
    assert found.table["layer"].tolist() == ["1.0", "2", "5"]
    assert math.isclose(found.bound, plain.bound, rel_tol=1e-12)
    assert math.isclose(found.sharp, plain.sharp, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)), "found BatchNorm1d at '1'"),
        ((nn.Linear(6, 4), nn.Softmax(1), nn.Linear(4, 4)), "found Softmax at '1'"),
        ((nn.Linear(6, 4), nn.GELU("tanh"), nn.Linear(4, 4)), "found GELU at '1'"),
        ((nn.Linear(6, 4), nn.Flatten(), nn.Linear(4, 4)), "found Flatten at '1'"),
        ((nn.ReLU(), nn.Linear(6, 4)), "found ReLU at '0'"),
        ((nn.Linear(6, 4), nn.ReLU()), "found '1' at the end"),
        ((nn.Flatten(),), "found '0' at the end"),
        (
            (nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),),
            "found ParametrizedLinear at '0'",
        ),
    ],
)
def test_other_networks_are_refused_by_name(layers: tuple[nn.Module, ...], message: str) -> None:
    model = nn.Sequential(*layers)
    with pytest.raises(mc.IncompatibleError, match=message):
        barrier_bound(model, model, images())


def test_other_arguments_are_refused(tiny: mc.Data) -> None:
    a, b = perceptron(0, 5), perceptron(1, 5)
    with pytest.raises(mc.IncompatibleError, match="expected a multi-layer perceptron.*Conv2d"):
        barrier_bound(*[mc.build_model("convnet", tiny, width=2)] * 2, tiny.test.x)
    with pytest.raises(mc.IncompatibleError, match="found a Linear"):
        barrier_bound(a[0], b[0], images())
    with pytest.raises(mc.IncompatibleError, match="of one architecture"):
        barrier_bound(a, perceptron(1, 4), images())
    with pytest.raises(mc.IncompatibleError, match="of one architecture"):
        barrier_bound(a, perceptron(1, 5, act=nn.Tanh), images())
    with pytest.raises(TypeError, match=r"torch.nn.Module"):
        barrier_bound(a, b.state_dict(), images())
    with pytest.raises(TypeError, match="expected a tensor of images"):
        barrier_bound(a, b, tiny.test)
    with pytest.raises(ValueError, match="at least one image"):
        barrier_bound(a, b, images(0))
    with pytest.raises(ValueError, match="at least 3 points, found 2"):
        barrier_bound(a, b, images(), points=2)
    with pytest.raises(mc.IncompatibleError, match=r"after 0, found shape \[3, 2, 5\]"):
        barrier_bound(a, b, torch.zeros(3, 2, 6))
    one, other = (mc.build_model("mlp", tiny, width=4, seed=s, standardize=True) for s in (0, 1))
    other.standardize.std.mul_(1.5)
    with pytest.raises(mc.IncompatibleError, match=r"found another standardize\.std in B"):
        barrier_bound(one, other, tiny.test.x)


@pytest.mark.usefixtures("same_random_state")
def test_nothing_is_changed_and_the_batch_size_does_not_matter(
    untouched: Callable[[nn.Module], Callable[[], None]],
) -> None:
    a, b = perceptron(0, 5, 4), perceptron(1, 5, 4)
    b.eval()
    unchanged = [untouched(m) for m in (a, b)]
    whole, parts = (barrier_bound(a, b, images(), batch_size=n) for n in (2048, 3))
    for check in unchanged:
        check()
    assert math.isclose(whole.bound, parts.bound, rel_tol=1e-12)
    assert math.isclose(whole.sharp, parts.sharp, rel_tol=1e-12)
    assert "barrier at most" in repr(whole)
