"""Doubly stochastic matrices: the projection onto them, and the permutations they are made of."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import expect

__all__ = ["birkhoff", "is_doubly_stochastic", "project_doubly_stochastic"]


def project_doubly_stochastic(m: Tensor, rounds: int = 20) -> Tensor:
    r"""Bring square matrices near the doubly stochastic ones, by alternating projections.

    Each round projects onto the matrices without negative entries, and then onto those whose rows
    and columns sum to one, where `r` and `c` are the sums of rows and columns and `s` that of all:

    .. math::

        M \leftarrow \max(M, 0), \qquad
        M \leftarrow M - \frac{(r - 1) 1^\top}{n} - \frac{1 (c - 1)^\top}{n}
            + \frac{s - n}{n^2} 1 1^\top .

    Each of the two is the nearest point; what they come to in turn lies in both sets, but need not
    be the nearest point there.  The sums are right up to rounding after any number of rounds,
    since these come last; entries may still be a little negative, less with more rounds.  A doubly
    stochastic matrix stays as it is, up to rounding.  Gradients pass.

    Sources: Tatro et al., "Optimizing mode connectivity via neuron alignment" (2020), section on
    proximal alternating minimisation.

    Args:
        m: `[..., n, n]`, floating point.
        rounds: how many, from 1.

    Returns:
        A new tensor of the same shape.

    Raises:
        TypeError: for something that is no tensor of floating-point numbers.
        ValueError: for matrices that are not square, or fewer than one round.
    """
    _square(m)
    if rounds < 1:
        raise ValueError(f"expected at least one round, found {rounds}")
    n = m.shape[-1]
    for _ in range(rounds):
        m = m.clamp_min(0)
        rows = (m.sum(-1, keepdim=True) - 1) / n
        columns = (m.sum(-2, keepdim=True) - 1) / n
        m = m - rows - columns + rows.mean(-2, keepdim=True)
    return m


def is_doubly_stochastic(m: Tensor, atol: float = 1e-6) -> bool:
    """Whether no entry is negative, and all rows and columns sum to one.

    Args:
        m: `[..., n, n]`, floating point; all matrices must be.
        atol: how far below zero an entry may be, and how far from one a sum.

    Raises:
        TypeError: for something that is no tensor of floating-point numbers.
        ValueError: for matrices that are not square.
    """
    _square(m)
    m = m.detach().double()
    sums = torch.cat([m.sum(-1), m.sum(-2)], -1)
    return bool((m >= -atol).all() and ((sums - 1).abs() <= atol).all())


def birkhoff(
    d: Tensor, terms: int | None = None, floor: float = 5e-4
) -> list[tuple[float, Tensor]]:
    r"""Write a doubly stochastic matrix as a mean of permutations, greedily.

    By the theorem of Birkhoff and von Neumann,

    .. math::

        D = \sum_k c_k P_k, \qquad c_k > 0, \quad \sum_k c_k = 1 .

    What is left of `D` always has a perfect matching on its nonzero entries.  The one of the
    largest sum is taken, with its smallest entry as coefficient; this is subtracted, and an entry
    becomes zero, so that there are at most `(n - 1)² + 1` terms.  What then is below `floor` is
    set to zero too, and the process ends when no matching is left.  So the mean of the terms is
    `D` up to about `n floor`; with `floor=0`, up to rounding.

    Sources: Tatro et al., "Optimizing mode connectivity via neuron alignment" (2020), section on
    proximal alternating minimisation.

    Args:
        d: `[n, n]`, doubly stochastic to 1e-3; negative entries count as zero.
        terms: only so many terms, those of the largest coefficients; all when None.
        floor: entries below it do not count, once something has been subtracted.

    Returns:
        Pairs of a coefficient and a permutation (int64 `[n]` on the CPU: slot `i` takes unit
        `p[i]`, the matrix has `P[i, p[i]] = 1`), the largest coefficient first; the coefficients
        are scaled to sum to one.

    Raises:
        TypeError: for something that is no tensor of floating-point numbers.
        ValueError: for a matrix that is not doubly stochastic, fewer than one term, or a floor
            outside [0, 1).
    """
    _square(d)
    if terms is not None and terms < 1:
        raise ValueError(f"expected at least one term, found {terms}")
    if not 0 <= floor < 1:
        raise ValueError(f"expected a floor in [0, 1), found {floor}")
    if d.ndim != 2 or not is_doubly_stochastic(d, 1e-3):
        raise ValueError(
            f"expected one doubly stochastic matrix (entries from 0, rows and columns that sum to "
            f"1, all to 1e-3), found {list(d.shape)} numbers that are not one"
        )
    rest = d.detach().cpu().double().clamp_min(0).numpy()
    slots = np.arange(len(rest))
    # of rounding alone, where the floor is zero
    least = max(floor, 1e-12)
    found: list[tuple[float, np.ndarray]] = []
    left = 1.0
    while left > 0:
        enough = terms is not None and len(found) >= terms
        if enough and left <= sorted((c for c, _ in found), reverse=True)[(terms or 1) - 1]:
            break  # every coefficient to come is smaller than all that are kept
        try:
            _, units = linear_sum_assignment(np.where(rest > 0, -rest, np.inf))
        except ValueError:  # no matching is left
            break
        c = float(rest[slots, units].min())
        found.append((c, units))
        rest[slots, units] -= c
        rest[rest < least] = 0
        left = float(rest.sum(1).max())
    if not found:
        raise ValueError(
            "expected a doubly stochastic matrix, found one without a matching on its nonzero "
            "entries"
        )
    found.sort(key=lambda pair: -pair[0])
    kept = found[:terms]
    total = sum(c for c, _ in kept)
    return [(c / total, torch.from_numpy(units.astype(np.int64))) for c, units in kept]


def _square(m: Tensor) -> None:
    expect(m, Tensor, "a tensor of square matrices")
    if not m.is_floating_point():
        raise TypeError(f"expected floating-point numbers, found {m.dtype}")
    if m.ndim < 2 or m.shape[-1] != m.shape[-2] or not m.shape[-1]:
        raise ValueError(f"expected square matrices [..., n, n], found {list(m.shape)}")
