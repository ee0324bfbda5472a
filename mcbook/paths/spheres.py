"""Variance spheres: where the entries of a tensor have one variance, and how to get there.

The *variance sphere* of a tensor with `d` entries is `{W : Var(W) = v}`, with the variance over the
entries, `Var(W) = Σ (w - mean W)² / d`.  Where the mean is 0 that is the sphere about the origin of
radius `sqrt(d v)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import weights

__all__ = ["arc", "set_variance_", "variance", "variance_spheres"]

# a tensor counts as constant when its deviation is below this part of its mean
_CONSTANT = 1e-6


def variance(tensor: Tensor) -> float:
    """The variance over the entries, `Σ (w - mean)² / d`; in float64, 0 for constant tensors."""
    if tensor.numel() < 2:
        return 0.0
    x = tensor.detach().double()
    spread = float(x.var(correction=0))
    return spread if spread > (_CONSTANT * float(x.mean())) ** 2 else 0.0


def set_variance_(tensors: Sequence[Tensor], targets: Sequence[float]) -> None:
    """Bring tensors to their spheres, in place, keeping mean and direction.

        W ← mean(W) + sqrt(v / Var(W)) (W - mean(W))

    Left as they are: tensors of one entry, constant tensors (no factor gives them a variance), and
    those with target 0 (they would lose what tells their entries apart).

    Sources: the variance correction of Tian et al. (2026); without the ε = 1e-4 that their code
    adds to both variances, which exceeds the variance of wide layers.

    Args:
        tensors: floating point, of any shapes.
        targets: the variance `v ≥ 0` of each.
    """
    for x, v in zip(tensors, targets, strict=True):
        if x.numel() < 2 or v <= 0:
            continue
        mean = x.mean()
        spread = float(x.var(correction=0))
        if spread > (_CONSTANT * float(mean)) ** 2 and spread > 0:
            x.sub_(mean).mul_(math.sqrt(v / spread)).add_(mean)


def arc(a: Tensor, b: Tensor) -> float:
    """The length of the arc about the origin between two tensors, on the mean of their spheres.

        arc(a, b) = ½ (‖a‖ + ‖b‖) arccos(⟨a, b⟩ / (‖a‖ ‖b‖)),   0 if a norm is 0

    Source: Tian et al. (2026), the `β` part of the step.
    """
    x, y = a.detach().reshape(-1).double(), b.detach().reshape(-1).double()
    norms = float(x.norm()), float(y.norm())
    if not all(norms):
        return 0.0
    # of the half angle, exact for equal directions; arccos loses half the digits there
    u, w = x / norms[0], y / norms[1]
    angle = 2 * math.atan2(float((u - w).norm()), float((u + w).norm()))
    return sum(norms) / 2 * angle


def variance_spheres(models: Sequence[torch.nn.Module]) -> pd.DataFrame:
    """The variances of several networks, tensor by tensor.

    Args:
        models: of one architecture.

    Returns:
        A table with a row for each parameter of at least two entries, by name: `entries`; `mean`,
        the mean over the networks of the means; `deviation`, the root of the mean variance;
        `spread`, how much the networks differ: the standard deviation of their variances over their
        mean; and `share`, how much of `‖W‖²` is variance, `d Var(W) / ‖W‖²` (1 where the sphere is
        about the origin).

    Raises:
        IncompatibleError: for networks of different architectures.
        ValueError: for fewer than two networks.
    """
    if len(models) < 2:
        raise ValueError(f"expected at least 2 networks, found {len(models)}")
    for other in models[1:]:
        weights.check_compatible(weights.of(models[0]), weights.of(other))
    rows = {}
    for name, p in models[0].named_parameters():
        if p.numel() < 2:
            continue
        tensors = [dict(m.named_parameters())[name].detach() for m in models]
        found = np.array([variance(x) for x in tensors])
        squares = np.array([float(x.double().square().mean()) for x in tensors])
        rows[name] = {
            "entries": p.numel(),
            "mean": float(np.mean([float(x.double().mean()) for x in tensors])),
            "deviation": math.sqrt(found.mean()),
            "spread": float(found.std(ddof=1) / found.mean()) if found.mean() > 0 else 0.0,
            "share": float((found / squares.clip(1e-300)).mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tensor")
