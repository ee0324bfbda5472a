"""Loss and accuracy along a curve with one bend, measured or read off a plane."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..analysis.planes import LossPlane
from ..analysis.profiles import Profile
from ..errors import expect
from ..paths.base import Path
from .network_slider import describe_mlp

__all__ = ["Along", "measured", "mixture_losses", "read_off"]

POINTS = 61  # of t, as the page has them along a curve at rest
LEAST = 1e-12  # a loss of zero has no logarithm


class Along(NamedTuple):
    """Losses and accuracies along a path, `[points]` each, in increasing t from 0 to 1."""

    t: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray

    @property
    def barrier(self) -> float:
        """`max_t [L(t) - ((1 - t) L(0) + t L(1))]`, in nats."""
        chord = (1 - self.t) * self.loss[0] + self.t * self.loss[-1]
        return max(0.0, float((self.loss - chord).max()))

    @property
    def mean(self) -> float:
        """The mean of the loss over t, in nats, by the trapezoidal rule."""
        return float((np.diff(self.t) * (self.loss[1:] + self.loss[:-1])).sum() / 2)

    @classmethod
    def of(cls, given: Profile, split: str) -> Along:
        """What a profile has of a split.

        Raises:
            TypeError: for something that is no profile.
            UnknownNameError: when that split was not measured.
        """
        expect(given, Profile, "a profile, as mc.profile gives it")
        loss, accuracy = (given._values(split, what) for what in ("loss", "accuracy"))
        return cls(given.table["t"].to_numpy(), loss, accuracy)


def mixture_losses(
    path: Path, x: Tensor, y: Tensor, coefficients: Iterable[Sequence[float]]
) -> np.ndarray:
    """Loss and accuracy of mixtures `Σ_i c_i P_i` of a path's control points, on some images.

    What the page computes, in double precision: the first layer is linear in its weights, so that
    its outputs are mixed in place of its weights.

    Args:
        path: between multi-layer perceptrons.
        x: the images, `[n, c, h, w]`, on the CPU.
        y: their labels.
        coefficients: the `c` of every mixture, one a control point, summing to one.

    Returns:
        A row (mean cross-entropy in nats, accuracy in [0, 1]) for every mixture.
    """
    found = describe_mlp(path.model_at(0.0))
    points = {name: p.detach().cpu().double() for name, p in path.control_points.items()}
    x = x.double()
    if found["standardize"]:
        mean, std = (points[f"{found['standardize']}.{what}"][0] for what in ("mean", "std"))
        x = (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    first, *rest = found["layers"]
    none = torch.zeros(len(next(iter(points.values()))), 1, dtype=torch.float64)
    biases = {one["name"]: points.get(f"{one['name']}.bias", none) for one in found["layers"]}
    firsts = x.flatten(1) @ points[f"{first['name']}.weight"].mT + biases[first["name"]][:, None]
    rows = []
    for c in coefficients:
        shares = torch.as_tensor(c, dtype=torch.float64)
        h = torch.tensordot(shares, firsts, 1)
        h = h.relu() if first["relu"] else h
        for layer in rest:
            weight = torch.tensordot(shares, points[f"{layer['name']}.weight"], 1)
            h = h @ weight.T + shares @ biases[layer["name"]]
            h = h.relu() if layer["relu"] else h
        loss = F.cross_entropy(h, y).item()
        rows.append((loss, (h.argmax(1) == y).double().mean().item()))
    return np.array(rows)


def measured(path: Path, x: Tensor, y: Tensor) -> tuple[Along, Along]:
    """Loss and accuracy on some images along a path with one bend, and along A to B.

    Args:
        path: between multi-layer perceptrons.
        x: the images, `[n, c, h, w]`, on the CPU.
        y: their labels.
    """
    ts = np.array(sorted({*np.linspace(0, 1, POINTS).tolist(), *path.knots}))
    curve = [path.coefficients(t).tolist() for t in ts]
    line = [(1 - t, 0.0, t) for t in ts]
    both = (Along(ts, *mixture_losses(path, x, y, one).T) for one in (curve, line))
    return next(both), next(both)


def read_off(plane: LossPlane, kind: str, straight: bool = False) -> Along:
    """Loss and accuracy along a curve, read off its plane as the page reads them.

    Between the points of the grid the accuracy and the logarithm of the loss are bilinear.

    Args:
        plane: through A, B and the bend, in this order.
        kind: `bezier` or `polychain`.
        straight: whether to take the line from A to B in place of the curve.
    """
    from scipy.interpolate import RegularGridInterpolator

    (_, (length, _), bend) = list(plane.places.values())[:3]
    x, y = (length / 2, 0.0) if straight else bend
    t = np.linspace(0, 1, POINTS)
    c, b = (2 * t * (1 - t), t**2)
    if kind == "polychain":
        c, b = np.minimum(2 * t, 2 - 2 * t), np.maximum(0, 2 * t - 1)
    at = np.stack([c * y, c * x + b * length], axis=1)
    grid = (plane.y, plane.x)
    loss = np.exp(RegularGridInterpolator(grid, np.log(np.maximum(plane.loss, LEAST)))(at))
    return Along(t, loss, RegularGridInterpolator(grid, plane.accuracy)(at))
