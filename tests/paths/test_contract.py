"""What every kind of path must do.  A new kind is one line in `KINDS`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path as File

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import mcbook as mc
from mcbook import weights
from mcbook.paths import Path
from mcbook.paths.base import _mix

# kind: how to make such a path between two networks
KINDS: dict[str, Callable[[nn.Module, nn.Module], Path]] = {
    "linear": mc.LinearPath,
    "bezier": lambda a, b: mc.BezierPath(a, b, [_between(a, b, 1)]),
    "cubic bezier": lambda a, b: mc.BezierPath(a, b, [_between(a, b, s) for s in (1, 2)]),
    "polychain": lambda a, b: mc.PolychainPath(a, b, [_between(a, b, 1)]),
    "uneven polychain": lambda a, b: mc.PolychainPath(
        a, b, [_between(a, b, s) for s in (1, 2, 3)], knots=(0, 0.2, 0.3, 0.6, 1)
    ),
}


def _between(a: nn.Module, b: nn.Module, seed: int) -> dict[str, Tensor]:
    """The middle between two networks, and something on top."""
    middle = mc.LinearPath(a, b).at(0.5)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: x + 0.1 * torch.randn(x.shape, generator=generator).to(x)
        if x.is_floating_point()
        else x
        for name, x in middle.items()
    }


T = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1e-300, 1 - 1e-16]), st.floats(0, 1))


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[nn.Module, nn.Module], Path]:
    return KINDS[request.param]


def network(seed: int, kind: str = "mlp") -> nn.Module:
    """A network with parameters, float buffers and counters, all of them different."""
    data = mc.load_data("digits", device="cpu").subset(train=20, test=5)
    options = {"mlp": {"width": (4, 3), "norm": "batch"}, "convnet": {"width": 2}}[kind]
    model = mc.build_model(kind, data, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.state_dict().items():
            if "norm" in name and x.is_floating_point():
                x.uniform_(0.5, 2, generator=generator)
            elif not x.is_floating_point():
                x.fill_(100 + seed)
    return model.eval()


def equal(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(
        torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a
    )


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_ends_are_a_and_b_to_the_last_bit(
    make: Callable, kind: str, dtype: torch.dtype
) -> None:
    a, b = (network(s, kind).to(dtype) for s in (0, 1))
    path = make(a, b)
    start, end = path.at(0), path.at(1)
    assert equal(start, weights.of(a))
    for name, x in weights.of(b).items():
        assert torch.equal(end[name], x if x.is_floating_point() else a.state_dict()[name]), name
    assert equal(path.model_at(0).state_dict(), start)
    assert equal(path.model_at(1.0).state_dict(), end)


def test_dtypes_counters_and_order_are_as_everywhere(make: Callable) -> None:
    a, b = network(0).double(), network(1)
    path = make(a, b)
    for t in (0.0, 0.3, 1.0):
        point = path.at(t)
        assert list(point) == list(a.state_dict())
        for name, x in a.state_dict().items():
            assert point[name].dtype == x.dtype
            assert point[name].device == x.device
            if not x.is_floating_point():
                assert torch.equal(point[name], x)
    assert make(b, a).at(1.0)["output.weight"].dtype == torch.float32


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@given(t=T)
def test_coefficients_sum_to_one_and_their_velocities_to_zero(make: Callable, t: float) -> None:
    path = make(network(0), network(1))
    c, v = path.coefficients(t), path.coefficient_velocities(t)
    count = len(path.control_points["output.weight"])
    assert c.shape == v.shape == (count,)
    assert c.dtype == v.dtype == torch.float64
    assert abs(float(c.sum()) - 1) < 1e-12
    assert abs(float(v.sum())) < 1e-9


def test_coefficients_are_unit_vectors_at_the_ends(make: Callable) -> None:
    path = make(network(0), network(1))
    first, last = path.coefficients(0.0).tolist(), path.coefficients(1.0).tolist()
    assert first == [1.0, *[0.0] * (len(first) - 1)]
    assert last == [*[0.0] * (len(last) - 1), 1.0]


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@given(t=T)
def test_a_point_is_the_mixture_of_the_control_points(make: Callable, t: float) -> None:
    path = make(network(0).double(), network(1).double())
    c, point = path.coefficients(t).tolist(), path.at(t)
    for name, points in path.control_points.items():
        slow = sum(ci * p for ci, p in zip(c, points, strict=True))
        torch.testing.assert_close(point[name], slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [0.11, 0.29, 0.53, 0.87])
def test_the_velocity_is_the_finite_difference(make: Callable, t: float) -> None:
    path = make(network(0).double(), network(1).double())
    h = 1e-5
    before, after, velocity = path.at(t - h), path.at(t + h), path.velocity(t)
    assert list(velocity) == list(path.control_points)
    for name, v in velocity.items():
        slope = (after[name] - before[name]) / (2 * h)
        torch.testing.assert_close(v, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("t", [-1e-9, 1 + 1e-9, -1, 2, float("nan"), float("inf"), -float("inf")])
def test_t_outside_0_1_is_refused(make: Callable, t: float) -> None:
    path = make(network(0), network(1))
    for ask in (path.at, path.velocity, path.model_at):
        with pytest.raises(ValueError, match=r"expected t in \[0, 1\], found "):
            ask(t)


def test_knots_run_from_0_to_1(make: Callable) -> None:
    knots = make(network(0), network(1)).knots
    assert isinstance(knots, tuple)
    assert (knots[0], knots[-1]) == (0.0, 1.0)
    assert all(s < t for s, t in itertools.pairwise(knots))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_saved_and_loaded_it_is_the_same_path(
    make: Callable, tmp_path: File, dtype: torch.dtype
) -> None:
    path = make(network(0).to(dtype), network(1).to(dtype))
    assert path.save(tmp_path / "path") == tmp_path / "path"
    loaded = mc.load_path(tmp_path / "path")
    assert type(loaded) is type(path)
    assert (loaded.kind, loaded.knots) == (path.kind, path.knots)
    assert equal(loaded.control_points, path.control_points)
    for t in (0.0, 0.37, 1.0):
        assert equal(loaded.at(t), path.at(t))
        assert equal(loaded.velocity(t), path.velocity(t))
    first, second = loaded.model_at(0.6), path.model_at(0.6)
    assert equal(first.state_dict(), second.state_dict())
    assert first.example_shape == second.example_shape
    assert first.architecture == second.architecture


def test_models_along_it_are_new_and_in_eval_mode(make: Callable) -> None:
    a = network(0).train()
    a.history = "of A alone"
    path = make(a, network(1))
    model = path.model_at(0.4)
    assert not any(m.training for m in model.modules())
    assert not hasattr(model, "history")
    assert model.example_shape == a.example_shape
    assert equal(model.state_dict(), path.at(0.4))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert equal(path.model_at(0.4).state_dict(), path.at(0.4))
    assert path.at(0.4)["output.weight"].any()


def test_it_is_apart_from_its_ends(
    make: Callable, same_random_state: None, untouched: Callable
) -> None:
    a, b = network(0).train(), network(1)
    unchanged = [untouched(model) for model in (a, b)]
    path = make(a, b)
    before = path.at(0.5)
    for t in (0.0, 0.5, 1.0):
        for x in [*path.at(t).values(), *path.velocity(t).values()]:
            x.add_(1)
        path.model_at(t)
    for check in unchanged:
        check()
    with torch.no_grad():
        for model in (a, b):
            for x in model.state_dict().values():
                x.zero_()
    assert equal(path.at(0.5), before)
    assert not any(x.requires_grad for x in before.values())


def test_degree_elevation_leaves_the_curve_where_it_is(make: Callable) -> None:
    path = make(network(0).double(), network(1).double())
    more = path.elevated()
    count = len(path.control_points["output.weight"])
    assert len(more.control_points["output.weight"]) == count + 1
    assert set(path.knots) <= set(more.knots)
    for t in (0.0, 0.1, 0.37, 0.5, 0.83, 1.0):
        for name, x in path.at(t).items():
            torch.testing.assert_close(more.at(t)[name], x, rtol=1e-12, atol=1e-12)
        for name, x in path.velocity(t).items():
            torch.testing.assert_close(more.velocity(t)[name], x, rtol=1e-10, atol=1e-10)
    for t in (0, 1):
        assert equal(more.at(t), path.at(t))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_where_all_control_points_are_equal_it_stands_still(
    make: Callable, dtype: torch.dtype
) -> None:
    a = network(0).to(dtype)
    path = make(a, network(1).to(dtype))
    still = {name: p[:1].expand_as(p).clone() for name, p in path.control_points.items()}
    path = path._restored(a, still, path.knots)
    for t in (0.0, 1e-9, 0.1, 1 / 3, 0.5, 0.77, 1 - 1e-9, 1.0):
        assert equal(path.at(t), weights.of(a))
        assert not any(v.any() for v in path.velocity(t).values())


def test_unit_vectors_pick_a_control_point_to_the_last_bit(make: Callable) -> None:
    a, b = network(0), network(1)
    path = make(a, b)
    for name, points in path.control_points.items():
        scaled = points * 10.0 ** torch.arange(len(points)).reshape(-1, *[1] * (points.ndim - 1))
        for i in range(len(points)):
            c = torch.zeros(len(points), dtype=torch.float64)
            c[i] = 1
            assert torch.equal(_mix(c, scaled), scaled[i]), name
            assert _mix(c, scaled).data_ptr() != scaled[i].data_ptr()
        assert not _mix(0 * c, scaled).any()


def test_other_architectures_are_refused_by_the_first_tensor(make: Callable) -> None:
    a = network(0)
    with pytest.raises(mc.IncompatibleError, match=r"linear1\.weight \[4, 64\] of A is not in B"):
        make(a, network(1, "convnet"))
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    narrower = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 10))
    with pytest.raises(mc.IncompatibleError, match=r"1\.weight is \[5, 64\] in A and \[3, 64\] in"):
        make(wider, narrower)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1])
def test_weights_that_are_not_finite_are_refused(make: Callable, bad: float, which: int) -> None:
    pair = [network(0), network(1)]
    with torch.no_grad():
        pair[which].linear2.weight[1, 1] = bad
    said = rf"1 NaN or infinite entries of 12 in linear2\.weight of {'AB'[which]}"
    with pytest.raises(ValueError, match=said):
        make(*pair)


def test_it_shows_its_kind_and_size(make: Callable) -> None:
    path = make(network(0), network(1))
    count = sum(x.numel() for x in network(0).state_dict().values() if x.is_floating_point())
    assert repr(path).startswith(type(path).__name__)
    assert f"weights={count}" in repr(path)
    assert Path._kinds[path.kind] is type(path)
