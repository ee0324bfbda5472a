"""Moments seen in parts are those of all rows at once, digit by digit."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcbook.alignment.moments import Moments
from tests import reference


@given(
    st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.integers(1, 13),
    st.sampled_from(["correlation", "dot", "distance"]), st.integers(0, 10**6),
)  # fmt: skip
def test_streamed_moments_are_those_of_all_rows_at_once(
    rows: int, n_a: int, n_b: int, batch: int, cost: str, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    x, y = (generator.normal(generator.normal(0, 5, n), 1, (rows, n)) for n in (n_a, n_b))
    x[:, 0] = 3.7  # a unit that never varies
    moments = Moments()
    for part in range(0, rows, batch):
        moments.add(*(torch.from_numpy(z[part : part + batch]) for z in (x, y)))
    assert moments.count == rows
    expected = reference.similarity(x, y, cost)
    np.testing.assert_allclose(moments.similarity(cost).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_moments_keep_their_digits_far_from_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    y = 0.6 * x + 0.8 * torch.randn(500, 3, generator=generator, dtype=torch.float64)
    near, far = Moments(), Moments()
    for one, other in zip(x.split(50), y.split(50), strict=True):
        near.add(one, other)
        far.add(one * 1e-3 + 900, other * 1e-3 - 700)
    naive = (x * 1e-3 + 900).square().mean(0) - (x * 1e-3 + 900).mean(0).square()
    assert ((naive - 1e-6 * x.var(0, correction=0)).abs() > 1e-10).any()
    torch.testing.assert_close(far.similarity("correlation"), near.similarity("correlation"),
                               rtol=1e-7, atol=1e-7)  # fmt: skip


def test_a_constant_that_is_not_exact_in_binary_has_no_correlation() -> None:
    moments = Moments()
    for _ in range(7):
        moments.add(torch.full((31, 2), 0.1), torch.randn(31, 3))
    assert (moments.similarity("correlation") == 0).all()
    assert moments.similarity("dot").abs().max() > 0


def test_moments_of_half_precision_are_summed_in_double() -> None:
    x = torch.rand(3000, 2).half()
    moments = Moments()
    for part in x.split(1000):
        moments.add(part, part)
    expected = reference.similarity(x.double().numpy(), x.double().numpy(), "dot")
    np.testing.assert_allclose(moments.similarity("dot").numpy(), expected, rtol=1e-12)
