"""Variance spheres: on them to the last digits, with the mean and the direction as they were."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import mcbook as mc
from mcbook.errors import IncompatibleError
from mcbook.paths.spheres import arc, set_variance_, variance, variance_spheres
from tests.reference_walks import arc_length, mean_and_variance, on_sphere


def drawn(seed: int, *shape: int, mean: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) + mean).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2,), (50,), (7, 11), (4, 3, 3, 3)])
@pytest.mark.parametrize("mean", [0.0, 0.7, -3.0])
@pytest.mark.parametrize("target", [5e-6, 7.2e-5, 0.5, 9.0])
def test_a_tensor_is_brought_to_its_sphere(
    dtype: torch.dtype, shape: tuple[int, ...], mean: float, target: float
) -> None:
    x = drawn(1, *shape, mean=mean, dtype=dtype)
    before, old_mean = x.clone(), float(x.double().mean())
    set_variance_([x], [target])
    # what is left of small deviations beside a large mean
    near = 1e-5 + (20 * abs(mean) * torch.finfo(dtype).eps / math.sqrt(target))
    assert float(x.double().var(correction=0)) == pytest.approx(target, rel=near)
    assert float(x.double().mean()) == pytest.approx(old_mean, abs=1e-6 * max(1, abs(mean)))
    new, old = (y.double().flatten() - y.double().mean() for y in (x, before))
    assert float(new @ old / new.norm() / old.norm()) == pytest.approx(1, abs=max(near, 1e-9))
    torch.testing.assert_close(
        x, on_sphere(before, target), rtol=1e-5, atol=1e-6 * max(1, abs(mean))
    )
    again = x.clone()
    set_variance_([again], [target])
    torch.testing.assert_close(again, x, rtol=1e-5, atol=1e-6 * max(1, abs(mean)))


def test_each_tensor_goes_to_its_own_sphere_in_place() -> None:
    whole = drawn(2, 30)
    parts = [whole[:10], whole[10:].view(4, 5)]
    set_variance_(parts, [2.0, 0.01])
    assert float(whole[:10].var(correction=0)) == pytest.approx(2.0, rel=1e-5)
    assert float(whole[10:].var(correction=0)) == pytest.approx(0.01, rel=1e-5)
    with pytest.raises(ValueError, match="shorter"):
        set_variance_(parts, [1.0])


@pytest.mark.parametrize(
    "x", [torch.tensor([3.0]), torch.tensor(2.0), torch.ones(5), torch.full((4,), 0.1),
          torch.zeros(6), torch.zeros(0)],
    ids=["one entry", "a number", "ones", "tenths", "zeros", "empty"],
)  # fmt: skip
def test_what_no_factor_can_bring_there_is_left_alone(x: Tensor) -> None:
    before = x.clone()
    set_variance_([x], [0.5])
    assert torch.equal(x, before)
    assert variance(x) == 0


def test_target_zero_leaves_a_tensor_free() -> None:
    x = drawn(3, 9)
    before = x.clone()
    set_variance_([x], [0.0])
    assert torch.equal(x, before)


def test_a_constant_but_for_rounding_stays_one() -> None:
    """Else its rounding errors would become the deviations."""
    x = torch.full((1000,), 0.1)
    x[::2] += 1e-8
    before = x.clone()
    set_variance_([x], [1.0])
    assert torch.equal(x, before)
    assert variance(x) == 0
    # small deviations about a small mean are none
    y = drawn(4, 100) * 1e-9
    set_variance_([y], [1.0])
    assert variance(y) == pytest.approx(1.0, rel=1e-5)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20))
def test_the_variance_divides_by_the_number_of_entries(values: list[float]) -> None:
    x = torch.tensor(values)
    mean, spread = mean_and_variance(x)
    if spread > 1.1e-12 * mean**2:
        assert variance(x) == pytest.approx(spread, rel=1e-6, abs=1e-300)
    elif spread < 0.9e-12 * mean**2:
        assert variance(x) == 0


# arcs -----------------------------------------------------------------------------------------


def test_arcs_known_by_heart() -> None:
    e = torch.eye(4)
    assert arc(e[0], e[1]) == pytest.approx(math.pi / 2)
    assert arc(3 * e[0], 5 * e[1]) == pytest.approx(4 * math.pi / 2)
    assert arc(e[0], -e[0]) == pytest.approx(math.pi)
    assert arc(e[0], 0.25 * e[0]) == pytest.approx(0, abs=1e-7)
    assert arc(torch.zeros(3), torch.ones(3)) == arc(torch.ones(3), torch.zeros(3)) == 0
    x = drawn(5, 6, 7)
    assert arc(x, x) == 0
    assert arc(x, 1.5 * x) == pytest.approx(0, abs=1e-6)  # never the arccos of more than 1
    # angles far below what arccos can tell
    near = torch.tensor([1.0, 1e-10], dtype=torch.float64)
    assert arc(torch.tensor([1.0, 0.0], dtype=torch.float64), near) == pytest.approx(1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_the_arc_is_that_of_the_cosine(seed: int) -> None:
    a, b = drawn(seed, 4, 5), drawn(seed + 10, 4, 5, mean=0.5)
    before = a.clone(), b.clone()
    assert arc(a, b) == pytest.approx(arc_length(a, b), rel=1e-6)
    assert arc(a, b) == pytest.approx(arc(b, a))
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


# tables ---------------------------------------------------------------------------------------


def test_the_table_of_several_networks(
    endpoints: list[nn.Module], untouched: Callable, same_random_state: None
) -> None:
    nets = endpoints[:4]
    unchanged = [untouched(m) for m in nets]
    table = variance_spheres(nets)
    for check in unchanged:
        check()
    assert list(table.index) == [n for n, p in nets[0].named_parameters()]
    for name, row in table.iterrows():
        tensors = [dict(m.named_parameters())[name].detach().double() for m in nets]
        found = torch.stack([x.var(correction=0) for x in tensors])
        squares = torch.stack([x.square().mean() for x in tensors])
        assert row["entries"] == tensors[0].numel()
        assert row["mean"] == pytest.approx(float(torch.stack([x.mean() for x in tensors]).mean()))
        assert row["deviation"] == pytest.approx(float(found.mean()) ** 0.5)
        assert row["spread"] == pytest.approx(float(found.std() / found.mean()))
        assert row["share"] == pytest.approx(float((found / squares).mean()))
    # weights of trained networks are on spheres about the origin, of nearly one radius
    weights = table.loc[[n for n in table.index if n.endswith("weight")]]
    assert (weights["share"] > 0.9).all()
    assert (weights["spread"] < 0.3).all()


def test_tensors_without_variance_have_no_spread(digits: mc.Data) -> None:
    nets = [mc.build_model("convnet", digits, width=2, seed=s) for s in (0, 1)]
    table = variance_spheres(nets)
    new = [n for n in table.index if "norm" in n]
    assert new
    assert (table.loc[new, ["deviation", "spread", "share"]] == 0).all().all()
    one = [nn.Linear(1, 1), nn.Linear(1, 1)]
    assert variance_spheres(one).empty


def test_networks_that_cannot_be_compared_are_refused(digits: mc.Data) -> None:
    a, b = (mc.build_model("mlp", digits, width=w) for w in (4, 5))
    with pytest.raises(IncompatibleError, match="linear1.weight"):
        variance_spheres([a, a, b])
    for few in ([], [a]):
        with pytest.raises(ValueError, match=f"at least 2 networks, found {len(few)}"):
            variance_spheres(few)
