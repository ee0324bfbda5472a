"""The axes of the plane through three networks, and the grid over it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .. import weights
from ..errors import IncompatibleError, expect
from ..paths.base import Path

__all__ = ["Frame", "axis", "check_triple", "checked_names"]

# a height below this share of the longer side is no plane
_FLAT = 1e-5


class Frame:
    """The axes of the plane through a path's three control points A, C, B.

    Attributes:
        length: the distance of B from A.
        foot: C's coordinate along A to B.
        height: its distance from the line through A and B.

    Args:
        path: with three control points, the second of which is C.
        names: what A, B and C are called in errors.

    Raises:
        ValueError: when the three are on one line.
    """

    def __init__(self, path: Path, names: Sequence[str] = ("A", "B", "C")):
        parameters = [name for name, _ in path.model_at(0.0).named_parameters()]
        self._points = {name: path.control_points[name] for name in parameters}
        uu = uv = vv = size = 0.0
        for points in self._points.values():
            a, c, b = points.reshape(3, -1).double()
            u, v = b - a, c - a
            uu, uv, vv = uu + float(u @ u), uv + float(u @ v), vv + float(v @ v)
            size += float(points.double().square().sum())
        # what rounding the weights alone would make of a point on the line
        epsilon = max(torch.finfo(points.dtype).eps for points in self._points.values())
        rounding = 4 * epsilon * math.sqrt(size)
        self.length, side = math.sqrt(uu), math.sqrt(vv)
        if self.length <= rounding:
            raise ValueError(
                f"expected three networks that span a plane, found {names[0]} and {names[1]} of "
                f"the same parameters"
            )
        self.foot = uv / self.length
        self.height = math.sqrt(self._residual(0.0, self.foot / self.length))
        if self.height <= max(rounding, _FLAT * max(self.length, side)):
            raise ValueError(
                f"expected three networks that span a plane, found {names[2]} on the line through "
                f"{names[0]} and {names[1]}: at a distance of {self.height:.2g} from it, where "
                f"{names[0]} and {names[1]} are {self.length:.4g} apart"
            )

    def coefficients(self, x: float, y: float) -> Tensor:
        """How A, C and B mix at `(x, y)`: float64 `[3]`, summing to one; exact at the three."""
        c = y / self.height
        b = (x - c * self.foot) / self.length
        return torch.tensor([1 - b - c, c, b], dtype=torch.float64)

    def position(self, point: nn.Module | Mapping[str, Tensor]) -> tuple[float, float, float]:
        """The coordinates of the nearest point of the plane, and how far off the plane it is.

        Args:
            point: a network, or weights; only its parameters count.

        Raises:
            IncompatibleError: when a parameter is missing or of another shape.
        """
        given = weights.of(point) if isinstance(point, nn.Module) else point
        for name, points in self._points.items():
            found = list(given[name].shape) if name in given else "nothing"
            if found != list(points.shape[1:]):
                raise IncompatibleError(
                    f"expected weights of the plane's architecture, with {name} "
                    f"{list(points.shape[1:])}, found {found}"
                )
        pu = pv = 0.0
        for name, points in self._points.items():
            a, c, b = points.reshape(3, -1).double()
            p = given[name].reshape(-1).to(a) - a
            pu, pv = pu + float(p @ (b - a)), pv + float(p @ (c - a))
        x = pu / self.length
        y = (pv - x * self.foot) / self.height
        _, share_c, share_b = self.coefficients(x, y).tolist()
        return x, y, math.sqrt(self._residual(share_c, share_b, given))

    def _residual(
        self, share_c: float, share_b: float, point: Mapping[str, Tensor] | None = None
    ) -> float:
        """The squared distance of a point, C if None, from `A + share_c (C-A) + share_b (B-A)`."""
        total = 0.0
        for name, points in self._points.items():
            a, c, b = points.reshape(3, -1).double()
            p = c if point is None else point[name].reshape(-1).to(a)
            apart = (p - a).sub_(c - a, alpha=share_c).sub_(b - a, alpha=share_b)
            total += float(apart @ apart)
        return total


def axis(
    points: int,
    margin: float,
    given: tuple[float, float] | None,
    values: Sequence[float],
    what: str,
) -> np.ndarray:
    """The coordinates of a grid's columns or rows, increasing.

    Args:
        points: how many.
        margin: how far they go beyond `values`, as a share of their extent.
        given: the first and the last, in place of the margin.
        values: what the grid is to cover.
        what: what to call `given` in an error.

    Raises:
        ValueError: for fewer than 2 points, a negative margin, or two numbers that do not increase.
    """
    if points < 2:
        raise ValueError(f"expected at least 2 points, found {points}")
    if not 0 <= margin < math.inf:
        raise ValueError(f"expected a margin of at least 0, found {margin}")
    low, high = min(values), max(values)
    beyond = margin * (high - low)
    low, high = (low - beyond, high + beyond) if given is None else map(float, given)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"expected {what} to be two increasing numbers, found {given}")
    return np.linspace(low, high, points)


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of three networks; a ValueError where they are not three different ones."""
    given = tuple(names)
    if len(given) != 3 or len(set(given)) != 3 or not all(given):
        raise ValueError(f"expected three different names, found {list(given)}")
    return given


def check_triple(models: Sequence[nn.Module], names: Sequence[str]) -> Sequence[str]:
    """The names of three networks, when a plane may go through them.

    Raises:
        TypeError: for something that is no module.
        IncompatibleError: when they are not of one architecture; names the first tensor.
        ValueError: when weights are NaN or infinite; names the first tensor.
    """
    for model in models:
        expect(model, nn.Module, "a torch.nn.Module")
    for name, model in zip(names[1:], models[1:], strict=True):
        try:
            weights.check_compatible(weights.of(models[0]), weights.of(model))
        except IncompatibleError as error:
            raise IncompatibleError(
                f"no plane goes through {names[0]} (called A here) and {name} (B): {error}"
            ) from error
    for name, model in zip(names, models, strict=True):
        weights.check_finite(weights.of(model), name)
    return names
