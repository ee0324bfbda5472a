"""How the predictions move along paths: Fisher-Rao lengths on some images, point by point."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..paths.base import Path
from .network_slider import describe_mlp

__all__ = ["Track", "distances", "grid", "track"]

POINTS = 101  # of t in every path, and its knots
CLOSE = 1e-6


class Track(NamedTuple):
    """What was found along a path, at T points, on n images of C classes.

    Attributes:
        t: the points, `[T]`, from 0 to 1.
        loss: mean cross-entropy in nats, `[T]`.
        accuracy: `[T]`.
        length: Fisher-Rao length from A to every point, `[T]`: the sum over the segments of
            `sqrt(mean_x d_x²)`.
        own: for every image the sum of its own distances `d_x`, `[n]`.
        highest: for every image the highest probability of every class along the path, `[n, C]`.
        bound: `sqrt(mean_x d_x(A, B)²)`, no path from A to B is shorter.
    """

    t: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    length: np.ndarray
    own: np.ndarray
    highest: np.ndarray
    bound: float


def distances(p: Tensor, q: Tensor) -> Tensor:
    """Fisher-Rao distances `4 arcsin(‖√p − √q‖ / 2)` of distributions, from their roots.

    Args:
        p: the square roots `√p`, `[n, C]`.
        q: the square roots `√q`, `[n, C]`.

    Returns:
        `[n]`, in [0, π].
    """
    return 4 * torch.asin(((p - q).norm(dim=1) / 2).clamp(max=1))


def grid(path: Path) -> list[float]:
    """Where a path is looked at: its knots and evenly spaced points, in increasing order.

    A point that is a knot but for rounding is left out: speeds are divided by the steps.
    """
    even = (i / (POINTS - 1) for i in range(POINTS))
    inner = {t for t in even if all(abs(t - knot) > CLOSE for knot in path.knots)}
    return sorted({*inner, *path.knots})


def track(path: Path, x: Tensor, y: Tensor) -> Track:
    """Follow the predictions along a path between multi-layer perceptrons, in double precision.

    Args:
        path: whose control points are mixed.
        x: the images, `[n, c, h, w]`, on the CPU.
        y: their labels, `[n]`.
    """
    found = describe_mlp(path.model_at(0.0))
    points = {name: p.detach().cpu().double() for name, p in path.control_points.items()}
    x, ts, rows = x.double(), grid(path), torch.arange(len(y))
    if found["standardize"]:
        mean, std = (points[f"{found['standardize']}.{what}"][0] for what in ("mean", "std"))
        x = (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    x = x.flatten(1)
    losses, accuracies, lengths = [], [], [0.0]
    start = last = highest = own = torch.zeros(0)
    for i, t in enumerate(ts):
        c, h = path.coefficients(t).double(), x
        for layer in found["layers"]:
            weight, bias = (points.get(f"{layer['name']}.{what}") for what in ("weight", "bias"))
            assert weight is not None  # a linear layer has one
            h = h @ torch.tensordot(c, weight, 1).T
            h = h if bias is None else h + c @ bias
            h = h.relu() if layer["relu"] else h
        logs = h.log_softmax(1)
        roots = (logs / 2).exp()
        losses.append(-float(logs[rows, y].mean()))
        accuracies.append(float((h.argmax(1) == y).double().mean()))
        if i == 0:
            start, highest, own = roots, roots, torch.zeros(len(y), dtype=torch.float64)
        else:
            d = distances(last, roots)
            lengths.append(lengths[-1] + float(d.square().mean().sqrt()))
            own, highest = own + d, torch.maximum(highest, roots)
        last = roots
    return Track(
        np.array(ts),
        np.array(losses),
        np.array(accuracies),
        np.array(lengths),
        own.numpy(),
        highest.square().numpy(),
        float(distances(start, last).square().mean().sqrt()),
    )
