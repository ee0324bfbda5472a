"""The straight line between two networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Path, _checked, stack_endpoints
from .bezier import BezierPath

__all__ = ["LinearPath"]


class LinearPath(Path, kind="linear"):
    """The straight line `θ(t) = (1 - t) θ_A + t θ_B`.

    Args:
        a: the network at `t = 0`.
        b: the network at `t = 1`, of the same architecture.

    Raises:
        IncompatibleError: when the networks differ in a tensor; names the first.
        ValueError: when weights are NaN or infinite.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, seed=s) for s in (0, 1))
        >>> path = mc.LinearPath(a, b)
        >>> bool((path.at(1.0)["output.bias"] == b.output.bias).all())
        True
    """

    def __init__(self, a: nn.Module, b: nn.Module):
        super().__init__(a, stack_endpoints(a, b))

    def coefficients(self, t: float) -> Tensor:
        """`(1 - t, t)`."""
        return torch.tensor([1 - t, t], dtype=torch.float64)

    def coefficient_velocities(self, t: float) -> Tensor:
        """`(-1, 1)`."""
        return torch.tensor([-1.0, 1.0], dtype=torch.float64)

    def elevated(self) -> BezierPath:
        """The same line as a parabola whose bend is the midpoint."""
        points = {
            name: torch.stack([p[0], torch.lerp(p[0], p[1], 0.5), p[1]])
            for name, p in self.control_points.items()
        }
        return BezierPath._restored(self._template, points, self.knots)

    def at(self, t: float) -> dict[str, Tensor]:
        """The weights at `t`; with `torch.lerp`, so that equal ends stay exactly equal between."""
        t = _checked(t)
        return self._ordered(
            {name: torch.lerp(p[0], p[1], t) for name, p in self.control_points.items()}
        )
