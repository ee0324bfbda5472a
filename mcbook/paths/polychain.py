"""Polygonal chains: straight pieces that meet in bends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Path, Point, stack_controls

__all__ = ["PolychainPath"]


class PolychainPath(Path, kind="polychain"):
    """Straight pieces from A over the bends to B; it goes through every bend.

    With the knots `0 = t_0 < t_1 < … < t_n = 1` and the control points `P_0 = A, …, P_n = B`,

        θ(t) = (1 - s) P_k + s P_{k+1},    s = (t - t_k) / (t_{k+1} - t_k),    t_k ≤ t < t_{k+1}.

    At a knot the path has two velocities; `velocity` gives the one of the piece that begins there
    (at 1, of the last).

    Sources: Garipov et al. (2018), section 3, with one bend and `t_1 = 1/2`.

    Args:
        a: the network at `t = 0`.
        b: the network at `t = 1`, of the same architecture.
        bends: the inner control points, networks or weights, in their order; or how many, placed
            on the chord: the path is then the straight line.
        knots: where the control points are reached; evenly spaced when None.

    Raises:
        IncompatibleError: when networks differ in a tensor; names the first.
        ValueError: for fewer than one bend, weights that are NaN or infinite, or knots that are
            not one a control point, increasing from 0 to 1.
    """

    def __init__(
        self,
        a: nn.Module,
        b: nn.Module,
        bends: int | Sequence[Point] = 1,
        knots: Sequence[float] | None = None,
    ):
        points = stack_controls(a, b, bends, knots)
        count = len(next(iter(points.values())))
        if knots is None:
            knots = [k / (count - 1) for k in range(count)]
        if len(knots) != count:
            raise ValueError(f"expected {count} knots, one a control point, found {len(knots)}")
        super().__init__(a, points, knots)

    def coefficients(self, t: float) -> Tensor:
        """Two neighbours share the weight; all others are 0."""
        k, s = self._piece(t)
        c = torch.zeros(len(self.knots), dtype=torch.float64)
        c[k], c[k + 1] = 1 - s, s
        return c

    def coefficient_velocities(self, t: float) -> Tensor:
        """`∓ 1 / (t_{k+1} - t_k)` for the ends of the piece."""
        k, _ = self._piece(t)
        rate = 1 / (self.knots[k + 1] - self.knots[k])
        v = torch.zeros(len(self.knots), dtype=torch.float64)
        v[k], v[k + 1] = -rate, rate
        return v

    def elevated(self) -> PolychainPath:
        """The same path with one more control point: in the middle of the piece of most `t`."""
        gaps = [b - a for a, b in zip(self.knots, self.knots[1:], strict=False)]
        return self.with_knot(self.knots[k := gaps.index(max(gaps))] + gaps[k] / 2)

    def with_knot(self, t: float) -> PolychainPath:
        """The same path with one more control point, the one at `t`.

        Raises:
            ValueError: for a `t` outside (0, 1), or one that is a knot already.
        """
        if not 0 < t < 1 or t in self.knots:
            raise ValueError(f"expected a t inside (0, 1) that is no knot, found {t}")
        k, _ = self._piece(t)
        new = self.at(t)
        points = {
            name: torch.cat([p[: k + 1], new[name][None], p[k + 1 :]])
            for name, p in self.control_points.items()
        }
        knots = [*self.knots[: k + 1], t, *self.knots[k + 1 :]]
        return PolychainPath._restored(self._template, points, knots)

    def _piece(self, t: float) -> tuple[int, float]:
        """The piece in which `t` lies, and how much of it is behind."""
        k = min(bisect_right(self.knots, t), len(self.knots) - 1) - 1
        return k, (t - self.knots[k]) / (self.knots[k + 1] - self.knots[k])
