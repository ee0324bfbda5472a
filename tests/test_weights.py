from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mcbook import IncompatibleError, weights
from tests import reference

Weights = dict[str, Tensor]
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@st.composite
def several(draw: st.DrawFn, count: int = 2, dtypes: tuple = (torch.float64,)) -> list[Weights]:
    """So many sets of weights of one random architecture."""
    shapes = draw(st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4))
    kinds = draw(st.lists(st.sampled_from(dtypes), min_size=len(shapes), max_size=len(shapes)))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return [
        {
            f"layer{i}.weight": (scale * torch.randn(shape, generator=generator)).to(kind)
            for i, (shape, kind) in enumerate(zip(shapes, kinds, strict=True))
        }
        for _ in range(count)
    ]


def same(a: Weights, b: Weights) -> bool:
    return list(a) == list(b) and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


def test_of_has_parameters_and_buffers_detached_and_not_copied() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    found = weights.of(model)
    assert list(found) == list(model.state_dict())
    assert not any(x.requires_grad for x in found.values())
    assert found["0.weight"].data_ptr() == model[0].weight.data_ptr()


def test_of_shows_tied_weights_under_both_names() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    assert {"a.weight", "b.weight"} <= set(weights.of(model))


@given(several(dtypes=FLOATS))
def test_interpolate_is_exact_at_both_ends(pair: list[Weights]) -> None:
    a, b = pair
    assert same(weights.interpolate(a, b, 0), a)
    assert same(weights.interpolate(a, b, 1), b)


@given(several(), st.floats(0, 1))
def test_interpolate_is_symmetric(pair: list[Weights], t: float) -> None:
    a, b = pair
    there, back = weights.interpolate(a, b, t), weights.interpolate(b, a, 1 - t)
    for name in a:
        torch.testing.assert_close(there[name], back[name], rtol=1e-12, atol=1e-12)


@given(several(), st.floats(-1, 2))
def test_interpolate_is_the_mixture_entry_by_entry(pair: list[Weights], t: float) -> None:
    a, b = pair
    fast, slow = weights.interpolate(a, b, t), reference.mixture(a, b, t)
    for name in a:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-10, atol=1e-10)


@given(several(1, dtypes=FLOATS), st.floats(0, 1))
def test_interpolate_between_equal_weights_stays(one: list[Weights], t: float) -> None:
    assert same(weights.interpolate(one[0], one[0], t), one[0])


def test_interpolate_leaves_counters_to_a_and_shares_no_memory() -> None:
    a = {"w": torch.zeros(2), "n": torch.tensor(3)}
    b = {"w": torch.ones(2), "n": torch.tensor(7)}
    for t in (0.0, 0.25, 1.0):
        mixed = weights.interpolate(a, b, t)
        assert int(mixed["n"]) == 3
        for tensor in mixed.values():
            tensor.add_(5)
    assert (a["w"].tolist(), b["w"].tolist(), int(a["n"])) == ([0, 0], [1, 1], 3)


def test_interpolate_takes_as_dtype() -> None:
    a, b = {"w": torch.zeros(2, dtype=torch.float64)}, {"w": torch.ones(2)}
    assert weights.interpolate(a, b, 0.5)["w"].dtype == torch.float64
    assert weights.interpolate(b, a, 0.5)["w"].dtype == torch.float32


@given(several(1))
def test_ravel_is_every_entry_in_order(one: list[Weights]) -> None:
    assert weights.ravel(one[0]).tolist() == reference.entries(one[0])


def test_ravel_leaves_counters_out_and_needs_something() -> None:
    assert weights.ravel({"n": torch.tensor(3), "w": torch.ones(2, 2)}).tolist() == [1] * 4
    with pytest.raises(ValueError, match="at least one floating-point tensor, found none"):
        weights.ravel({"n": torch.tensor(3)})


@given(several(3, dtypes=FLOATS))
def test_dot_and_distance_are_the_sums_and_obey_their_laws(three: list[Weights]) -> None:
    a, b, c = three
    size = 1 + weights.dot(a, a) + weights.dot(b, b) + weights.dot(c, c)
    assert math.isclose(weights.dot(a, b), reference.dot(a, b), abs_tol=1e-12 * size)
    assert math.isclose(weights.distance(a, b), reference.distance(a, b), rel_tol=1e-12)
    assert math.isclose(weights.dot(a, b), weights.dot(b, a), abs_tol=1e-12 * size)
    assert math.isclose(
        weights.distance(a, b) ** 2,
        weights.dot(a, a) - 2 * weights.dot(a, b) + weights.dot(b, b),
        abs_tol=1e-11 * size,
    )
    assert abs(weights.dot(a, b)) <= math.sqrt(weights.dot(a, a) * weights.dot(b, b)) * (1 + 1e-12)
    assert weights.distance(a, a) == 0
    assert weights.distance(a, b) == weights.distance(b, a)
    through = weights.distance(a, b) + weights.distance(b, c)
    assert weights.distance(a, c) <= through * (1 + 1e-12)


def test_dot_and_distance_are_summed_in_float64() -> None:
    a = {"w": torch.full((10_000,), 1e-4), "large": torch.tensor([1e4])}
    zero = {name: torch.zeros_like(x) for name, x in a.items()}
    expected = 1e8 + 1e-4
    assert math.isclose(weights.dot(a, a), expected, rel_tol=1e-13, abs_tol=0)
    assert math.isclose(weights.distance(a, zero) ** 2, expected, rel_tol=1e-13)


def test_dot_and_distance_over_chosen_tensors_and_never_over_counters() -> None:
    a = {"u": torch.tensor([3.0]), "v": torch.tensor([5.0]), "n": torch.tensor(100)}
    b = {"u": torch.tensor([1.0]), "v": torch.tensor([2.0]), "n": torch.tensor(7)}
    assert weights.dot(a, b) == 13
    assert weights.dot(a, b, ["v"]) == 10
    assert weights.distance(a, b, ["u"]) == 2
    with pytest.raises(KeyError, match="w"):
        weights.distance(a, b, ["w"])


def test_the_first_tensor_that_differs_is_named() -> None:
    a = {"u": torch.zeros(2, 3), "v": torch.zeros(4), "w": torch.zeros(1)}
    for b, said in (
        ({"u": a["u"], "w": a["w"]}, r"v \[4\] of A is not in B"),
        ({**a, "x": torch.zeros(5)}, r"x \[5\] of B is not in A"),
        ({**a, "u": torch.ones(3, 2), "v": torch.ones(9)}, r"u is \[2, 3\] in A and \[3, 2\] in B"),
        ({**a, "v": torch.zeros(4).long()}, r"v is torch.float32 in A and torch.int64 in B"),
    ):
        for refuse in (
            lambda b: weights.check_compatible(a, b),
            lambda b: weights.interpolate(a, b, 0.5),
            lambda b: weights.dot(a, b),
            lambda b: weights.distance(a, b),
        ):
            with pytest.raises(IncompatibleError, match=said):
                refuse(b)
    weights.check_compatible(a, {name: x.double() for name, x in reversed(a.items())})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_entries_that_are_not_finite_are_counted_and_named(bad: float) -> None:
    good = {"u": torch.ones(3), "n": torch.tensor(1)}
    weights.check_finite(good, "A")
    w = torch.ones(2, 3)
    w[0, 1] = w[1, 2] = bad
    with pytest.raises(ValueError, match="found 2 NaN or infinite entries of 6 in w of B"):
        weights.check_finite({**good, "w": w}, "B")
