"""Bezier curves: the smooth paths of Garipov et al."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Path, Point, stack_controls

__all__ = ["BezierPath"]


class BezierPath(Path, kind="bezier"):
    """A Bezier curve: a smooth path, pulled towards its bends.

    With the control points `P_0 = A, P_1, …, P_n = B` it is the polynomial of degree `n`

        θ(t) = Σ_k binom(n, k) t^k (1 - t)^(n - k) P_k.

    The `n - 1` inner control points are its *bends*; with one, the curve is a parabola,

        θ(t) = (1 - t)² θ_A + 2 t (1 - t) θ_C + t² θ_B.

    It does not go through its bends; it leaves A towards the first and comes to B from the last.

    Sources: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, "Loss surfaces, mode connectivity, and
    fast ensembling of DNNs" (2018), section 3.

    Args:
        a: the network at `t = 0`.
        b: the network at `t = 1`, of the same architecture.
        bends: the inner control points, networks or weights, in their order; or how many, placed
            evenly on the chord: the curve is then the straight line.

    Raises:
        IncompatibleError: when networks differ in a tensor; names the first.
        ValueError: for fewer than one bend, or weights that are NaN or infinite.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b, c = (mc.build_model("mlp", data, seed=s) for s in (0, 1, 2))
        >>> path = mc.BezierPath(a, b, [c])
        >>> path.coefficients(0.5).tolist()
        [0.25, 0.5, 0.25]
    """

    def __init__(self, a: nn.Module, b: nn.Module, bends: int | Sequence[Point] = 1):
        super().__init__(a, stack_controls(a, b, bends))

    @property
    def degree(self) -> int:
        """One less than there are control points."""
        return len(next(iter(self.control_points.values()))) - 1

    def coefficients(self, t: float) -> Tensor:
        """Bernstein's polynomials, `binom(n, k) t^k (1 - t)^(n - k)`."""
        return torch.tensor(_bernstein(self.degree, t), dtype=torch.float64)

    def coefficient_velocities(self, t: float) -> Tensor:
        """Their derivatives, `n (b_{k-1, n-1}(t) - b_{k, n-1}(t))`."""
        lower = [0.0, *_bernstein(self.degree - 1, t), 0.0]
        slopes = [self.degree * (lower[k] - lower[k + 1]) for k in range(self.degree + 1)]
        return torch.tensor(slopes, dtype=torch.float64)

    def elevated(self) -> BezierPath:
        """The same curve with one more control point: `Q_k = s P_{k-1} + (1 - s) P_k`.

        Here `s = k / (n + 1)`; `Q_0` is A and `Q_{n+1}` is B.
        """
        n = self.degree
        points = {}
        for name, p in self.control_points.items():
            inner = [torch.lerp(p[k], p[k - 1], k / (n + 1)) for k in range(1, n + 1)]
            points[name] = torch.stack([p[0], *inner, p[n]])
        return self._restored(self._template, points, self.knots)


def _bernstein(n: int, t: float) -> list[float]:
    return [math.comb(n, k) * t**k * (1 - t) ** (n - k) for k in range(n + 1)]
