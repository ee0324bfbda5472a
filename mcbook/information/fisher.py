"""How long a path is in the space of predictive distributions.

A network at weights `θ` says `p_θ(y | x)`.  The Fisher metric on weights is the pull-back of the
Fisher-Rao metric on distributions, averaged over inputs:

    G(θ) = E_x E_{y ~ p} [ ∇ log p ∇ log pᵀ ] = E_x [ Jᵀ (diag p - p pᵀ) J ],    J = ∂z / ∂θ,

with the logits `z`.  The length of a path is `∫ √(θ'ᵀ G θ') dt`.  It is computed without `G`: from
the distributions at the nodes of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, jvp

from ..batch_statistics import with_batch_statistics
from ..errors import expect
from ..normalization import has_batch_norm
from ..normalized import Normalized, check_normalization
from ..paths.base import Path
from .distances import fisher_distance, js_divergence, log_probabilities

__all__ = ["fisher_energy", "fisher_length", "fisher_speed", "js_length", "nodes_of", "said_along"]


def nodes_of(path: Path, points: int) -> list[float]:
    """The uniform grid on [0, 1] together with the path's knots.

    Raises:
        TypeError: when `path` is not a Path.
        ValueError: for fewer than 2 points.
    """
    expect(path, Path, "a path, such as LinearPath(a, b)")
    if points < 2:
        raise ValueError(f"expected at least 2 points, found {points}")
    # a grid point that is a knot but for its last bit would be a step of no time
    grid, knots = np.linspace(0, 1, points), np.array(path.knots)
    apart = np.abs(grid[:, None] - knots).min(1) > 1e-12
    return sorted([*grid[apart].tolist(), *path.knots])


def said_along(
    path: Path,
    x: Tensor,
    nodes: Sequence[float],
    normalization: str | None = None,
    statistics: Tensor | None = None,
    batch_size: int = 2048,
) -> Iterator[Tensor]:
    """`log p(y | x)` of the networks at the nodes, one after the other: `[n, classes]`, float64.

    Args:
        path: the networks are on it.
        x: images.
        nodes: the `t`.
        normalization: see `mcbook.profile`.
        statistics: the images on which statistics are re-estimated; `x` when None.
        batch_size: how many images at once.
    """
    device = next(iter(path.control_points.values())).device
    x = x.to(device)
    images = x if statistics is None else statistics.to(device)
    way = check_normalization(normalization, path.model_at(0.0))
    networks = Normalized(path, way, images)
    for t in nodes:
        yield log_probabilities(networks.at(t)[0], x, batch_size)


def fisher_length(
    path: Path,
    x: Tensor,
    points: int = 61,
    normalization: str | None = None,
    statistics: Tensor | None = None,
    batch_size: int = 2048,
) -> float:
    """The Fisher-Rao length of a path in the space of predictive distributions.

    With the nodes `t_0 = 0 < … < t_N = 1` (a uniform grid and the path's knots) it is the sum of
    the exact distances between neighbours,

        L = Σ_i √( E_x[ d(p_i(x), p_{i+1}(x))² ] ),    d(p, q) = 2 arccos Σ_y √(p_y q_y).

    It is never more than the length `∫ √(θ'ᵀ G θ') dt` of the path itself, grows to it as nodes
    are added, and is never less than `fisher_lower_bound` of the ends.

    Args:
        path: any path.
        x: the inputs of the mean, `[n, c, h, w]`: a fixed set.  (A mean over minibatches would be
            biased, since the square root is concave.)
        points: of the uniform grid.
        normalization: what to do with batch-norm statistics: see `mcbook.profile`.
        statistics: the images on which they are re-estimated; `x` when None.
        batch_size: how many images at once; the result does not depend on it.

    Returns:
        The length, in radians on a sphere of radius 2; summed in float64.  Exactly 0 for a path
        whose control points are equal.

    Raises:
        TypeError: when `path` is not a Path.
        ValueError: for fewer than 2 points, or no images.
        FloatingPointError: when a network on the path gives NaN.

    Source: Tan, Long, Zhao, Laine, "Geodesic mode connectivity" (2023), where `√8 Σ √(E_x JSD)`
    stands for it (`js_length`).
    """
    how = (normalization, statistics, batch_size)
    return math.fsum(math.sqrt(s) for _, s in _squares(path, x, points, _fisher_squared, *how))


def fisher_energy(
    path: Path,
    x: Tensor,
    points: int = 61,
    normalization: str | None = None,
    statistics: Tensor | None = None,
    batch_size: int = 2048,
) -> float:
    """The energy of a path, `∫ θ'ᵀ G θ' dt`, as `Σ_i E_x[ d(p_i, p_{i+1})² ] / (t_{i+1} - t_i)`.

    Never less than the square of `fisher_length` with the same nodes, and equal to it if and only
    if the path goes at constant speed (Cauchy-Schwarz).  (Physicists put 1/2 before it.)

    Args and errors: as for `fisher_length`.
    """
    how = (normalization, statistics, batch_size)
    return math.fsum(s / dt for dt, s in _squares(path, x, points, _fisher_squared, *how))


def js_length(
    path: Path,
    x: Tensor,
    points: int = 61,
    normalization: str | None = None,
    statistics: Tensor | None = None,
    batch_size: int = 2048,
) -> float:
    """The length in Jensen-Shannon distances, `Σ_i √( E_x JSD(p_i(x), p_{i+1}(x)) )`.

    Times √8 it comes near `fisher_length` as nodes are added, from below.  With few nodes it can
    fall under `fisher_lower_bound`: its own lower bound is `js_lower_bound`.

    Args and errors: as for `fisher_length`.

    Source: Tan et al. (2023), the length they plot.
    """
    how = (normalization, statistics, batch_size)
    return math.fsum(math.sqrt(s) for _, s in _squares(path, x, points, js_divergence, *how))


def _fisher_squared(lp: Tensor, lq: Tensor) -> Tensor:
    return fisher_distance(lp, lq).square()


def _squares(
    path: Path,
    x: Tensor,
    points: int,
    squared: Callable[[Tensor, Tensor], Tensor],
    normalization: str | None,
    statistics: Tensor | None,
    batch_size: int,
) -> Iterator[tuple[float, float]]:
    """`t_{i+1} - t_i` and `E_x squared(p_i, p_{i+1})` of every step."""
    nodes = nodes_of(path, points)
    said = said_along(path, x, nodes, normalization, statistics, batch_size)
    for (s, t), (lp, lq) in zip(pairwise(nodes), pairwise(said), strict=True):
        yield t - s, float(squared(lp, lq).mean())


def fisher_speed(path: Path, x: Tensor, t: float, batch_size: int = 2048) -> float:
    """How fast the predictions change at `t`: `√(θ'ᵀ G θ')`, exactly, by forward differentiation.

    With the logits `z` and their derivative `dz = J θ'` along the path,

        θ'ᵀ G θ' = E_x [ Σ_y p_y dz_y² - (Σ_y p_y dz_y)² ],

    the variance of `dz` under `p`: no step size, no grid, no matrix `G`.

    Args:
        path: any path.  What is not trained but differs between the control points moves, too.
        x: the inputs of the mean.
        t: where, in [0, 1]; at a knot, on the piece that begins there.
        batch_size: how many images at once.  With batch norm all are taken at once: every network
            on the path has the statistics of `x`, which move with it.

    Returns:
        The speed, in the unit of `fisher_length` per unit of `t`; the network runs in float64.

    Raises:
        TypeError: when `path` is not a Path.
        ValueError: for a `t` outside [0, 1], or no images.
    """
    expect(path, Path, "a path, such as LinearPath(a, b)")
    if len(x) == 0:
        raise ValueError("expected at least one image, found none")
    model = path.model_at(t).double()
    if has_batch_norm(model):
        model, batch_size = with_batch_statistics(model), len(x)
    own = model.state_dict()
    moving = {n: v.double() for n, v in path.velocity(t).items() if n in own}
    here = {n: own[n] for n in moving}
    x = x.to(next(iter(here.values())).device).double()

    total = 0.0
    with torch.no_grad():
        for batch in x.split(batch_size):

            def logits(state: dict[str, Tensor], batch: Tensor = batch) -> Tensor:
                # tied weights stand in it under each of their names
                return functional_call(model, state, (batch,), tie_weights=False)

            z, dz = jvp(logits, (here,), (moving,))[:2]
            total += float(logit_speed_squared(z, dz).sum())
    return math.sqrt(total / len(x))


def logit_speed_squared(z: Tensor, dz: Tensor) -> Tensor:
    """The variance of `dz` under `softmax(z)`: the squared Fisher speed of each distribution.

    Args:
        z: logits, `[..., classes]`.
        dz: their derivatives.

    Returns:
        `[...]`, at least 0.
    """
    p = z.softmax(-1)
    mean = (p * dz).sum(-1, keepdim=True)
    return (p * (dz - mean).square()).sum(-1)
