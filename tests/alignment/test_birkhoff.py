"""Doubly stochastic matrices: projected, recognised, and taken apart into permutations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mcbook.alignment.birkhoff import birkhoff, is_doubly_stochastic, project_doubly_stochastic

# plain versions -----------------------------------------------------------------------------


def mixed(n: int, count: int, seed: int) -> Tensor:
    """A mean of random permutation matrices."""
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.ones(count))
    return torch.from_numpy(sum(c * np.eye(n)[generator.permutation(n)] for c in shares))


def dense(n: int, seed: int) -> Tensor:
    """A doubly stochastic matrix without zeros: rows and columns scaled in turn."""
    m = np.random.default_rng(seed).exponential(size=(n, n)) + 0.01
    for _ in range(1000):
        m /= m.sum(1, keepdims=True)
        m /= m.sum(0, keepdims=True)
    return torch.from_numpy(m)


def projected(m: list[list[float]], rounds: int) -> list[list[float]]:
    """The alternating projections, entry by entry."""
    n = len(m)
    for _ in range(rounds):
        m = [[max(x, 0.0) for x in row] for row in m]
        rows = [math.fsum(row) - 1 for row in m]
        columns = [math.fsum(row[j] for row in m) - 1 for j in range(n)]
        excess = math.fsum(map(math.fsum, m)) - n
        m = [
            [m[i][j] - rows[i] / n - columns[j] / n + excess / n**2 for j in range(n)]
            for i in range(n)
        ]
    return m


def taken_apart(d: np.ndarray, floor: float) -> list[tuple[float, tuple[int, ...]]]:
    """The greedy decomposition, looking at every permutation; not scaled."""
    d, found = d.copy(), []
    n = len(d)
    while True:
        fits = [
            p for p in itertools.permutations(range(n)) if all(d[i, j] > 0 for i, j in enumerate(p))
        ]
        if not fits:
            return found
        best = max(fits, key=lambda p: math.fsum(d[i, j] for i, j in enumerate(p)))
        c = min(d[i, j] for i, j in enumerate(best))
        found.append((float(c), best))
        for i, j in enumerate(best):
            d[i, j] -= c
        d[d < max(floor, 1e-12)] = 0


def together(terms: list[tuple[float, Tensor]], n: int) -> Tensor:
    """`Σ c_k P_k`."""
    total = torch.zeros(n, n, dtype=torch.float64)
    for c, p in terms:
        total[torch.arange(n), p] += c
    return total


# taken apart --------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 10**6), st.booleans())
def test_the_terms_are_a_mean_of_permutations_and_give_the_matrix(
    n: int, count: int, seed: int, full: bool
) -> None:
    d = dense(n, seed) if full else mixed(n, count, seed)
    before = d.clone()
    terms = birkhoff(d, floor=0.0)
    assert torch.equal(d, before)
    coefficients = [c for c, _ in terms]
    assert min(coefficients) > 0
    assert math.fsum(coefficients) == pytest.approx(1, abs=1e-12)
    assert coefficients == sorted(coefficients, reverse=True)
    assert len(terms) <= (n - 1) ** 2 + 1
    for _, p in terms:
        assert p.dtype == torch.int64
        assert sorted(p.tolist()) == list(range(n))
    assert torch.allclose(together(terms, n), d, rtol=0, atol=1e-9)


@given(st.integers(2, 4), st.integers(0, 10**6), st.sampled_from([0.0, 5e-4, 0.05]))
def test_each_term_is_the_matching_of_the_largest_sum(n: int, seed: int, floor: float) -> None:
    d = dense(n, seed)
    slow = taken_apart(d.numpy(), floor)
    total = math.fsum(c for c, _ in slow)
    fast = birkhoff(d, floor=floor)
    assert len(fast) == len(slow)
    expected = sorted(((c / total, p) for c, p in slow), reverse=True)
    for (c, p), (c_slow, p_slow) in zip(fast, expected, strict=True):
        assert c == pytest.approx(c_slow, abs=1e-9)
        assert tuple(p.tolist()) == p_slow


@given(st.integers(2, 8), st.integers(1, 12), st.integers(0, 10**6))
def test_only_the_largest_terms(n: int, terms: int, seed: int) -> None:
    d = dense(n, seed)
    every = birkhoff(d)
    few = birkhoff(d, terms)
    assert len(few) == min(terms, len(every))
    assert math.fsum(c for c, _ in few) == pytest.approx(1, abs=1e-12)
    total = math.fsum(c for c, _ in every[:terms])
    for (c, p), (c_all, p_all) in zip(few, every, strict=False):
        assert c == pytest.approx(c_all / total, rel=1e-9)
        assert torch.equal(p, p_all)


def test_what_the_floor_leaves_out_is_small() -> None:
    for seed in range(5):
        d = dense(12, seed)
        fine, coarse = birkhoff(d, floor=5e-4), birkhoff(d, floor=0.02)
        assert (together(fine, 12) - d).abs().max() < 12 * 5e-4
        assert (together(coarse, 12) - d).abs().max() < 12 * 0.02
        assert len(coarse) < len(fine) < len(birkhoff(d, floor=0.0))


def test_a_permutation_matrix_is_one_term_and_the_uniform_matrix_n() -> None:
    p = torch.tensor([2, 0, 3, 1])
    ((c, found),) = birkhoff(torch.eye(4)[p])
    assert c == 1
    assert torch.equal(found, p)
    uniform = birkhoff(torch.full((5, 5), 0.2))
    assert [c for c, _ in uniform] == pytest.approx([0.2] * 5)


def test_entries_below_the_floor_count_at_first() -> None:
    """In a wide space every entry of the uniform matrix is small."""
    n = 60
    terms = birkhoff(torch.full((n, n), 1 / n, dtype=torch.float64), 3, floor=0.03)
    assert len(terms) == 1


def test_a_matrix_as_the_projection_leaves_it() -> None:
    generator = torch.Generator().manual_seed(0)
    d = project_doubly_stochastic(torch.rand(8, 8, generator=generator), 200)
    assert d.dtype == torch.float32
    assert (together(birkhoff(d), 8) - d).abs().max() < 8 * 5e-4


@pytest.mark.parametrize(
    ("d", "options", "message"),
    [
        (torch.eye(3)[:2], {}, r"square matrices \[..., n, n\], found \[2, 3\]"),
        (torch.eye(3).repeat(2, 1, 1), {}, r"one doubly stochastic matrix.*found \[2, 3, 3\]"),
        (2 * torch.eye(3), {}, "doubly stochastic matrix"),
        (torch.full((3, 3), math.nan), {}, "doubly stochastic matrix"),
        (torch.tensor([[1.5, -0.5], [-0.5, 1.5]]), {}, "doubly stochastic matrix"),
        (torch.eye(3), {"terms": 0}, "at least one term, found 0"),
        (torch.eye(3), {"floor": 1.0}, r"a floor in \[0, 1\), found 1.0"),
        (torch.eye(3), {"floor": -0.1}, r"a floor in \[0, 1\), found -0.1"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(d: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        birkhoff(d, **options)


# projected ----------------------------------------------------------------------------------


@given(st.integers(1, 7), st.integers(0, 10**6), st.integers(1, 30))
def test_the_projection_is_the_plain_one(n: int, seed: int, rounds: int) -> None:
    m = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    before = m.clone()
    found = project_doubly_stochastic(m, rounds)
    assert torch.equal(m, before)
    expected = torch.tensor(projected(m.tolist(), rounds), dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_rows_and_columns_sum_to_one_and_entries_come_to_be_positive() -> None:
    m = torch.randn(6, 16, 16, generator=torch.Generator().manual_seed(0))
    for rounds in (1, 20):
        found = project_doubly_stochastic(m, rounds)
        for axis in (1, 2):
            assert (found.sum(axis) - 1).abs().max() < 1e-6 * 2
    found = project_doubly_stochastic(m.double(), 3000)
    assert is_doubly_stochastic(found, 1e-6)
    assert not is_doubly_stochastic(project_doubly_stochastic(m.double(), 1), 1e-6)


def test_a_doubly_stochastic_matrix_stays() -> None:
    for seed in range(3):
        for d in (mixed(7, 4, seed), dense(7, seed)):
            assert torch.allclose(project_doubly_stochastic(d), d, rtol=0, atol=1e-9)
        once = project_doubly_stochastic(torch.eye(5).double() + mixed(5, 3, seed), 5000)
        assert torch.allclose(project_doubly_stochastic(once), once, rtol=0, atol=1e-9)


def test_many_at_once_are_each_alone_and_gradients_pass() -> None:
    m = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = project_doubly_stochastic(m)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.allclose(found[i, j], project_doubly_stochastic(m[i, j]), atol=1e-14)
    m = m[0, 0].abs().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: project_doubly_stochastic(x, 3), m)


def test_what_is_doubly_stochastic() -> None:
    d = dense(6, 0)
    assert is_doubly_stochastic(d)
    assert is_doubly_stochastic(torch.stack([d, torch.eye(6).double()]))
    for change in ([[1, 1], [0, 0]], [[1, 0], [1, 0]]):  # right in columns or rows only
        assert not is_doubly_stochastic(torch.tensor(change, dtype=torch.float32))
    assert not is_doubly_stochastic(torch.stack([d, 2 * d]))
    low = torch.tensor([[1.01, -0.01], [-0.01, 1.01]])
    assert not is_doubly_stochastic(low)
    assert is_doubly_stochastic(low, atol=0.02)
    assert not is_doubly_stochastic(torch.full((2, 2), math.nan))


def test_what_is_no_square_matrix_is_refused() -> None:
    for function in (project_doubly_stochastic, is_doubly_stochastic):
        for m in (torch.ones(3), torch.ones(2, 3), torch.ones(0, 0)):
            with pytest.raises(ValueError, match="expected square matrices"):
                function(m)
        with pytest.raises(TypeError, match="floating-point numbers, found torch.int64"):
            function(torch.eye(2, dtype=torch.int64))
        with pytest.raises(TypeError, match="a tensor of square matrices, found list"):
            function([[1.0]])
    with pytest.raises(ValueError, match="at least one round, found 0"):
        project_doubly_stochastic(torch.eye(2), 0)
